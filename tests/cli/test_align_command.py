"""``mariana-asr align`` as a tool of its own, with each kind of model."""

import json
import re
import shutil
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from invoking import failed, run, succeeded

from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.corpus.datadir import read_table

SIZES = ("num_leaves=20", "totgauss=30", "num_iters=4", "realign_iters=[2]", "thresh=20")
SHIFT = 0.01


@pytest.fixture(scope="module")
def systems(folder: Path) -> Path:
    """The folder with ``sat``, a speaker-adapted system, and ``dnn``, a network."""
    feats, lang, mono = (folder / name for name in ("feats", "lang", "mono"))
    succeeded(
        "train-sat", feats, lang, mono, folder / "sat", "-j", 1, *SIZES,
        "fmllr_iters=[2]", "fmllr.min_count=50",
    )  # fmt: skip
    succeeded(
        "train-nnet", feats, mono, feats, mono, folder / "dnn",
        "model.hidden_layers=1", "model.hidden_dim=32", "train.schedule.max_iters=10",
    )  # fmt: skip
    return folder


def align(folder: Path, model: str, out: Path, *words: object) -> str:
    return succeeded("align", folder / "feats", folder / "lang", folder / model, out, *words)


def test_gmms_align_words_and_phones_with_their_times(systems: Path, tmp_path: Path) -> None:
    output = align(systems, "mono", tmp_path, "-j", 2, "formats=[ctm,textgrid,json]")
    assert re.search(r": 16 utterances aligned, 0 failed, \d+ look suspicious\n", output)
    text = read_table(systems / "feats/text")
    alignments = read_alignments(tmp_path)
    seconds = {u: len(tids) * SHIFT for u, tids in alignments.items()}
    said: dict[str, list[str]] = {}
    ends = dict.fromkeys(text, 0.0)
    for line in (tmp_path / "words.ctm").read_text().splitlines():
        utterance, channel, start, duration, word = line.split()[:5]
        assert channel == "1"
        assert float(start) >= ends[utterance] - 1e-6
        ends[utterance] = float(start) + float(duration)
        assert ends[utterance] <= seconds[utterance] + 1e-6
        said.setdefault(utterance, []).append(word)
    assert {u: " ".join(words) for u, words in said.items()} == text
    # Silence is written in, so phones fill an utterance without a gap.
    phones = [line.split() for line in (tmp_path / "phones.ctm").read_text().splitlines()]
    assert {line[4] for line in phones} == {"A", "B", "D", "O", "SIL"}
    for utterance, whole in seconds.items():
        assert sum(float(p[3]) for p in phones if p[0] == utterance) == pytest.approx(whole)
    lines = (tmp_path / "alignment.jsonl").read_text().splitlines()
    objects = [json.loads(line) for line in lines]
    assert [item["utterance"] for item in objects] == sorted(text)
    assert {p.stem for p in (tmp_path / "textgrid").iterdir()} == text.keys()
    grid = (tmp_path / "textgrid/ann-00.TextGrid").read_text()
    assert grid.startswith('File type = "ooTextFile"')
    assert read_table(tmp_path / "scores.txt").keys() == text.keys()
    assert "alignments" in succeeded("info", tmp_path)


def test_a_speaker_adapted_model_estimates_transforms_or_takes_those_that_are_known(
    systems: Path, tmp_path: Path
) -> None:
    align(systems, "sat", tmp_path / "own", "-j", 1, "fmllr.min_count=50")
    own = kaldiio.load_ark(str(tmp_path / "own/trans.1"))
    assert {speaker: matrix.shape for speaker, matrix in own} == dict.fromkeys(
        ("ann", "bob"), (39, 40)
    )
    # As known ones they give the same alignments, from a directory or as an archive.
    for number, known in enumerate(("own", "own/trans.1")):
        out = tmp_path / f"known{number}"
        align(systems, "sat", out, "-j", 1, "--transforms", tmp_path / known, "beam=9")
        first, again = read_alignments(tmp_path / "own"), read_alignments(out)
        assert all(np.array_equal(first[u], again[u]) for u in first)
        assert not (out / "unadapted.txt").exists()


