"""Triphone training on made-up speech whose phones depend on the ones before them."""

import dataclasses
import json
import logging
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from coloured_speech import PLAIN, Coloured, coloured
from made_speech import DIM, phone_accuracy
from pydantic import ValidationError

from mariana_asr.align.alignment import align
from mariana_asr.align.formats.model_io import read_gmm_model
from mariana_asr.align.formats.tree_io import read_tree, tree_to_bytes
from mariana_asr.align.training import iterations as gmm_training
from mariana_asr.align.training import triphone
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.training.triphone import DeltasOptions, train_deltas
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.align.utterances import TransitionScores
from mariana_asr.align.viterbi import ScaleOptions
from mariana_asr.archives import ArchiveWriter, read_matrix, write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import FormatError, RecipeError, StageError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.lang.langdir import read_lang

SHORT = DeltasOptions(
    num_leaves=60,
    thresh=20,
    totgauss=60,
    num_iters=8,
    max_iter_inc=5,
    realign_iters=(2, 4, 6),
    transform=PLAIN,
)
SHORTEST = SHORT.model_copy(update={"num_iters": 3, "realign_iters": (2,)})
FILES = (
    "ali.1.gz cmvn_opts delta_opts final.mdl final.occs front_end.json log.jsonl num_jobs "
    "phones.txt skipped.txt tree"
)
TRUTH = -0.5 * DIM * (1 + math.log(2 * math.pi))
"""Log-likelihood a frame, on average, under the Gaussians of unit variance that made the speech."""


@pytest.fixture(scope="module")
def speech(made, tmp_path_factory) -> Coloured:
    return coloured(made, tmp_path_factory.mktemp("coloured"), colour=2)


