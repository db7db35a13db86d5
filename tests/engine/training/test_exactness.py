"""N workers with a minibatch of B frames end as one worker with B frames."""

from pathlib import Path

import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference
from gloo import run_workers

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    AdagradOptions,
    AdamOptions,
    AllReduceOptions,
    BmufOptions,
    EngineOptions,
    ExponentialOptions,
    HalfOptions,
    HierarchicalOptions,
    LocalSgdOptions,
    PowerSgdOptions,
    SgdOptions,
    ShardedOptions,
    TrainOptions,
)
from mariana_asr.engine.training.train import Job, run_job
from mariana_asr.nnet.dnn import Dnn, DnnOptions

# With batch norm and dropout: both see the whole minibatch, whoever has its frames.
NETWORK = DnnOptions(hidden_layers=2, hidden_dim=25, left_context=1, right_context=2, dropout=0.2)
STEPS = 50
OPTIMISERS = {
    "sgd": (SgdOptions(momentum=0.5), 0.002),
    "adagrad": (AdagradOptions(), 0.01),
    "adam": (AdamOptions(type="adam"), 0.001),
    "adamw": (AdamOptions(type="adamw"), 0.001),
}
EXCHANGES = {
    "allreduce": AllReduceOptions(),
    "sharded": ShardedOptions(),
    "fp16": HalfOptions(type="fp16"),
    "bf16": HalfOptions(type="bf16"),
    "powersgd": PowerSgdOptions(start_step=5),
    "local_sgd": LocalSgdOptions(),
    "bmuf": BmufOptions(block_steps=4),
}
EXACT = [
    *(("allreduce", name, 1) for name in OPTIMISERS),
    *(("sharded", name, 1) for name in OPTIMISERS),
    ("allreduce", "sgd", 3),
]
"""Exchange, optimiser, pieces that each worker's part is cut into."""
INEXACT = ["fp16", "bf16", "powersgd", "local_sgd", "bmuf"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    train = pack_linear_task(folder / "train", seed=1, utterances=70)
    return train.directory, pack_linear_task(folder / "dev", seed=2, utterances=10).directory


def train(workers: Workers, stores, out: Path, exchange, optimiser: str, accumulate: int = 1):
    """Parameters and buffers after 50 steps."""
    frames = FrameStore.open(stores[0]).num_frames
    rule, rate = OPTIMISERS[optimiser]
    network = Dnn(
        NETWORK.model_copy(update={"normalisation": "batch" if accumulate == 1 else "none"}),
        DIM,
        CLASSES,
        seed=5,
    )
    options = TrainOptions(
        learning_rate=rate,
        optimiser=rule,
        l2_penalty=1e-4,
        max_grad_norm=2.0,
        warmup_steps=5,
        minibatch_size=frames // STEPS + 1,
        randomizer_size=1000,
        schedule=ExponentialOptions(epochs=1),
    )
    engine = EngineOptions(exchange=exchange, accumulate=accumulate)
    name = f"{exchange.type}-{optimiser}-{accumulate}-{workers.size}"
    summary = run_job(Job(network, *stores, options, engine, out / name), workers)
    assert summary.skipped_steps == 0
    return network.state_dict()


def train_exact(workers: Workers, stores, out: Path) -> list[dict[str, torch.Tensor]]:
    return [train(workers, stores, out, EXCHANGES[e], o, pieces) for e, o, pieces in EXACT]


def train_inexact(workers: Workers, stores, out: Path) -> list[dict[str, torch.Tensor]]:
    return [train(workers, stores, out, EXCHANGES[kind], "sgd") for kind in INEXACT]


def train_hierarchical(workers: Workers, stores, out: Path) -> dict[str, torch.Tensor]:
    return train(workers, stores, out, HierarchicalOptions(workers_per_host=2), "sgd")


@pytest.fixture(scope="module")
def expected(stores, tmp_path_factory):
    """What one worker learns, by optimiser and by whether there is batch norm."""
    alone, out = Workers.alone(torch.device("cpu")), tmp_path_factory.mktemp("alone")
    results = {(o, 1): train(alone, stores, out, AllReduceOptions(), o) for o in OPTIMISERS}
    results["sgd", 3] = train(alone, stores, out, AllReduceOptions(), "sgd", 3)
    return results


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_workers_learns_what_one_learns(stores, expected, tmp_path: Path, size):
    for results in run_workers(train_exact, size, stores, tmp_path):
        for (exchange, optimiser, pieces), found in zip(EXACT, results, strict=True):
            difference = relative_difference(found, expected[optimiser, pieces])
            assert difference < 1e-5, (exchange, optimiser, pieces, difference)


def test_workers_of_two_hosts_learn_what_one_worker_learns(stores, expected, tmp_path: Path):
    for found in run_workers(train_hierarchical, 4, stores, tmp_path, per_host=2):
        assert relative_difference(found, expected["sgd", 1]) < 1e-5


def test_with_the_other_exchanges_all_workers_agree_and_come_close(
    stores, expected, tmp_path: Path
):
    first, *others = run_workers(train_inexact, 2, stores, tmp_path)
    for kind, found, *elsewhere in zip(INEXACT, first, *others, strict=True):
        assert all(relative_difference(other, found) == 0.0 for other in elsewhere), kind
        assert 0.0 < relative_difference(found, expected["sgd", 1]) < 0.5, kind
