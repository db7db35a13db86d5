"""Bad input through the whole command: a clear error, or a counted and listed skip."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner

from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.cli.main import main

RECIPE = """
name: mine
corpus: {train: data/train, dev: data/dev, test: data/test}
features: {sample_frequency: 8000, use_energy: false}
lang: {lexicon: lexicon.txt, lm: {type: ngram, order: 2}}
align: {mono: {totgauss: 40, num_iters: 3, max_iter_inc: 2, realign_iters: [1, 2]}}
model: {hidden_layers: 1, hidden_dim: 32}
train: {schedule: {max_iters: 1}}
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's corpus of synthetic digits: data directories, lexicon and recipe."""
    folder = tmp_path_factory.mktemp("digits")
    voices = ["train_voices=[en-us+m1, en-us+f1, en+m2]", "dev_voices=[en-us+m4]"]
    sizes = ["train_strings=8", "dev_strings=3", "test_strings=3", "snr_db=[15]"]
    words = ["prepare", "espeak_digits", str(folder / "data"), *voices, *sizes]
    done = CliRunner().invoke(main, [*words, "test_voices=[en-us+m6]"])
    assert done.exit_code == 0, done.output
    shutil.move(folder / "data" / "dict" / "lexicon.txt", folder / "lexicon.txt")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def corpus(digits: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil; its tables point at audio of its own."""
    shutil.copytree(digits, tmp_path / "mine")
    for table in (tmp_path / "mine" / "data").glob("*/wav.scp"):
        table.write_text(table.read_text().replace(str(digits), str(tmp_path / "mine")))
    return tmp_path / "mine"


def train(corpus: Path) -> tuple[int, str]:
    words = ["train", str(corpus / "recipe.yaml"), "--exp", str(corpus / "exp"), "-j", "1"]
    result = CliRunner().invoke(main, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def recordings(corpus: Path) -> list[tuple[str, Path]]:
    lines = (corpus / "data" / "train" / "wav.scp").read_text().splitlines()
    return [(line.split()[0], Path(line.split()[1])) for line in lines]


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def test_bad_recordings_are_listed_and_the_rest_is_trained_on(corpus: Path) -> None:
    (cut, cut_file), (stereo, stereo_file), (slow, slow_file), (nan, nan_file), *_ = recordings(
        corpus
    )
    cut_file.write_bytes(cut_file.read_bytes()[:3000])
    soundfile.write(stereo_file, np.zeros((8000, 2)), 8000)
    soundfile.write(slow_file, np.zeros(16000), 16000)
    soundfile.write(nan_file, np.full(8000, np.nan), 8000, subtype="FLOAT")
    edit(corpus / "data/train/text", lambda lines: [*lines[:-1], lines[-1] + " googolplex"])
    status, output = train(corpus)
    assert status == 0, output
    reasons = reasons_in(corpus / "exp/mine/features/train/skipped.txt")
    assert reasons.keys() == {cut, stereo, slow, nan}
    assert "2 channels" in reasons[stereo]
    assert "16000" in reasons[slow]
    assert "8000" in reasons[slow]
    assert "NaN" in reasons[nan]
    assert "googolplex" in (corpus / "exp/mine/log.txt").read_text()
    assert (corpus / "exp/mine/RESULTS").read_text().startswith("%WER")


TRIPHONES = {"num_leaves": 30, "totgauss": 50, "num_iters": 4, "max_iter_inc": 2}
TRIPHONES |= {"realign_iters": [2]}
FMLLR = {"fmllr": {"min_count": 200}}
LADDER = {
    "tri1": TRIPHONES,
    "tri2": {**TRIPHONES, "dim": 15, "mllt_iters": [2]},
    "tri3": {**TRIPHONES, **FMLLR, "fmllr_iters": [2]},
    "labels": FMLLR,
    "pronunciations": {},
    "realign": {},
}
SYSTEMS = ["mono", "tri1", "tri2", "tri3", "dnn", "dnn2"]


def add_brief_speaker(data: Path, speaker: str) -> str:
    """Give a data directory a speaker who says one short word; returns the utterance."""
    first, file = (data / "wav.scp").read_text().splitlines()[0].split()
    samples, rate = soundfile.read(file)
    audio = data.parent / f"{speaker}.wav"
    soundfile.write(audio, samples[: int(0.9 * rate)], rate)
    words = (data / "text").read_text().splitlines()[0].split()
    assert words[0] == first
    utterance = f"{speaker}-1"
    new = {"wav.scp": audio, "utt2spk": speaker, "text": words[1]}
    for table, value in new.items():
        add_line(data / table, f"{utterance} {value}")
    add_line(data / "spk2utt", f"{speaker} {utterance}")
    return utterance


def add_line(path: Path, line: str) -> None:
    edit(path, lambda lines: sorted([*lines, line]))


def reasons_in(path: Path) -> dict[str, str]:
    """Utterances or speakers with the reasons why a stage had no use for them."""
    lines = path.read_text().splitlines()
    return {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in lines}


def test_bad_transcripts_and_brief_speakers_do_not_end_the_ladder(corpus: Path) -> None:
    recipe = yaml.safe_load((corpus / "recipe.yaml").read_text())
    recipe["align"] |= LADDER
    recipe["decode"] = {"fmllr_min_count": 200}
    (corpus / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for name in ("train", "dev", "test"):
        add_brief_speaker(corpus / "data" / name, f"zz{name}")
    (long, _), (empty, _), *_ = recordings(corpus)
    bad = {long: long + " one" * 200, empty: empty}
    edit(
        corpus / "data/train/text",
        lambda lines: [bad.get(line.split()[0], line) for line in lines],
    )
    empty_in_dev = (corpus / "data/dev/text").read_text().split()[0]
    edit(corpus / "data/dev/text", lambda lines: [empty_in_dev, *lines[1:]])

    status, output = train(corpus)
    assert status == 0, output
    experiment = corpus / "exp/mine"
    assert (experiment / "RESULTS").read_text().count("%WER") == 3 * len(SYSTEMS)
    assert f"1 utterance with an empty transcript: {empty}" in output
    for stage in ("mono", "tri1", "tri2", "tri3", "ali/train", "ali_dnn/train"):
        reasons = reasons_in(experiment / stage / "skipped.txt")
        assert reasons.keys() == {long, empty}, stage
        assert reasons[long].startswith("too few frames: "), stage
        assert reasons[empty] == "empty transcript", stage
    assert reasons_in(experiment / "frames/train/skipped.txt").keys() == {long, empty}
    assert reasons_in(experiment / "ali/dev/skipped.txt") == {empty_in_dev: "empty transcript"}
    for stage in ("decode_mono", "decode_tri3", "decode_dnn"):
        # There is nothing wrong with its audio.
        assert (experiment / stage / "dev/skipped.txt").read_text() == ""
    suspects = json.loads((experiment / "ali/train/suspects.json").read_text())
    assert {long, empty} <= {suspect["utterance"] for suspect in suspects["suspects"]}

    for stage, name in (("tri3", "train"), ("ali/train", "train"), ("ali/dev", "dev"),
                        ("decode_tri3/dev", "dev"), ("decode_tri3/test", "test")):  # fmt: skip
        ((speaker, reason),) = reasons_in(experiment / stage / "unadapted.txt").items()
        assert speaker == f"zz{name}", stage
        assert re.fullmatch(r"\d+ frames, of more than 200 wanted", reason), stage
        transforms = dict(kaldiio.load_ark(str(experiment / stage / "trans.1")))
        unit = [np.array_equal(matrix, np.eye(15, 16)) for matrix in transforms.values()]
        assert sum(unit) == 1, stage
        assert np.array_equal(transforms[speaker], np.eye(15, 16)), stage
        assert f"speakers are not adapted ({speaker}); reasons in" in output
    assert "zztrain-1" in read_alignments(experiment / "tri3")
    hypotheses = (experiment / "decode_tri3/test/hyp/10_0.txt").read_text()
    assert "zztest-1" in hypotheses


def spoil_features(data: Path, utterance: str) -> None:
    """Put NaN into the features of one utterance."""
    feats = dict(kaldiio.load_scp(str(data / "feats.scp")))
    feats[utterance] = feats[utterance].copy()
    feats[utterance][3] = np.nan
    kaldiio.save_ark(str(data / "new.ark"), feats, scp=str(data / "feats.scp"))


def test_features_that_are_nan_are_listed_by_every_command(corpus: Path) -> None:
    feats, lang = corpus / "feats", corpus / "lang"
    bad = {}
    for name in ("train", "test"):
        command("features", corpus / "data" / name, feats / name, "sample_frequency=8000")
        bad[name] = (feats / name / "text").read_text().split()[0]
        spoil_features(feats / name, bad[name])
    command("lang", corpus / "lexicon.txt", lang, "lm.type=word_loop")
    options = [f"{key}={value}" for key, value in TRIPHONES.items()]
    mono = ["totgauss=40", "num_iters=3", "max_iter_inc=2", "realign_iters=[1,2]"]
    command("train-mono", feats / "train", lang, corpus / "mono", *mono)
    before = "mono"
    for rung, word, more in (
        ("tri1", "train-deltas", []),
        ("tri2", "train-lda-mllt", ["dim=15", "mllt_iters=[2]"]),
        ("tri3", "train-sat", ["fmllr_iters=[2]"]),
    ):
        command(word, feats / "train", lang, corpus / before, corpus / rung, *options, *more)
        before = rung
    command("align", feats / "train", lang, corpus / "tri3", corpus / "ali")
    command("graph", lang, corpus / "tri3", corpus / "graph")
    command("decode", feats / "test", corpus / "tri3", corpus / "graph", corpus / "decode")
    for out in ("mono", "tri1", "tri2", "tri3", "ali", "decode"):
        ((utterance, reason),) = reasons_in(corpus / out / "skipped.txt").items()
        assert utterance == bad["test" if out == "decode" else "train"], out
        assert reason.startswith("NaN or infinite features in 1 of"), out


def command(*words: object) -> None:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)


def test_an_out_of_vocabulary_word_is_counted_in_the_log(corpus: Path) -> None:
    edit(corpus / "data/train/text", lambda lines: [lines[0] + " googolplex", *lines[1:]])
    status, output = train(corpus)
    assert status == 0, output
    assert "googolplex" in (corpus / "exp/mine/log.txt").read_text()


def spoil(path: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    return lambda corpus: edit(corpus / path, change)


def remove_recording(corpus: Path) -> None:
    recordings(corpus)[0][1].unlink()


def write_latin_1(corpus: Path) -> None:
    path = corpus / "data/train/text"
    path.write_bytes(path.read_bytes().replace(b"one", "\u00e9in".encode("latin-1"), 1))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove_recording, ["wav.scp:1", "--fix"]),
        (
            spoil("data/train/text", lambda lines: lines[1:]),
            ["text: no line for", "--fix"],
        ),
        (spoil("data/train/text", lambda lines: [lines[0], *lines]), ["text:2", "line 1 already"]),
        (spoil("data/train/utt2spk", lambda lines: lines[::-1]), ["utt2spk:2", "sort"]),
        (write_latin_1, ["text:", "UTF-8"]),
        (
            spoil("lexicon.txt", lambda lines: [*lines, "eleven"]),
            ["lexicon.txt:13", "no pron"],
        ),
        (spoil("recipe.yaml", lambda lines: [*lines, "trian: {}"]), ["did you mean 'train'"]),
        (lambda corpus: (corpus / "lexicon.txt").unlink(), ["lexicon.txt: no such lexicon"]),
    ],
)
def test_what_cannot_be_skipped_is_a_clear_error(
    corpus: Path, damage: Callable[[Path], None], expected: list[str]
) -> None:
    damage(corpus)
    status, output = train(corpus)
    assert status == 1
    assert "Traceback" not in output
    for words in expected:
        assert words.lower() in output.lower()
    assert not list((corpus / "exp").glob("mine/*/stage.json")) or "lexicon" in expected[0]


def test_a_lexicon_with_an_unknown_phone_is_told_with_file_and_line(corpus: Path) -> None:
    dictionary = corpus / "dict"
    dictionary.mkdir()
    shutil.move(corpus / "lexicon.txt", dictionary / "lexicon.txt")
    phones = {p for line in (dictionary / "lexicon.txt").read_text().splitlines()
              for p in line.split()[1:]} - {"SIL"}  # fmt: skip
    (dictionary / "silence_phones.txt").write_text("SIL\n")
    (dictionary / "optional_silence.txt").write_text("SIL\n")
    (dictionary / "nonsilence_phones.txt").write_text("\n".join(sorted(phones)) + "\n")
    edit(dictionary / "lexicon.txt", lambda lines: [*lines, "eleven IH L EH V QX"])
    edit(
        corpus / "recipe.yaml",
        lambda lines: [line.replace("lexicon: lexicon.txt", "lexicon: dict") for line in lines],
    )
    status, output = train(corpus)
    assert status == 1
    assert "lexicon.txt:13" in output
    assert "QX" in output
