"""Monophone training: on made-up speech whose boundaries are known, and on AN4."""

import dataclasses
import json
import logging
from itertools import pairwise

import numpy as np
import pytest
from made_speech import phone_accuracy, write_data_dir
from pydantic import ValidationError

from mariana_asr.align.formats.model_io import read_gmm_model, read_tree
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.archives import ArchiveWriter, read_matrix
from mariana_asr.errors import DataError, StageError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.lang.langdir import read_lang

PLAIN = TransformOptions(cmvn="none", norm_means=False)
SHORT = MonoOptions(num_iters=12, max_iter_inc=8, totgauss=60, transform=PLAIN)
FILES = (
    "ali.1.gz cmvn_opts delta_opts final.mdl final.occs front_end.json log.jsonl num_jobs "
    "phones.txt skipped.txt tree"
)


def iterations(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_training_finds_the_boundaries_of_made_up_speech(made, tmp_path):
    train_mono(made.data, made.lang, SHORT, tmp_path / "mono")
    assert sorted(p.name for p in (tmp_path / "mono").iterdir()) == FILES.split()
    model = read_gmm_model(tmp_path / "mono/final.mdl")
    alignments = read_alignments(tmp_path / "mono")
    assert alignments.keys() == made.truth.keys()
    assert phone_accuracy(alignments, made, model.transition_model) > 0.95
    log = iterations(tmp_path / "mono")
    assert [entry["iteration"] for entry in log] == list(range(12))
    assert log[-1]["log_likelihood_per_frame"] > log[0]["log_likelihood_per_frame"] + 2
    assert FrontEnd.load(tmp_path / "mono").dim == model.gmm.dim == 4


def test_the_result_does_not_depend_on_the_number_of_processes(made, tmp_path):
    options = SHORT.model_copy(update={"num_iters": 4})
    for jobs in (1, 2):
        train_mono(made.data, made.lang, options, tmp_path / str(jobs), jobs=jobs)
    for name in ("final.mdl", "final.occs", "tree"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    one, two = read_alignments(tmp_path / "1"), read_alignments(tmp_path / "2")
    assert all((one[utterance] == two[utterance]).all() for utterance in one)


def test_unusable_utterances_are_listed_and_never_end_the_run(made, tmp_path):
    feats, text = dict(made.data.feats), dict(made.data.text)
    empty, missing, short, nan, unsaid = made.data.utterances[:5]
    text[empty] = ""
    del feats[missing]
    text[short] = "bado " * 60
    with ArchiveWriter(tmp_path / "bad") as writer:
        writer.write(nan, np.full((50, 4), np.nan, dtype=np.float32))
    feats[nan] = (tmp_path / "bad.scp").read_text().split()[1]
    del text[unsaid]
    data = dataclasses.replace(made.data, feats=feats, text=text)
    options = SHORT.model_copy(update={"num_iters": 3})
    train_mono(data, made.lang, options, tmp_path / "mono")
    reasons = dict(
        line.split(" ", 1) for line in (tmp_path / "mono/skipped.txt").read_text().splitlines()
    )
    frames = len(made.truth[short])
    assert reasons == {
        empty: "empty transcript",
        missing: "no features",
        short: f"too few frames: {frames}, but its transcript needs 720 or more",
        nan: "NaN or infinite features in 50 of 50 frames, first in frame 0",
        unsaid: "no transcript",
    }
    assert read_alignments(tmp_path / "mono").keys() == made.truth.keys() - reasons.keys()


def test_without_a_usable_utterance_training_fails_and_leaves_no_model(made, tmp_path):
    text = dict.fromkeys(made.data.utterances, "bado " * 100)
    for name, data in {
        "short": dataclasses.replace(made.data, text=text),
        "silent": dataclasses.replace(made.data, text={}),
    }.items():
        with pytest.raises(StageError, match="none of 40 utterances could be used"):
            train_mono(data, made.lang, SHORT, tmp_path / name)
        assert not (tmp_path / name / "final.mdl").exists()
        assert len((tmp_path / name / "skipped.txt").read_text().splitlines()) == 40
        assert not list((tmp_path / name).glob(".*"))


def test_data_without_features_are_refused(made, tmp_path):
    with pytest.raises(DataError, match=r"feats\.scp"):
        train_mono(dataclasses.replace(made.data, feats=None), made.lang, SHORT, tmp_path / "mono")


def test_features_that_never_vary_are_refused(made, tmp_path):
    feats = {u: np.ones((40, 4), dtype=np.float32) for u in made.data.utterances}
    data = write_data_dir(tmp_path / "data", feats, made.data.text, made.data.utt2spk)
    with pytest.raises(StageError, match=r"dimensions \[0, 1, 2, 3\] never vary"):
        train_mono(data, made.lang, SHORT, tmp_path / "mono")


def test_leftovers_of_a_killed_run_are_removed(made, tmp_path):
    (tmp_path / ".passes.dead").mkdir()
    (tmp_path / ".passes.dead/000000.feats.npy").write_text("half")
    train_mono(made.data, made.lang, SHORT.model_copy(update={"num_iters": 1}), tmp_path)
    assert not list(tmp_path.glob(".passes*"))


def test_words_outside_of_the_lexicon_are_reported(made, tmp_path, caplog):
    text = made.data.text | {made.data.utterances[0]: "ba zzz zzz do"}
    data = dataclasses.replace(made.data, text=text)
    with caplog.at_level(logging.WARNING):
        train_mono(data, made.lang, SHORT.model_copy(update={"num_iters": 2}), tmp_path)
    assert "2 words of the transcripts are not in the lexicon" in caplog.text
    assert "zzz (2)" in caplog.text


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValidationError, match="retry_beam must be above beam"):
        MonoOptions(regular_beam=50)
    with pytest.raises(ValidationError, match="there is no model to realign with yet"):
        MonoOptions(realign_iters=(0, 1))
    assert MonoOptions().beams(1).beam == 6
    assert MonoOptions().beams(2).beam == 10


def test_an4_trains_to_the_schedule_of_kaldi(golden, an4, tmp_path):
    lang = read_lang(golden / "an4_kaldi/lang")
    an4 = an4.subset(an4.utterances[:60])
    options = MonoOptions(num_iters=8, realign_iters=(1, 2, 3, 5))
    train_mono(an4, lang, options, tmp_path, jobs=2)
    # The tree depends on the phones alone.
    assert (tmp_path / "tree").read_bytes() == (golden / "an4_kaldi/mono/tree").read_bytes()
    assert str(read_tree(tmp_path / "tree")) == str(read_tree(golden / "an4_kaldi/mono/tree"))
    log = iterations(tmp_path)
    # 104 pdfs; (1000 - 104) // 30 = 29 Gaussians more from each iteration on, where there is
    # enough data to split.
    assert [entry["gaussians"] for entry in log[:2]] == [104, 104]
    added = [b["gaussians"] - a["gaussians"] for a, b in pairwise(log[1:])]
    assert all(abs(count - 29) <= 3 for count in added)
    assert [entry["realigned"] for entry in log] == [i in (1, 2, 3, 5) for i in range(8)]
    likelihoods = [entry["log_likelihood_per_frame"] for entry in log]
    assert likelihoods == sorted(likelihoods)
    occupancy = (tmp_path / "final.occs").read_text().split()[1:-1]
    assert len(occupancy) == 104
    assert sum(map(float, occupancy)) == pytest.approx(log[-1]["frames"], rel=1e-4)
    assert log[-1]["frames"] == sum(len(read_matrix(place)) for place in an4.feats.values())