def test_a_speaker_without_a_transform_is_listed(systems: Path, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    transforms = dict(kaldiio.load_ark(str(systems / "sat/trans.1")))
    kaldiio.save_ark(str(tmp_path / "some/trans.1"), {"ann": transforms["ann"]})
    output = align(systems, "sat", tmp_path / "ali", "--transforms", tmp_path / "some", "-j", 1)
    assert "8 utterances aligned, 8 failed, 8 look suspicious" in output
    skipped = read_table(tmp_path / "ali/skipped.txt")
    assert skipped.keys() == {f"bob-{number:02}" for number in range(8, 16)}
    assert all(reason == "no fMLLR transform of its speaker bob" for reason in skipped.values())


def test_a_folder_of_alignments_is_a_system_of_the_last_model(
    systems: Path, tmp_path: Path
) -> None:
    """What an adapted model leaves there must not make the next one an adapted one."""
    align(systems, "sat", tmp_path, "-j", 1, "fmllr.min_count=1e9")
    assert (tmp_path / "final.alimdl").exists()
    assert read_table(tmp_path / "unadapted.txt").keys() == {"ann", "bob"}
    align(systems, "mono", tmp_path, "-j", 1)
    assert not list(tmp_path.glob("trans.*"))
    assert not (tmp_path / "unadapted.txt").exists()
    assert "16 utterances aligned" in align(systems, str(tmp_path), tmp_path / "again", "-j", 1)
    # A model may be aligned with where it is.
    shutil.copytree(systems / "sat", tmp_path / "sat")
    align(systems, str(tmp_path / "sat"), tmp_path / "sat", "-j", 1, "fmllr.min_count=50")
    assert (tmp_path / "sat/final.alimdl").exists()


def test_a_network_aligns_and_another_one_learns_from_it(systems: Path, tmp_path: Path) -> None:
    output = align(systems, "dnn", tmp_path / "ali", "-j", 1, "prior_scale=0.5")
    assert "16 utterances aligned, 0 failed" in output
    gmm, network = read_alignments(systems / "mono"), read_alignments(tmp_path / "ali")
    same = np.concatenate([gmm[utterance] == network[utterance] for utterance in gmm])
    assert same.mean() > 0.5
    feats = systems / "feats"
    succeeded(
        "train-nnet", feats, tmp_path / "ali", feats, tmp_path / "ali", tmp_path / "second",
        "model.hidden_layers=1", "model.hidden_dim=32", "train.schedule.max_iters=1",
    )  # fmt: skip
    assert (tmp_path / "second/nnet.pt").exists()


def test_an_utterance_that_fails_is_counted_and_listed(systems: Path, tmp_path: Path) -> None:
    shutil.copytree(systems / "feats", tmp_path / "feats")
    text = read_table(tmp_path / "feats/text")
    text |= {"ann-00": "ado " * 200, "ann-01": ""}
    (tmp_path / "feats/text").write_text("".join(f"{u} {words}\n" for u, words in text.items()))
    arguments = (tmp_path / "feats", systems / "lang", systems / "mono", tmp_path / "ali")
    output = succeeded("align", *arguments, "-j", 1)
    assert "14 utterances aligned, 2 failed" in output
    skipped = read_table(tmp_path / "ali/skipped.txt")
    assert skipped.keys() == {"ann-00", "ann-01"}
    assert skipped["ann-00"].startswith("too few frames")
    assert skipped["ann-01"] == "empty transcript"
    assert {"ann-00", "ann-01"} <= set((tmp_path / "ali/suspects.txt").read_text().split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["formats=[ctm,praat]"], "formats.1: 'praat' given"),
        (["beam=50"], "retry_beam must be above beam (50), or 0 for no retry"),
        (["boost_silense=2"], "boost_silense: unknown key; did you mean 'boost_silence'?"),
        (["--transforms", "{folder}/lang"], "lang: no trans.* here"),
        (["--transforms", "{folder}/mono/final.mdl"], "mono/final.mdl"),
    ],
)
def test_what_cannot_be_is_a_clear_error(
    systems: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    arguments = (systems / "feats", systems / "lang", systems / "mono", tmp_path / "ali", "-j", 1)
    assert message in failed("align", *arguments, *(w.format(folder=systems) for w in words))
    assert not (tmp_path / "ali/ali.1.gz").exists()


def test_what_is_missing_is_named(systems: Path, tmp_path: Path) -> None:
    feats, lang, out = systems / "feats", systems / "lang", tmp_path / "ali"
    assert "final.mdl: no such file" in failed("align", feats, lang, tmp_path, out, "-j", 1)
    assert "no feats.scp" in failed("align", systems / "data", lang, systems / "mono", out)
    assert "Is it a lang directory" in failed("align", feats, feats, systems / "mono", out)
    assert run("align", feats, lang, systems / "nowhere", out).exit_code == 2
