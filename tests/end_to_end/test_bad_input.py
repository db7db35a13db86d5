"""Bad input through the whole command: a clear error, or a counted and listed skip."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

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
    skipped = (corpus / "exp/mine/features/train/skipped.txt").read_text().splitlines()
    reasons = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in skipped}
    assert reasons.keys() == {cut, stereo, slow, nan}
    assert "2 channels" in reasons[stereo]
    assert "16000" in reasons[slow]
    assert "8000" in reasons[slow]
    assert "NaN" in reasons[nan]
    assert "googolplex" in (corpus / "exp/mine/log.txt").read_text()
    assert (corpus / "exp/mine/RESULTS").read_text().startswith("%WER")


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
