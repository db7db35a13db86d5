"""``mariana-asr info`` on a network's training, on small checkpoints written for it."""

from pathlib import Path

import pytest
import torch

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions, TrainOptions
from mariana_asr.engine.training.checkpoint import (
    CheckpointFolder,
    read_checkpoint,
    write_checkpoint,
)
from mariana_asr.engine.training.summary import write_log
from mariana_asr.errors import FormatError
from mariana_asr.recipe.describe import describe

HISTORY = [
    {"epoch": 0, "held_out_loss": 5.5, "held_out_accuracy": 0.01},
    {
        "epoch": 1,
        "train_loss": 2.5,
        "train_accuracy": 0.4,
        "held_out_loss": 2.125,
        "held_out_accuracy": 0.45,
        "accepted": True,
        "best": True,
    },
    {
        "epoch": 2,
        "train_loss": 2.25,
        "train_accuracy": 0.45,
        "held_out_loss": 2.25,
        "held_out_accuracy": 0.44,
        "accepted": False,
        "best": False,
    },
]


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 20 and 30 of two workers."""
    options = TrainOptions(optimiser="adam", l2_penalty=0.25, minibatch_size=64).model_dump(
        mode="json"
    ) | EngineOptions(exchange="sharded").model_dump(mode="json")
    folder = CheckpointFolder(tmp_path / "checkpoints", 2)
    for step in (20, 30):
        shared = {
            "identity": {"options": options},
            "network": {"weight": torch.zeros(5, 4), "bias": torch.zeros(4)},
            "schedule": {"epoch": 2, "finished": False},
            "global_step": step,
            "next_step": step - 20,
            "history": HISTORY,
        }
        state = {"slots": {"exp_avg": {"weight": torch.zeros(3, 4)}}, "steps": step}
        own = {"optimiser": state, "non_finite_in_a_row": 1}
        path = folder.save(Workers.alone(torch.device("cpu")), shared, own, step)
        write_checkpoint(path / "worker-1.ckpt", own)
        saved = read_checkpoint(path / "shared.ckpt")
        write_checkpoint(path / "shared.ckpt", saved | {"num_workers": 2})
    write_log(HISTORY, tmp_path)
    return tmp_path


@pytest.fixture
def newest(training: Path) -> Path:
    return CheckpointFolder(training / "checkpoints", 1).paths()[-1]


def facts(path: Path) -> dict[str, str]:
    return dict(describe(path)[1])


def test_a_checkpoint_tells_where_it_is_and_how_it_was_trained(newest: Path):
    assert describe(newest)[0] == "checkpoint"
    found = facts(newest)
    assert found["position"] == "in epoch 3, after 10 steps of it"
    assert found["steps"] == "30"
    assert found["workers"] == "2"
    assert found["network"] == "24 numbers in 2 tensors"
    assert found["optimiser"].startswith("adam, ")
    assert found["exchange"] == "sharded"
    assert found["l2_penalty"] == "0.25"
    assert found["minibatch_size"] == "64"
    assert "randomizer_size" not in found, "it has its default"
    assert found["usable"] == "yes, every file is whole"


def test_a_checkpoint_tells_losses_and_the_best_epoch(newest: Path):
    found = facts(newest)
    assert found["before training"] == "held-out loss 5.5000, accuracy 1.00%"
    assert found["epoch 1"].startswith("train loss 2.5000, accuracy 40.00%; held-out loss 2.1250")
    assert found["epoch 2"].endswith("; undone")
    assert found["best epoch"] == "1"


def test_between_epochs_a_checkpoint_says_so(training: Path):
    assert facts(training / "checkpoints" / "checkpoint-000000000020")["position"] == (
        "at the end of epoch 2"
    )


@pytest.mark.parametrize("name", ["shared.ckpt", "worker-1.ckpt"])
def test_a_torn_file_is_named(newest: Path, name):
    path = newest / name
    path.write_bytes(path.read_bytes()[:-1])
    assert facts(newest)[name].endswith("damaged")
    assert facts(newest)["usable"] == f"no: {name}: torn or damaged checkpoint"
    with pytest.raises(FormatError, match="torn or damaged"):
        describe(path)


def test_a_missing_file_is_named(newest: Path):
    (newest / "worker-1.ckpt").unlink()
    assert facts(newest)["usable"] == "no: worker-1.ckpt: missing"
    (newest / "shared.ckpt").unlink()
    assert facts(newest)["usable"] == "no: shared.ckpt: missing"


def test_single_files_are_told_apart(newest: Path, tmp_path: Path):
    assert facts(newest / "shared.ckpt")["steps"] == "30"
    worker = facts(newest / "worker-1.ckpt")
    assert worker["optimiser's state"] == "12 numbers in 1 tensor"
    assert worker["non finite in a row"] == "1"
    write_checkpoint(tmp_path / "00-hidden.0.ckpt", {"network": {"weight": torch.zeros(2, 3)}})
    assert facts(tmp_path / "00-hidden.0.ckpt")["network"] == "6 numbers in 1 tensor"


def test_a_training_lists_its_checkpoints(training: Path, newest: Path):
    (newest / "worker-0.ckpt").write_bytes(b"")
    kind, _ = describe(training)
    found = facts(training)
    assert kind == "training"
    assert found["best epoch"] == "1"
    assert found["checkpoint-000000000020"].endswith("3 files, all whole")
    assert found[newest.name] == "damaged: worker-0.ckpt: not a checkpoint of this version"
    assert facts(training / "checkpoints") == found


def test_a_log_alone_is_described(training: Path):
    log = training / "log.jsonl"
    (training / "alone").mkdir()
    log.rename(training / "alone" / "log.jsonl")
    assert facts(training / "alone")["epoch 1"].startswith("train loss 2.5")
