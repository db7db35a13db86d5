"""Every network that is trained on chunks of frames keeps the engine's promises."""

from pathlib import Path

import pytest
import torch
from frame_tasks import CLASSES, pack_linear_task
from gloo import run_workers

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    AllReduceOptions,
    EngineOptions,
    ExponentialOptions,
    SgdOptions,
    ShardedOptions,
    TrainOptions,
)
from mariana_asr.engine.training.stepping import Stepper
from mariana_asr.engine.training.train import Job, run_job
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.options import (
    CnnOptions,
    CnnTdnnfOptions,
    LstmOptions,
    TdnnfOptions,
    TdnnOptions,
)

BANDS = 10
PLAIN = {"transform": {"delta_order": 0}, "dropout": 0.2}
FACTORED = {
    **PLAIN,
    "hidden_dim": 18,
    "bottleneck_dim": 6,
    "prefinal_dim": 8,
    "chunk_frames": 7,
    "time_strides": [1, 2],
    "orthonormal_every": 2,
}
NETWORKS = {
    "tdnn": TdnnOptions(**PLAIN, hidden_dim=18, chunk_frames=5, offsets=[[-1, 0, 1], [-2, 1]]),
    "tdnnf": TdnnfOptions(**FACTORED),
    "cnn": CnnOptions(
        **PLAIN,
        filters=[6],
        time_kernels=[3],
        frequency_kernels=[4],
        pooling=[2],
        hidden_dim=18,
        chunk_frames=4,
        dropout_over_time=True,
    ),
    "cnn_tdnnf": CnnTdnnfOptions(**FACTORED, filters=[4, 5], band_steps=[1, 2]),
    "lstm": LstmOptions(**PLAIN, cell_dim=9, left_context=4, right_context=3, chunk_frames=6),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TRAIN = TrainOptions(
    learning_rate=0.0005,
    optimiser=SgdOptions(momentum=0.5),
    minibatch_size=90,
    randomizer_size=700,
    checkpoint_every=4,
    schedule=ExponentialOptions(epochs=2),
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    train = pack_linear_task(folder / "train", seed=1, utterances=20, dim=BANDS)
    dev = pack_linear_task(folder / "dev", seed=2, utterances=5, dim=BANDS)
    return train.directory, dev.directory


class _PowerCut(BaseException):
    pass


def train(workers: Workers, stores, out: Path, options, engine=None, stop_at=None):
    """What is learnt; with ``stop_at``, the training ends in the midst of that step."""
    network = build_network(options, BANDS, CLASSES, seed=5)
    step, steps = Stepper.step, 0

    def counted_step(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise _PowerCut
        return step(self, *arguments)

    Stepper.step = counted_step
    try:
        summary = run_job(Job(network, *stores, TRAIN, engine or EngineOptions(), out), workers)
        assert summary.skipped_steps == 0
    except _PowerCut:
        return None
    finally:
        Stepper.step = step
    return network.state_dict()


def train_all(workers: Workers, stores, out: Path, exchange) -> dict[str, dict]:
    return {
        name: train(workers, stores, out / name, options, EngineOptions(exchange=exchange))
        for name, options in NETWORKS.items()
    }


@pytest.fixture(scope="module")
def expected(stores, tmp_path_factory):
    alone = Workers.alone(torch.device("cpu"))
    return train_all(alone, stores, tmp_path_factory.mktemp("alone"), AllReduceOptions())


@pytest.mark.parametrize("exchange", [AllReduceOptions(), ShardedOptions()], ids=lambda e: e.type)
def test_two_workers_learn_what_one_learns_with_every_network(
    stores, expected, tmp_path: Path, exchange
):
    for results in run_workers(train_all, 2, stores, tmp_path, exchange):
        for name, found in results.items():
            torch.testing.assert_close(found, expected[name], **CLOSE, msg=name)
            initial = build_network(NETWORKS[name], BANDS, CLASSES, seed=5)
            learnt = found["output.weight"] - initial.output.weight
            assert learnt.norm() > 0.005 * initial.output.weight.norm(), name
            # One count a step of the best epoch, which is the first or the second.
            assert found.get("steps", 13) in (13, 26)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_resumed_training_ends_with_the_bits_of_one_never_stopped(
    stores, expected, tmp_path: Path, name
):
    alone = Workers.alone(torch.device("cpu"))
    # In each epoch, away from checkpoints.
    for stop_at in (7, 9):
        assert train(alone, stores, tmp_path, NETWORKS[name], stop_at=stop_at) is None
    resumed = train(alone, stores, tmp_path, NETWORKS[name])
    assert all(torch.equal(resumed[key], value) for key, value in expected[name].items())


@pytest.mark.parametrize("name", NETWORKS)
def test_minibatches_in_pieces_are_learnt_as_whole_ones(stores, tmp_path: Path, name):
    alone = Workers.alone(torch.device("cpu"))
    # Batch norm sees a piece, not the minibatch.
    apart = {} if name == "lstm" else {"normalisation": "none"}
    options = NETWORKS[name].model_copy(update=apart)
    found = [
        train(alone, stores, tmp_path / str(n), options, EngineOptions(accumulate=n))
        for n in (1, 3)
    ]
    torch.testing.assert_close(*found, **CLOSE)
