"""The commands that train GMMs, one on top of the other, on words made of tones."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from mariana_asr.cli.main import main

RATE = 16000
TONES = {"A": (500, 1500), "B": (900, 2500), "D": (300, 3500), "O": (700, 1000)}
WORDS = {"ba": "B A", "do": "D O", "ado": "A D O", "bod": "B O D"}
SIZES = ("num_leaves=20", "totgauss=30", "num_iters=4", "realign_iters=[2]", "thresh=20")


@pytest.fixture(autouse=True)
def _plain_logging() -> Iterator[None]:
    yield
    logging.getLogger("mariana_asr").handlers.clear()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeeded(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def failed(*arguments: object) -> str:
    """Output of a command that must fail as a user's error does: status 1, no traceback."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``feats`` and ``lang``, and a monophone system, ``mono``."""
    folder = tmp_path_factory.mktemp("training")
    data = folder / "data"
    data.mkdir()
    random = np.random.default_rng(0)
    text = {}
    for number in range(16):
        utterance = f"{('ann', 'bob')[number // 8]}-{number:02}"
        words = random.choice(list(WORDS), size=6).tolist()
        pieces = [np.zeros(RATE // 8)]
        for word in words:
            for phone in WORDS[word].split():
                time = np.arange(int(random.integers(RATE // 16, RATE // 8))) / RATE
                pieces += [sum(np.sin(2 * np.pi * pitch * time) for pitch in TONES[phone]) / 8]
            pieces += [np.zeros(RATE // 16)]
        audio = np.concatenate(pieces)
        audio += random.normal(0, 0.002, len(audio))
        soundfile.write(data / f"{utterance}.wav", audio, RATE)
        text[utterance] = " ".join(words)
    (data / "wav.scp").write_text("".join(f"{u} {data / u}.wav\n" for u in text))
    (data / "text").write_text("".join(f"{u} {words}\n" for u, words in text.items()))
    (data / "utt2spk").write_text("".join(f"{u} {u[:3]}\n" for u in text))
    (folder / "lexicon.txt").write_text("".join(f"{w} {p}\n" for w, p in WORDS.items()))
    succeeded("features", data, folder / "feats", "-j", 1)
    succeeded(
        "lang", folder / "lexicon.txt", folder / "lang", "lm.type=word_loop",
        "position_dependent_phones=false",
    )  # fmt: skip
    mono = ("num_iters=6", "max_iter_inc=4", "totgauss=40", "realign_iters=[1,2,3,4]")
    succeeded("train-mono", folder / "feats", folder / "lang", folder / "mono", "-j", 1, *mono)
    return folder


def train(folder: Path, command: str, source: str, out: str, *options: str) -> Path:
    arguments = (folder / "feats", folder / "lang", folder / source, folder / out)
    output = succeeded(command, *arguments, "-j", 1, *SIZES, *options)
    assert "iteration 3 of 3: log-likelihood" in output
    assert "skipped" not in output
    for file in ("final.mdl", "tree", "ali.1.gz", "front_end.json", "skipped.txt"):
        assert (folder / out / file).exists()
    assert (folder / out / "skipped.txt").read_text() == ""
    return folder / out


def test_the_rungs_of_the_ladder_are_commands(folder: Path) -> None:
    train(folder, "train-deltas", "mono", "tri1")
    assert "Gaussians" in succeeded("info", folder / "tri1/final.mdl")
    lda = ("dim=8", "mllt_iters=[2]", "transform.splice_left=2", "transform.splice_right=2")
    tri2 = train(folder, "train-lda-mllt", "tri1", "tri2", *lda)
    assert (tri2 / "splice_opts").read_text() == "--left-context=2 --right-context=2\n"
    tri3 = train(folder, "train-sat", "tri2", "tri3", "fmllr_iters=[2]", "fmllr.min_count=50")
    assert (tri3 / "final.mat").read_bytes() == (tri2 / "final.mat").read_bytes()
    assert (tri3 / "unadapted.txt").read_text() == ""
    assert (tri3 / "final.alimdl").exists()
    output = succeeded(
        "train-sat", folder / "feats", folder / "lang", tri2, folder / "never", "-j", 1, *SIZES,
        "fmllr.min_count=1e9",
    )  # fmt: skip
    assert "2 of 2 speakers are not adapted (ann, bob)" in output


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        ("train-deltas", "num_leafs=3", "num_leafs: unknown key; did you mean 'num_leaves'?"),
        ("train-deltas", "beam=50", "retry_beam must be above beam (50), or 0 for no retry"),
        ("train-deltas", "questions=nowhere.int", "nowhere.int: no such file"),
        ("train-lda-mllt", "dim=500", "LDA to 500 dimensions of features of 117"),
        ("train-lda-mllt", "transform.delta_order=2", "LDA takes spliced features, not deltas"),
        ("train-sat", "fmllr.update_type=whole", "fmllr.update_type: 'whole' given"),
        ("train-sat", "transform.delta_order=2", "transform: unknown key"),
    ],
)
def test_options_that_cannot_be_are_named(
    folder: Path, tmp_path: Path, command: str, option: str, message: str
) -> None:
    arguments = (folder / "feats", folder / "lang", folder / "mono", tmp_path / "out")
    assert message in failed(command, *arguments, "-j", 1, option)
    assert not (tmp_path / "out" / "final.mdl").exists()


@pytest.mark.parametrize("command", ["train-deltas", "train-lda-mllt", "train-sat"])
def test_what_is_missing_is_named(folder: Path, tmp_path: Path, command: str) -> None:
    feats, lang, mono = (folder / name for name in ("feats", "lang", "mono"))
    output = failed(command, feats, lang, tmp_path, tmp_path / "out", "-j", 1)
    assert "final.mdl: no such file" in output
    assert "Name another directory for the output" in failed(command, feats, lang, mono, mono)
    output = failed(command, folder / "data", lang, mono, tmp_path / "out", "-j", 1)
    assert "no feats.scp" in output
    assert run(command, feats, lang, folder / "nowhere", tmp_path / "out").exit_code == 2
    assert (mono / "final.mdl").exists()
