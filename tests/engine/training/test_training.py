import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions, NewbobOptions, SgdOptions, TrainOptions
from mariana_asr.engine.training import frame_task
from mariana_asr.engine.training.checkpoint import CheckpointFolder
from mariana_asr.engine.training.evaluation import Evaluation, evaluate
from mariana_asr.engine.training.objective import FrameClassification
from mariana_asr.engine.training.stepping import Stepper
from mariana_asr.engine.training.train import train_network
from mariana_asr.errors import DataError, StageError
from mariana_asr.nnet.dnn import Dnn, DnnOptions

MEASURED = (
    "seconds",
    "frames_per_second",
    "data_wait_share",
    "exchange_wait_share",
    "efficiency",
)
"""Keys of the log whose values no two runs share."""

NETWORK = DnnOptions(
    hidden_layers=2,
    hidden_dim=24,
    left_context=1,
    right_context=2,
    dropout=0.1,
    normalisation="batch",
)
OPTIONS = TrainOptions(
    learning_rate=0.002,
    optimiser=SgdOptions(momentum=0.5),
    l2_penalty=1e-6,
    minibatch_size=64,
    randomizer_size=1000,
    checkpoint_every=10,
    keep_checkpoints=3,
    schedule=NewbobOptions(max_iters=4),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums over threads may round differently, and small networks are faster without."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return (
        pack_linear_task(folder / "train", seed=1, utterances=100),
        pack_linear_task(folder / "held_out", seed=2, utterances=15),
    )


def make_network(options=NETWORK, seed=777):
    return Dnn(options, DIM, CLASSES, seed=seed)


def evaluate_alone(network, store):
    alone = Workers.alone(torch.device("cpu"))
    return evaluate(
        FrameClassification(network), store, alone, left_context=1, right_context=2, chunk_frames=1
    )


def weights_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_a_network_learns_and_the_log_tells(stores, tmp_path: Path, caplog):
    network = make_network(NETWORK.model_copy(update={"dropout": 0.0}))
    options = OPTIONS.model_copy(update={"schedule": NewbobOptions(max_iters=8)})
    with caplog.at_level(logging.INFO):
        summary = train_network(network, *stores, options, tmp_path)
    assert summary.initial_loss > 2
    assert summary.held_out_loss < 1.2
    assert summary.held_out_accuracy > 0.6
    assert not network.training
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(summary.epochs + 1))
    assert records[0].keys() == {"epoch", "held_out_loss", "held_out_accuracy"}
    best = records[summary.best_epoch]
    assert best["held_out_loss"] == summary.held_out_loss
    assert best["accepted"]
    assert best["frames"] == stores[0].num_frames
    assert 0 <= best["data_wait_share"] <= 1
    assert f"held-out loss {summary.held_out_loss:.4f}" in caplog.text
    assert "frames/s" in caplog.text
    # The weights left in the network are those of the best epoch.
    again = evaluate_alone(network, stores[1])
    assert again.loss == summary.held_out_loss


def test_loss_and_accuracy_are_those_of_a_plain_loop(stores):
    network = make_network().eval()
    logits, targets = [], []
    for number in range(stores[1].num_utterances):
        frames, wanted = stores[1].read_utterance(number)
        padded = frames[np.clip(np.arange(-1, len(frames) + 2), 0, len(frames) - 1)]
        windows = np.hstack([padded[shift : shift + len(frames)] for shift in range(4)])
        with torch.no_grad():
            logits.append(network(torch.from_numpy(windows)).double())
        targets.append(torch.from_numpy(wanted).long())
    logits, targets = torch.cat(logits), torch.cat(targets)
    log_posteriors = logits - logits.exp().sum(dim=1, keepdim=True).log()
    loss = -log_posteriors[torch.arange(len(targets)), targets].mean().item()
    found = evaluate_alone(network, stores[1])
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(dim=1) == targets).double().mean().item())


def test_the_same_seed_gives_the_same_model_whatever_happened_before(stores, tmp_path: Path):
    models = []
    for run, seed in enumerate([1, 1, 2]):
        torch.manual_seed(run)
        network = make_network()
        options = OPTIONS.model_copy(update={"seed": seed, "schedule": NewbobOptions(max_iters=1)})
        train_network(network, *stores, options, tmp_path / str(run))
        models.append(weights_of(network))
    assert_same_bits(models[0], models[1])
    assert not torch.equal(models[0]["output.weight"], models[2]["output.weight"])


