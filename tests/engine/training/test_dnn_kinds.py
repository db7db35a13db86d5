"""Every kind of layer of a fully connected network keeps the engine's promises."""

from pathlib import Path

import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference
from gloo import run_workers

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    EngineOptions,
    ExponentialOptions,
    SgdOptions,
    TrainOptions,
)
from mariana_asr.engine.training.stepping import Stepper
from mariana_asr.engine.training.train import Job, run_job
from mariana_asr.nnet.dnn import Dnn, DnnOptions

SIZE = {"hidden_layers": 3, "hidden_dim": 12, "left_context": 1, "right_context": 1}
KINDS = {
    "maxout": DnnOptions(**SIZE, activation="maxout", group_size=2, residual=True),
    "pnorm": DnnOptions(**SIZE, activation="pnorm", group_size=3, normalisation="layer"),
    "factored": DnnOptions(**SIZE, bottleneck=(5, 6, 7), residual=True),
    "plain": DnnOptions(**SIZE, activation="sigmoid", normalisation="none", bottleneck=4),
}
TRAIN = TrainOptions(
    learning_rate=0.002,
    optimiser=SgdOptions(momentum=0.5),
    max_norm=2.0,
    minibatch_size=90,
    randomizer_size=700,
    checkpoint_every=4,
    schedule=ExponentialOptions(epochs=2),
)
ALONE = Workers.alone(torch.device("cpu"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    train = pack_linear_task(folder / "train", seed=1, utterances=20)
    return train.directory, pack_linear_task(folder / "dev", seed=2, utterances=5).directory


def initial(kind: str) -> Dnn:
    return Dnn(KINDS[kind], DIM, CLASSES, seed=5)


def train(workers: Workers, stores, out: Path, kind: str) -> dict[str, torch.Tensor]:
    network = initial(kind)
    summary = run_job(Job(network, *stores, TRAIN, EngineOptions(), out / kind), workers)
    assert summary.skipped_steps == 0
    return network.state_dict()


def train_all(workers: Workers, stores, out: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {kind: train(workers, stores, out, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def expected(stores, tmp_path_factory):
    """What one worker learns, never stopped."""
    return train_all(ALONE, stores, tmp_path_factory.mktemp("alone"))


def test_two_workers_learn_what_one_learns(stores, expected, tmp_path: Path):
    for results in run_workers(train_all, 2, stores, tmp_path):
        for kind, found in results.items():
            assert relative_difference(found, expected[kind]) < 1e-5, kind
            assert relative_difference(found, initial(kind).state_dict()) > 0.05, kind


class _PowerCut(BaseException):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_ends_with_the_bits_of_one_never_stopped(
    stores, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind
):
    step = Stepper.step
    # In each epoch, away from checkpoints.
    for stop_at in (7, 9):
        steps = iter(range(1, stop_at))

        def limited(self, *arguments, left=steps):
            if next(left, None) is None:
                raise _PowerCut
            return step(self, *arguments)

        monkeypatch.setattr(Stepper, "step", limited)
        with pytest.raises(_PowerCut):
            train(ALONE, stores, tmp_path, kind)
    monkeypatch.setattr(Stepper, "step", step)
    resumed = train(ALONE, stores, tmp_path, kind)
    assert all(torch.equal(resumed[name], value) for name, value in expected[kind].items())
