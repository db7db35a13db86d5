"""TensorBoard's scalars, read back from the event file."""

import os
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mariana_asr.engine.frames.packing import pack_frames
from mariana_asr.engine.options import CosineOptions, EngineOptions, TrainOptions
from mariana_asr.engine.training import tensorboard
from mariana_asr.engine.training.tensorboard import EVERY_STEPS, Scalars
from mariana_asr.engine.training.totals import Totals
from mariana_asr.engine.training.train import train_network
from mariana_asr.errors import MarianaError, MissingPackageError
from mariana_asr.nnet.dnn import Dnn, DnnOptions


def points(out_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """All points of every curve, none left out as orphaned."""
    read = EventAccumulator(
        str(out_dir / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False
    ).Reload()
    return {tag: [(s.step, s.value) for s in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def totals(steps: int) -> Totals:
    """Of so many steps of 10 frames; each step's loss a frame is 1/10 of its number."""
    return Totals(
        loss=sum(range(1, steps + 1)), measure=5.0 * steps, frames=10 * steps, seconds=2.0 * steps
    )


def write(scalars: Scalars, first: int, last: int) -> None:
    for step in range(first, last + 1):
        scalars.add_steps(step, 1.0 / step, totals(step))


def started(out_dir: Path, step: int | None = None) -> Scalars:
    scalars = Scalars(out_dir, wanted=True)
    scalars.start(step, totals(step or 0))
    return scalars


def test_points_are_means_over_the_steps_since_the_last_ones(tmp_path: Path):
    scalars = started(tmp_path)
    scalars.add_epoch(0, {"epoch": 0, "held_out_loss": 5.5, "held_out_accuracy": 0.25})
    write(scalars, 1, 2 * EVERY_STEPS + 1)
    found = points(tmp_path)
    # A gauss sum of the second hundred steps, a tenth of it a frame.
    assert found["train/loss"][1] == (200, pytest.approx(sum(range(101, 201)) / 1000))
    assert found["train/accuracy"] == [(100, 0.5), (200, 0.5)]
    assert found["train/learning_rate"] == [(100, pytest.approx(0.01)), (200, pytest.approx(0.005))]
    assert found["train/frames_per_second"][0] == (100, 5.0)
    assert found["held_out/loss"] == [(0, 5.5)]
    assert found["held_out/accuracy"] == [(0, 0.25)]


def test_a_resumed_run_goes_on_in_the_same_file_and_repeats_no_step(tmp_path: Path):
    scalars = started(tmp_path)
    write(scalars, 1, 500)
    scalars.add_epoch(500, {"held_out_loss": 2.0})
    # Killed at step 500; the last checkpoint is of step 250.
    write(started(tmp_path, 250), 251, 600)
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == [scalars.path.name]
    assert [step for step, _ in points(tmp_path)["train/loss"]] == [100, 200, 300, 400, 500, 600]
    assert "held_out/loss" not in points(tmp_path)


def test_an_epochs_points_come_once_if_its_checkpoint_was_not_yet_written(tmp_path: Path):
    started(tmp_path).add_epoch(50, {"held_out_loss": 2.0})
    # A checkpoint before the epoch's end was written at the same step.
    started(tmp_path, 50).add_epoch(50, {"held_out_loss": 2.0})
    assert points(tmp_path)["held_out/loss"] == [(50, 2.0)]


@pytest.mark.parametrize("cut", [1, 20])
def test_a_torn_record_is_cut_off(tmp_path: Path, cut):
    scalars = started(tmp_path)
    write(scalars, 1, 300)
    os.truncate(scalars.path, scalars.path.stat().st_size - cut)
    write(started(tmp_path, 250), 251, 400)
    assert [step for step, _ in points(tmp_path)["train/loss"]] == [100, 200, 300, 400]
    # No damage remains for a reader to stumble over.
    assert len(list(EventFileLoader(str(scalars.path)).Load())) == 5


def test_a_new_training_begins_a_new_file(tmp_path: Path):
    write(started(tmp_path), 1, 300)
    write(started(tmp_path), 1, 100)
    assert [step for step, _ in points(tmp_path)["train/loss"]] == [100]


def test_figures_that_are_not_finite_are_left_out(tmp_path: Path):
    started(tmp_path).add_epoch(7, {"held_out_loss": float("nan"), "train_loss": 1.5})
    assert points(tmp_path).keys() == {"epoch/train_loss"}


def test_other_workers_and_those_who_do_not_ask_write_nothing(tmp_path: Path):
    scalars = Scalars(tmp_path, wanted=False)
    scalars.start(None, Totals())
    scalars.add_epoch(0, {"held_out_loss": 1.0})
    write(scalars, 1, 200)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_a_clear_error(tmp_path: Path):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(MarianaError, match="cannot write"):
        started(tmp_path)


@pytest.fixture
def training(tmp_path: Path, utterances):
    stores = [pack_frames(tmp_path / name, utterances(), num_outputs=4) for name in ("t", "h")]
    network = Dnn(DnnOptions(hidden_layers=1, hidden_dim=8, left_context=0, right_context=0), 3, 4)
    options = TrainOptions(minibatch_size=4, schedule=CosineOptions(type="cosine", epochs=2))

    def train(**engine):
        out = tmp_path / "out"
        train_network(network, *stores, options, out, EngineOptions(tensorboard=True, **engine))
        return out

    return train


@pytest.fixture
def utterances():
    def generate():
        rng = np.random.default_rng(0)
        for number in range(20):
            targets = rng.integers(0, 4, 25)
            yield f"u{number}", np.eye(4, 3, dtype=np.float32)[targets], targets

    return generate


def test_a_training_writes_its_curves(training):
    found = points(training(workers=1))
    assert [step for step, _ in found["train/loss"]] == [100, 200]
    assert [step for step, _ in found["held_out/loss"]] == [0, 125, 250]
    assert [step for step, _ in found["epoch/frames_per_second"]] == [125, 250]
    assert not any(tag.startswith("exchange/") for tag in found)


def test_a_missing_package_is_said_before_anything_runs(training, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mariana-asr\[tensorboard\]'"):
        training()
    assert not (tmp_path / "out").exists()