def test_training_leaves_the_random_numbers_of_the_caller_alone(stores, tmp_path: Path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    options = OPTIONS.model_copy(update={"schedule": NewbobOptions(max_iters=1)})
    train_network(make_network(), *stores, options, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def train_from_files(folder: Path) -> None:
    """Body of the process that is killed; it waits a little at each step, to be killed in time."""
    torch.set_num_threads(1)
    step = Stepper.step

    def slow_step(self, *arguments):
        time.sleep(0.01)
        return step(self, *arguments)

    Stepper.step = slow_step
    stores = [FrameStore.open(folder / name) for name in ("train", "held_out")]
    train_network(make_network(), *stores, OPTIONS, folder / "killed")


def test_a_run_killed_at_any_step_and_resumed_ends_as_one_never_killed(stores, tmp_path: Path):
    for store in stores:
        (tmp_path / store.directory.name).symlink_to(store.directory)
    process = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        # Some checkpoint of the first three epochs, in the middle or at the end of one, and then
        # a moment that no checkpoint marks.
        wanted = random.randrange(10, 200)
        folder = CheckpointFolder(tmp_path / "killed" / "checkpoints", 1)
        deadline = time.monotonic() + 60
        while not folder.paths() or folder.step_of(folder.paths()[-1]) < wanted:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(random.random() * 0.03)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = make_network(seed=1)
    summary = train_network(resumed, *stores, OPTIONS, tmp_path / "killed")
    whole = make_network()
    expected = train_network(whole, *stores, OPTIONS, tmp_path / "whole")
    assert_same_bits(weights_of(resumed), weights_of(whole))
    logs = []
    for name in ("killed", "whole"):
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
        for record in logs[-1]:
            for measured in MEASURED:
                record.pop(measured, None)
    assert logs[0] == logs[1]
    assert summary.held_out_loss == expected.held_out_loss


def test_a_torn_newest_checkpoint_costs_only_the_steps_since_the_one_before(
    stores, tmp_path: Path, caplog
):
    whole = make_network()
    train_network(whole, *stores, OPTIONS, tmp_path)
    newest = CheckpointFolder(tmp_path / "checkpoints", 1).paths()[-1]
    shared = newest / "shared.ckpt"
    shared.write_bytes(shared.read_bytes()[:1000])
    resumed = make_network(seed=1)
    train_network(resumed, *stores, OPTIONS, tmp_path)
    assert "torn or damaged" in caplog.text
    assert_same_bits(weights_of(resumed), weights_of(whole))


def test_a_finished_training_is_not_repeated(stores, tmp_path: Path, monkeypatch):
    first, second = make_network(), make_network(seed=1)
    expected = train_network(first, *stores, OPTIONS, tmp_path)
    monkeypatch.delattr(Stepper, "step")
    assert train_network(second, *stores, OPTIONS, tmp_path) == expected
    assert_same_bits(weights_of(first), weights_of(second))


def test_checkpoints_of_another_training_are_refused_by_name(stores, tmp_path: Path):
    options = OPTIONS.model_copy(update={"schedule": NewbobOptions(max_iters=1)})
    train_network(make_network(), *stores, options, tmp_path)
    changed = options.model_copy(update={"learning_rate": 0.5})
    with pytest.raises(StageError, match=r"learning_rate \(0.002 -> 0.5\) changed"):
        train_network(make_network(), *stores, changed, tmp_path)
    with pytest.raises(StageError, match="training frames changed"):
        train_network(make_network(), stores[1], stores[1], options, tmp_path)
    wider = make_network(NETWORK.model_copy(update={"hidden_dim": 25}))
    with pytest.raises(StageError, match="network changed"):
        train_network(wider, *stores, options, tmp_path)
    # How often checkpoints are written is no part of what is trained.
    other = options.model_copy(update={"checkpoint_every": 100})
    train_network(make_network(), *stores, other, tmp_path)


def test_a_rejected_epoch_gives_the_best_weights_back(stores, tmp_path: Path, monkeypatch):
    losses = iter([2.0, 1.0, 1.5, 1.2])
    seen = []

    def scripted(objective, *_, **__):
        seen.append(weights_of(objective.network))
        return Evaluation(next(losses), 0.5)

    monkeypatch.setattr(frame_task, "evaluate", scripted)
    network = make_network()
    summary = train_network(network, *stores, OPTIONS, tmp_path)
    assert (summary.epochs, summary.best_epoch, summary.held_out_loss) == (3, 1, 1.0)
    assert_same_bits(weights_of(network), seen[1])
    assert not torch.equal(seen[2]["output.weight"], seen[1]["output.weight"])


def test_a_training_that_never_improves_is_an_error(stores, tmp_path: Path):
    options = OPTIONS.model_copy(update={"learning_rate": 50.0})
    with pytest.raises(StageError, match=r"no epoch lowered .* Lower train.learning_rate"):
        train_network(make_network(), *stores, options, tmp_path)


class Breaking(Dnn):
    """Its logits are not finite in some calls of its training."""

    def __init__(self, broken):
        super().__init__(NETWORK, DIM, CLASSES)
        self.calls, self.broken = 0, broken

    def forward(self, windows):
        logits = super().forward(windows)
        if self.training:
            self.calls += 1
            if self.calls in self.broken:
                return logits * math.nan
        return logits


def test_single_minibatches_without_a_finite_loss_are_skipped(stores, tmp_path: Path, caplog):
    options = OPTIONS.model_copy(update={"max_non_finite": 2})
    network = Breaking({2, 4, 6})
    summary = train_network(network, *stores, options, tmp_path)
    assert summary.skipped_steps == 3
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())
    assert "step skipped; frames of utterances utt" in caplog.text


def test_several_in_a_row_stop_the_training_and_name_utterances(stores, tmp_path: Path):
    options = OPTIONS.model_copy(update={"max_non_finite": 3})
    with pytest.raises(StageError, match=r"epoch 1, step 6: .*3 minibatches in a row.* utt\d+"):
        train_network(Breaking({2, 5, 6, 7}), *stores, options, tmp_path)


def test_stores_that_do_not_fit_are_refused_before_anything_runs(stores, tmp_path: Path):
    wide = pack_linear_task(tmp_path / "wide", seed=3, utterances=3, dim=DIM + 1)
    with pytest.raises(DataError, match=r"held-out frames .*: frames have 7 values.* takes 6"):
        train_network(make_network(), stores[0], wide, OPTIONS, tmp_path / "out")
    many = pack_linear_task(tmp_path / "many", seed=3, utterances=30, classes=50)
    with pytest.raises(DataError, match=r"training frames .*: .* target 49.* has 10 outputs"):
        train_network(make_network(), many, stores[1], OPTIONS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_clear_error(stores, tmp_path: Path):
    engine = EngineOptions(device="cuda")
    with pytest.raises(StageError, match="torch finds no GPU"):
        train_network(make_network(), *stores, OPTIONS, tmp_path, engine)


if __name__ == "__main__":
    train_from_files(Path(sys.argv[1]))