@pytest.fixture(scope="module")
def mono(speech, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mono")
    options = MonoOptions(num_iters=9, max_iter_inc=6, totgauss=60, transform=PLAIN)
    train_mono(speech.data, speech.lang, options, folder)
    return folder


@pytest.fixture(scope="module")
def tri(speech, mono, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tri")
    train_deltas(speech.data, speech.lang, mono, SHORT, folder)
    return folder


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def reasons_in(folder: Path) -> dict[str, str]:
    lines = (folder / "skipped.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def with_alignments(mono: Path, folder: Path, alignments: dict[str, np.ndarray]) -> Path:
    """The model with other alignments."""
    shutil.copytree(mono, folder)
    write_int_vectors(folder / "ali.1.gz", alignments.items())
    return folder


def test_phones_in_context_are_modelled_as_they_were_made(speech, mono, tri):
    assert sorted(path.name for path in tri.iterdir()) == FILES.split()
    model = read_gmm_model(tri / "final.mdl")
    alignments = read_alignments(tri)
    assert alignments.keys() == speech.truth.keys()
    before = read_gmm_model(mono / "final.mdl").transition_model
    mono_accuracy = phone_accuracy(read_alignments(mono), speech, before)
    accuracy = phone_accuracy(alignments, speech, model.transition_model)
    assert accuracy > max(mono_accuracy, 0.975)
    tree = read_tree(tri / "tree")
    assert (tree.context_width, tree.central_position) == (3, 1)
    assert tree.num_pdfs == model.gmm.num_pdfs
    # As many Gaussians without context fit far worse; and what is left is the noise.
    first, after = (log_of(folder)[-1] for folder in (mono, tri))
    assert abs(first["gaussians"] - after["gaussians"]) <= 6
    assert first["log_likelihood_per_frame"] < TRUTH - 0.4
    assert after["log_likelihood_per_frame"] == pytest.approx(TRUTH, abs=0.05)
    occupancy = (tri / "final.occs").read_text().split()[1:-1]
    assert sum(map(float, occupancy)) == pytest.approx(after["frames"], rel=1e-4)
    assert FrontEnd.load(tri) == FrontEnd.of(speech.data, PLAIN)


def test_the_log_tells_of_every_iteration(speech, tri):
    log = log_of(tri)
    assert [entry["iteration"] for entry in log] == list(range(1, 8))
    assert [entry["realigned"] for entry in log] == [
        entry["iteration"] in (2, 4, 6) for entry in log
    ]
    likelihoods = [entry["log_likelihood_per_frame"] for entry in log]
    assert likelihoods == sorted(likelihoods)
    assert all(entry["frames"] == sum(map(len, speech.truth.values())) for entry in log)
    assert {entry["failed"] for entry in log} == {0}


def test_no_path_is_better_under_the_model_than_the_alignment_beside_it(speech, tri, tmp_path):
    align(speech.data, speech.lang, tri, tmp_path)
    again, alignments = read_alignments(tmp_path), read_alignments(tri)
    assert again.keys() == alignments.keys()
    model = read_gmm_model(tri / "final.mdl")
    transitions = TransitionScores.of(
        model.transition_model, ScaleOptions(), silence_phone=speech.lang.optional_silence
    )
    for utterance, tids in alignments.items():
        log_likes = model.gmm.log_likelihoods(read_matrix(speech.data.feats[utterance]))
        scores = 0.1 * log_likes[:, transitions.pdfs] + transitions.log_probs
        best, ours = (scores[np.arange(len(tids)), t].sum() for t in (again[utterance], tids))
        assert ours == pytest.approx(best, abs=1e-3)


def test_the_result_does_not_depend_on_the_number_of_processes(speech, mono, tmp_path):
    options = SHORTEST.model_copy(update={"transform": TransformOptions(delta_order=2)})
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        train_deltas(speech.data, speech.lang, mono, options, folder, jobs=jobs)
    for name in ("final.mdl", "final.occs", "tree", "front_end.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    one, two = read_alignments(tmp_path / "1"), read_alignments(tmp_path / "2")
    assert one.keys() == two.keys() == speech.truth.keys()
    assert all(np.array_equal(one[u], two[u]) for u in one)
    assert FrontEnd.load(tmp_path / "1").dim == 3 * DIM


def test_the_first_model_can_be_the_last(speech, mono, tmp_path):
    options = SHORT.model_copy(update={"num_iters": 1})
    train_deltas(speech.data, speech.lang, mono, options, tmp_path)
    # Its Gaussians are split up to the number of leaves wished for, as Kaldi's script does.
    gmm = read_gmm_model(tmp_path / "final.mdl").gmm
    assert gmm.num_pdfs < gmm.num_gaussians == 60
    assert log_of(tmp_path) == []
    assert read_alignments(tmp_path).keys() == speech.truth.keys()


def asked(tree) -> set[tuple[int, ...]]:
    """The sets of phones that a tree asks about, wherever they stand."""
    sets = set()
    for question in re.finditer(rb"SE \x04(.{4})\x04(.{4})", tree_to_bytes(tree), re.DOTALL):
        key, size = (int.from_bytes(number, "little", signed=True) for number in question.groups())
        values = np.frombuffer(tree_to_bytes(tree), "<i4", size, question.end())
        if key >= 0:
            sets.add(tuple(values.tolist()))
    return sets


def test_questions_are_taken_from_a_file_where_one_is_given(speech, mono, tri, tmp_path):
    phones = speech.lang.phones
    given, extra = (phones["A"], phones["B"]), (phones["A"], phones["D"])
    (tmp_path / "questions.int").write_text(" ".join(map(str, given)) + "\n")
    # Those of the lang directory come on top.
    shutil.copytree(speech.lang.path, tmp_path / "lang")
    extra_questions = tmp_path / "lang/phones/extra_questions.int"
    extra_questions.write_text(" ".join(map(str, extra)) + "\n")
    options = SHORTEST.model_copy(update={"questions": tmp_path / "questions.int"})
    lang = read_lang(tmp_path / "lang")
    train_deltas(speech.data, lang, mono, options, tmp_path / "tri")
    assert asked(read_tree(tmp_path / "tri/tree")) == {given, extra}
    assert not asked(read_tree(tri / "tree")) <= {given, extra}


@pytest.mark.parametrize(
    ("content", "message"),
    [("3 99\n", "phone 99, which has no topology"), ("3 A\n", "'A' is no phone id")],
)
def test_questions_about_unknown_phones_are_refused(speech, mono, tmp_path, content, message):
    (tmp_path / "questions.int").write_text(content)
    options = SHORT.model_copy(update={"questions": tmp_path / "questions.int"})
    with pytest.raises(FormatError, match=message):
        train_deltas(speech.data, speech.lang, mono, options, tmp_path / "tri")
    (tmp_path / "questions.int").unlink()
    with pytest.raises(FormatError, match=r"questions\.int: no such file"):
        train_deltas(speech.data, speech.lang, mono, options, tmp_path / "tri")


def test_bad_utterances_never_end_the_run(speech, mono, tmp_path, caplog):
    utterances = speech.data.utterances
    empty, missing, few, nan, unsaid, unaligned, longer, torn = utterances[:32:4]
    feats, text = dict(speech.data.feats), dict(speech.data.text)
    text[empty] = ""
    del feats[missing], text[unsaid]
    text[few] = "bado " * 60
    with ArchiveWriter(tmp_path / "bad") as writer:
        writer.write(nan, np.full((50, DIM), np.nan))
    feats[nan] = (tmp_path / "bad.scp").read_text().split()[1]
    alignments = read_alignments(mono)
    del alignments[unaligned]
    alignments[longer] = np.append(alignments[longer], alignments[longer][-1])
    alignments[torn] = np.roll(alignments[torn], 1)
    source = with_alignments(mono, tmp_path / "mono", alignments)
    data = dataclasses.replace(speech.data, feats=feats, text=text)
    expected = {
        empty: "empty transcript",
        missing: "no features",
        few: f"too few frames: {len(speech.truth[few])}, but its transcript needs 720 or more",
        nan: "NaN or infinite features in 50 of 50 frames, first in frame 0",
        unsaid: "no transcript",
    }
    with caplog.at_level(logging.WARNING):
        train_deltas(data, speech.lang, source, SHORTEST, tmp_path / "tri")
    # Utterances without an alignment to begin with get one in the first realignment.
    assert reasons_in(tmp_path / "tri") == expected
    assert read_alignments(tmp_path / "tri").keys() == set(utterances) - expected.keys()
    assert f"no whole phones are left out of the tree: {torn}" in caplog.text
    assert "triphone training: 35 done, 5 skipped" in caplog.text
    log = log_of(tmp_path / "tri")
    frames = {utterance: len(truth) for utterance, truth in speech.truth.items()}
    lost = sum(frames[u] for u in (empty, missing, nan, unsaid, unaligned, longer, torn))
    assert log[0]["frames"] == sum(frames.values()) - lost
    assert log[0]["failed"] == 3
    found_again = sum(frames[u] for u in (unaligned, longer, torn))
    assert log[1]["frames"] == log[0]["frames"] + found_again - frames[few]
    assert log[1]["failed"] == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("short", "too few frames"),
        ("silent", "no transcript"),
        ("unaligned", "no alignment in"),
        ("longer", r"frames of features, but \d+ in the alignment"),
        ("torn", "its alignment is no sequence of whole phones"),
    ],
)
def test_without_a_usable_utterance_training_fails_and_leaves_no_model(
    speech, mono, tri, tmp_path, bad, reason
):
    alignments = read_alignments(mono)
    data = speech.data.subset(speech.data.utterances[:12])
    if bad == "short":
        data = dataclasses.replace(data, text=dict.fromkeys(data.utterances, "bado " * 40))
    if bad == "silent":
        data = dataclasses.replace(data, text={})
    if bad == "unaligned":
        alignments = {"someone-else": next(iter(alignments.values()))}
    if bad == "longer":
        alignments = {u: np.append(tids, tids[-1]) for u, tids in alignments.items()}
    if bad == "torn":
        alignments = {u: np.full_like(tids, tids[0]) for u, tids in alignments.items()}
    source = with_alignments(mono, tmp_path / "mono", alignments)
    # A model from before does not pass for that of this run.
    shutil.copytree(tri, tmp_path / "tri")
    with pytest.raises(StageError, match="triphone training: none of 12 utterances could be used"):
        train_deltas(data, speech.lang, source, SHORTEST, tmp_path / "tri")
    assert not list((tmp_path / "tri").glob("final.*"))
    assert not list((tmp_path / "tri").glob("ali.*"))
    assert not list((tmp_path / "tri").glob(".*"))
    reasons = reasons_in(tmp_path / "tri")
    assert reasons.keys() == set(data.utterances)
    assert all(re.search(reason, given) for given in reasons.values())


@pytest.mark.parametrize("where", ["compiling", "writing"])
def test_an_interrupted_training_leaves_no_model(speech, mono, tri, tmp_path, monkeypatch, where):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if where == "compiling":
        monkeypatch.setattr(triphone, "convert_pass", interrupt)
    else:
        monkeypatch.setattr(gmm_training, "write_gmm_model", interrupt)
    shutil.copytree(tri, tmp_path / "tri")
    with pytest.raises(KeyboardInterrupt):
        train_deltas(speech.data, speech.lang, mono, SHORTEST, tmp_path / "tri")
    assert not (tmp_path / "tri/final.mdl").exists()
    assert not list((tmp_path / "tri").glob(".*"))


def test_files_of_another_system_do_not_stay(speech, mono, tmp_path):
    for name in ("final.alimdl", "final.mat", "trans.2", "ali.2.gz", "splice_opts"):
        (tmp_path / name).write_text("old")
    train_deltas(speech.data, speech.lang, mono, SHORTEST, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES.split()


def test_a_source_with_other_phones_is_refused(speech, mono, tmp_path):
    shutil.copytree(mono, tmp_path / "mono")
    table = (mono / "phones.txt").read_text().replace("A 3", "AA 3")
    assert "AA 3" in table
    (tmp_path / "mono/phones.txt").write_text(table)
    with pytest.raises(FormatError, match=r"other phones than .*: A, AA"):
        train_deltas(speech.data, speech.lang, tmp_path / "mono", SHORT, tmp_path / "tri")
    assert not (tmp_path / "tri").exists()


def test_a_source_without_a_model_or_of_another_model_is_refused(speech, mono, tmp_path):
    source = tmp_path / "mono"
    shutil.copytree(mono, source)
    alignments = {u: tids + 1000 for u, tids in read_alignments(mono).items()}
    write_int_vectors(source / "ali.1.gz", alignments.items())
    with pytest.raises(FormatError, match="is no transition id"):
        train_deltas(speech.data, speech.lang, source, SHORT, tmp_path / "tri")
    (source / "final.mdl").unlink()
    with pytest.raises(FormatError, match=r"final\.mdl: no such file"):
        train_deltas(speech.data, speech.lang, source, SHORT, tmp_path / "tri")
    with pytest.raises(FormatError, match=r"final\.mdl: no such file"):
        train_deltas(speech.data, speech.lang, tmp_path / "nowhere", SHORT, tmp_path / "tri")


def test_the_output_may_not_be_the_source(speech, mono):
    before = (mono / "final.mdl").read_bytes()
    with pytest.raises(RecipeError, match="Name another directory"):
        train_deltas(speech.data, speech.lang, mono, SHORT, mono)
    assert (mono / "final.mdl").read_bytes() == before


def test_words_outside_of_the_lexicon_are_reported(speech, mono, tmp_path, caplog):
    text = speech.data.text | {speech.data.utterances[0]: "ba zzz zzz do"}
    data: DataDir = dataclasses.replace(speech.data, text=text)
    with caplog.at_level(logging.WARNING):
        train_deltas(data, speech.lang, mono, SHORTEST, tmp_path)
    assert "2 words of the transcripts are not in the lexicon" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 50}, "retry_beam must be above beam"),
        ({"realign_iters": (0, 10)}, "there is no model to realign with yet"),
        ({"num_leaves": 0}, "greater than or equal to 1"),
        ({"totgauss": 0}, "greater than or equal to 1"),
        ({"central_position": 3}, "outside of a window of 3 phones"),
        ({"boost_silence": 0}, "greater than 0"),
        ({"transform": {"delta_order": 2, "splice_left": 1}}, "exclude each other"),
        ({"leaves": 100}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        DeltasOptions(**options)


def test_the_defaults_are_those_of_kaldis_script():
    options = DeltasOptions()
    assert (options.num_iters, options.max_iter_inc, options.realign_iters) == (
        35,
        25,
        (10, 20, 30),
    )
    assert (options.beam, options.retry_beam, options.power) == (10, 40, 0.25)
    assert options.boost_silence == 1
    assert (options.transition_scale, options.acoustic_scale, options.self_loop_scale) == (
        1,
        0.1,
        0.1,
    )
    assert options.transform.delta_order == 2
    assert options.beams().beam == 10
