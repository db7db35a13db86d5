"""Weights of the last epochs: those that were not rejected, and the same after any kill."""

import math
from pathlib import Path

import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference
from gloo import run_workers

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    EngineOptions,
    ExponentialOptions,
    NewbobOptions,
    TrainOptions,
)
from mariana_asr.engine.training import loop
from mariana_asr.engine.training.kept_epochs import KeptEpochs, epoch_files, read_epoch
from mariana_asr.engine.training.schedule import Decision, Newbob
from mariana_asr.engine.training.stepping import Stepper
from mariana_asr.engine.training.train import Job, run_job, train_network
from mariana_asr.errors import FormatError
from mariana_asr.nnet.dnn import Dnn, DnnOptions

NETWORK = DnnOptions(
    hidden_layers=1,
    hidden_dim=12,
    left_context=1,
    right_context=1,
    dropout=0.1,
    normalisation="batch",
)
OPTIONS = TrainOptions(
    learning_rate=0.002,
    minibatch_size=64,
    randomizer_size=1000,
    checkpoint_every=9,
    keep_epochs=3,
    schedule=ExponentialOptions(epochs=5),
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrameStore, FrameStore]:
    folder = tmp_path_factory.mktemp("stores")
    return (
        pack_linear_task(folder / "train", seed=1, utterances=20),
        pack_linear_task(folder / "held_out", seed=2, utterances=5),
    )


def train(stores: tuple[FrameStore, FrameStore], out: Path, options: TrainOptions = OPTIONS) -> Dnn:
    network = Dnn(NETWORK, DIM, CLASSES, seed=5)
    train_network(network, *stores, options, out)
    return network


def names(out: Path) -> list[str]:
    return [path.name for path in epoch_files(out / "epochs")]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "epochs").iterdir()}


def test_the_last_epochs_are_kept_and_the_last_one_is_what_was_learnt(stores, tmp_path: Path):
    network = train(stores, tmp_path)
    assert names(tmp_path) == ["epoch-3.ckpt", "epoch-4.ckpt", "epoch-5.ckpt"]
    kept = [read_epoch(path) for path in epoch_files(tmp_path / "epochs")]
    assert [epoch.epoch for epoch in kept] == [3, 4, 5]
    weights = network.state_dict()
    assert kept[2].weights.keys() == weights.keys()
    assert all(torch.equal(kept[2].weights[name], weights[name]) for name in weights)
    assert not torch.equal(kept[1].weights["output.weight"], weights["output.weight"])


def train_together(workers: Workers, stores: tuple[Path, Path], out: Path) -> None:
    network = Dnn(NETWORK, DIM, CLASSES, seed=5)
    run_job(Job(network, *stores, OPTIONS, EngineOptions(), out), workers)


def test_several_workers_keep_what_one_keeps(stores, tmp_path: Path):
    train(stores, tmp_path / "alone")
    folders = tuple(store.directory for store in stores)
    run_workers(train_together, 2, folders, tmp_path / "together")
    assert names(tmp_path / "together") == names(tmp_path / "alone")
    for name in names(tmp_path / "alone"):
        together, alone = (
            read_epoch(tmp_path / run / "epochs" / name).weights for run in ("together", "alone")
        )
        assert relative_difference(together, alone) < 1e-4


def test_none_are_kept_unless_asked_for(stores, tmp_path: Path):
    train(stores, tmp_path, OPTIONS.model_copy(update={"keep_epochs": 0}))
    assert not (tmp_path / "epochs").exists()


def test_epochs_sort_by_their_numbers(tmp_path: Path):
    for number in (10, 9, 100):
        (tmp_path / f"epoch-{number}.ckpt").touch()
    (tmp_path / "epoch-best.ckpt").touch()
    found = [path.name for path in epoch_files(tmp_path)]
    assert found == ["epoch-9.ckpt", "epoch-10.ckpt", "epoch-100.ckpt"]


def test_rejected_epochs_are_not_kept(stores, tmp_path: Path, monkeypatch):
    """The second and the fourth of five epochs are rejected, whatever their losses."""
    update = Newbob.update

    def rejecting(self: Newbob, loss: float) -> Decision:
        decision = update(self, math.inf if self.epoch in (1, 3) else 1.0 / (self.epoch + 1))
        assert decision.accepted == (self.epoch not in (2, 4))
        return decision

    monkeypatch.setattr(Newbob, "update", rejecting)
    schedule = NewbobOptions(max_iters=5, end_halving_impr=-10.0)
    options = OPTIONS.model_copy(update={"schedule": schedule, "keep_epochs": 2})
    train(stores, tmp_path, options)
    assert names(tmp_path) == ["epoch-3.ckpt", "epoch-5.ckpt"]


class _PowerCut(BaseException):
    pass


@pytest.mark.parametrize("step", [4, 12, 25, 47, 61])
def test_a_run_killed_at_any_step_ends_with_the_same_files(
    stores, tmp_path: Path, monkeypatch, step: int
):
    train(stores, tmp_path / "whole")
    take_step, steps = Stepper.step, 0

    def counted(self: Stepper, *arguments):
        nonlocal steps
        steps += 1
        if steps == step:
            raise _PowerCut
        return take_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", counted)
        with pytest.raises(_PowerCut):
            train(stores, tmp_path / "killed")
    train(stores, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["before the state is saved", "before old epochs are removed"])
def test_a_run_killed_at_the_end_of_an_epoch_ends_with_the_same_files(
    stores, tmp_path: Path, monkeypatch, moment: str
):
    train(stores, tmp_path / "whole")
    before_saving = moment == "before the state is saved"
    target, name = (loop, "save_state") if before_saving else (KeptEpochs, "tidy")
    call = getattr(target, name)

    def cut(*arguments):
        history = arguments[0].history if before_saving else arguments[1]
        at_end = not before_saving or arguments[0].next_step == 0
        if at_end and history[-1]["epoch"] == 4:
            raise _PowerCut
        return call(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, cut)
        with pytest.raises(_PowerCut):
            train(stores, tmp_path / "killed")
    train(stores, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_an_epoch_that_the_checkpoint_does_not_know_is_removed(tmp_path: Path):
    """As a run leaves it that is killed before its checkpoint, and then takes another course."""
    epochs = KeptEpochs(tmp_path, 2)
    history = [{"epoch": 0}]
    for number in (1, 2, 3):
        record = {"epoch": number, "accepted": True}
        epochs.write(record, {"weight": torch.tensor([float(number)])})
        history.append(record)
    epochs.tidy(history[:-1])
    assert names(tmp_path) == ["epoch-1.ckpt", "epoch-2.ckpt"]
    epochs.write({"epoch": 3, "accepted": False}, {"weight": torch.zeros(1)})
    assert names(tmp_path) == ["epoch-1.ckpt", "epoch-2.ckpt"]


def test_a_damaged_file_is_told(tmp_path: Path):
    epochs = KeptEpochs(tmp_path, 1)
    epochs.write({"epoch": 1, "accepted": True}, {"weight": torch.zeros(5)})
    path = epochs.path_of(1)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"epoch-1\.ckpt: torn or damaged"):
        read_epoch(path)
