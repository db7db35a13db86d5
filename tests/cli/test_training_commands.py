"""The commands that train GMMs, one on top of the other, on words made of tones."""

from pathlib import Path

import pytest
from invoking import failed, run, succeeded

SIZES = ("num_leaves=20", "totgauss=30", "num_iters=4", "realign_iters=[2]", "thresh=20")


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
        ("train-lda-mllt", "transform.delta_order=2", "transform: deltas (delta_order) and splic"),
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
