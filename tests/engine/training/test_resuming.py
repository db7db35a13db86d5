"""With every exchange: stopped at any step and resumed equals never stopped."""

from pathlib import Path

import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference
from gloo import run_workers

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    AdamOptions,
    AllReduceOptions,
    BmufOptions,
    EngineOptions,
    ExponentialOptions,
    HierarchicalOptions,
    LocalSgdOptions,
    PowerSgdOptions,
    SgdOptions,
    ShardedOptions,
    TrainOptions,
)
from mariana_asr.engine.training.stepping import Stepper
from mariana_asr.engine.training.train import Job, run_job
from mariana_asr.nnet.dnn import Dnn, DnnOptions

NETWORK = DnnOptions(hidden_layers=2, hidden_dim=21, left_context=1, right_context=2, dropout=0.2)
SGD = TrainOptions(
    learning_rate=0.002,
    optimiser=SgdOptions(momentum=0.5),
    minibatch_size=64,
    randomizer_size=1000,
    checkpoint_every=6,
    schedule=ExponentialOptions(epochs=2),
)
ADAM = SGD.model_copy(update={"learning_rate": 0.001, "optimiser": AdamOptions(type="adam")})
SETTINGS = {
    "allreduce": (AllReduceOptions(), SGD),
    "sharded": (ShardedOptions(), ADAM),
    "powersgd": (PowerSgdOptions(rank=2, start_step=4), SGD),
    "local_sgd": (LocalSgdOptions(block_steps=4), ADAM),
    "bmuf": (BmufOptions(block_steps=4), SGD),
    "own batch norm": (AllReduceOptions(), ADAM),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    train = pack_linear_task(folder / "train", seed=1, utterances=40)
    return train.directory, pack_linear_task(folder / "dev", seed=2, utterances=10).directory


class _PowerCut(BaseException):
    pass


def train(workers: Workers, stores, out: Path, setting: str, exchange=None, stop_at=None):
    """What is learnt; with ``stop_at``, all workers end in the midst of that step."""
    given, options = SETTINGS[setting]
    engine = EngineOptions(exchange=exchange or given, sync_batch_norm=setting != "own batch norm")
    step, steps = Stepper.step, 0

    def counted_step(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise _PowerCut
        return step(self, *arguments)

    Stepper.step = counted_step
    try:
        network = Dnn(NETWORK, DIM, CLASSES, seed=5 if stop_at else 6)
        run_job(Job(network, *stores, options, engine, out), workers)
    except _PowerCut:
        return None
    finally:
        Stepper.step = step
    return network.state_dict()


def stop_and_resume(workers: Workers, stores, out: Path):
    results = {}
    for name in SETTINGS:
        # In the first epoch and in the second, away from checkpoints and ends of blocks.
        assert train(workers, stores, out / name, name, stop_at=16) is None
        assert train(workers, stores, out / name, name, stop_at=29) is None
        resumed = train(workers, stores, out / name, name)
        whole_name = out / f"{name} whole"
        assert train(workers, stores, whole_name, name, stop_at=10_000) is not None
        whole = train(workers, stores, whole_name, name)
        results[name] = all(torch.equal(resumed[key], whole[key]) for key in whole)
    return results


def stop_sharded(workers: Workers, stores, out: Path, *folders: str):
    for folder in folders:
        assert train(workers, stores, out / folder, "sharded", stop_at=16) is None


def resume_sharded(workers: Workers, stores, out: Path, folder: str):
    return train(workers, stores, out / folder, "sharded")


def test_resumed_runs_end_with_the_bits_of_runs_never_stopped(stores, tmp_path: Path):
    for results in run_workers(stop_and_resume, 2, stores, tmp_path):
        assert results == dict.fromkeys(SETTINGS, True)


def test_sharded_state_is_dealt_out_anew_to_another_number_of_workers(stores, tmp_path: Path):
    run_workers(stop_sharded, 2, stores, tmp_path, "three", "one")
    alone = Workers.alone(torch.device("cpu"))
    expected = train(alone, stores, tmp_path / "whole", "sharded", stop_at=10_000)
    on_three = run_workers(resume_sharded, 3, stores, tmp_path, "three")
    on_one = resume_sharded(alone, stores, tmp_path, "one")
    for found in (*on_three, on_one):
        assert relative_difference(found, expected) < 1e-4


def test_hierarchical_exchange_resumes(stores, tmp_path: Path):
    results = run_workers(stop_and_resume_on_hosts, 4, stores, tmp_path, per_host=2)
    assert results == [True] * 4


def stop_and_resume_on_hosts(workers: Workers, stores, out: Path) -> bool:
    exchange = HierarchicalOptions()
    assert train(workers, stores, out / "stopped", "allreduce", exchange, stop_at=16) is None
    resumed = train(workers, stores, out / "stopped", "allreduce", exchange)
    whole = train(workers, stores, out / "whole", "allreduce", exchange, stop_at=10_000)
    return all(torch.equal(resumed[key], whole[key]) for key in whole)
