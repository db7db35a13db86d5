"""Sequence training as part of a recipe: from synthetic digits to its own error rates."""

import json
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner

from mariana_asr.cli.main import main
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.search import LatticeDecoder
from mariana_asr.decode.training_lattices import make_training_lattices
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.sequence.lattice_store import LatticeStore
from mariana_asr.errors import DataError

RECIPE = """
name: digits
corpus:
  preparer: espeak_digits
  train_voices: [en-us+m1, en-us+f1, en+m2]
  dev_voices: [en-us+m4]
  test_voices: [en-us+m6]
  train_strings: 12
  dev_strings: 8
  test_strings: 1
  snr_db: [5]
features: {sample_frequency: 8000, use_energy: false}
lang:
  lm: {type: word_loop, words: [zero, one, two, three, four, five, six, seven, eight, nine]}
align:
  mono: {totgauss: 100, num_iters: 8, max_iter_inc: 5}
model: {hidden_layers: 1, hidden_dim: 64, dropout: 0.0}
train: {schedule: {max_iters: 1}}
sequence:
  learning_rate: 0.0001
  schedule: {epochs: 3}
  lattices: {beam: 10, lattice_beam: 4}
decode: {sets: [dev]}
"""


def command(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequence")
    (folder / "recipe.yaml").write_text(RECIPE)
    command("train", folder / "recipe.yaml", "--exp", folder / "exp", "-j", 1)
    return folder / "exp" / "digits"


def test_the_criterion_on_held_out_lattices_improves(experiment: Path) -> None:
    lines = (experiment / "dnn_seq" / "log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    assert [record["criterion"] for record in log] == ["smbr"] * 4
    losses = [record["held_out_loss"] for record in log]
    assert min(losses[1:]) < 0.97 * losses[0]
    summary = json.loads((experiment / "lattices_seq" / "train" / "lattices.json").read_text())
    assert summary["utterances"] == 36
    assert summary["skipped"] == 0
    # The network's own alignment is among what it takes for possible.
    assert summary["frames_without_reference"] < 0.05 * summary["frames"]
    assert log[1]["frames"] == summary["frames"]


def test_it_is_decoded_and_reported_beside_the_others(experiment: Path) -> None:
    results = json.loads((experiment / "results.json").read_text())
    assert {result["system"] for result in results} == {"mono", "dnn", "dnn_seq"}
    page = (experiment / "report" / "index.html").read_text()
    assert "Share of frames that the lattices expect to be wrong" in page
    assert "arcs" in command("info", experiment / "lattices_seq" / "dev")
    assert "smbr" in command("info", next((experiment / "dnn_seq" / "checkpoints").iterdir()))
    assert command("info", experiment / "dnn_seq")


def test_a_second_run_finds_everything_up_to_date(experiment: Path) -> None:
    recipe = experiment.parents[1] / "recipe.yaml"
    output = command("train", recipe, "--exp", experiment.parent, "--dry-run")
    assert "to run" not in output
    changed = command(
        "train", recipe, "--exp", experiment.parent, "--dry-run", "sequence.criterion=mmi"
    )
    rows = {line.split()[1]: line for line in changed.splitlines() if line.startswith("│")}
    assert "up to date" in rows["lattices_seq"]
    assert "criterion" in rows["dnn_seq"]


def test_utterances_without_a_lattice_are_left_out_and_told(
    experiment: Path, tmp_path: Path
) -> None:
    frames = FrameStore.open(experiment / "frames_seq" / "dev")
    search, calls = LatticeDecoder.search, 0

    def failing(self, scores, where):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise DataError("no path survived the search", where=where)
        return search(self, scores, where)

    options = DecodeOptions(beam=10, lattice_beam=3, acoustic_scale=0.1)
    places = (experiment / "dnn", experiment / "graph_seq", tmp_path)
    with mock.patch.object(LatticeDecoder, "search", failing):
        summary = make_training_lattices(frames, *places, options, alignments="all")
    assert (summary.utterances, summary.skipped) == (7, 1)
    store = LatticeStore.open(tmp_path)
    store.verify()
    store.check(frames)
    assert store.numbers.tolist() == [0, 1, 3, 4, 5, 6, 7]
    name = frames.utterance_names([2])[0]
    assert (tmp_path / "skipped.txt").read_text().startswith(f"{name} no path survived")
    assert json.loads((tmp_path / "lattices.json").read_text())["arcs"] == store.num_arcs
