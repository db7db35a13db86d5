"""Training on lattices: it learns, on any number of workers the same, and goes on where it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from frame_tasks import relative_difference
from gloo import run_workers
from made_sequences import plain_losses
from sequence_tasks import CLASSES, DIM, make_data, open_data

from mariana_asr.engine.frames.packing import pack_frames
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    AdamOptions,
    AllReduceOptions,
    EngineOptions,
    LocalSgdOptions,
    SequenceOptions,
    SgdOptions,
    ShardedOptions,
)
from mariana_asr.engine.options.sequence import SequenceExponentialOptions
from mariana_asr.engine.sequence.source import LatticeData, UtteranceSource
from mariana_asr.engine.sequence.task import SequenceTask
from mariana_asr.engine.sequence.train import SequenceJob, train_on_lattices
from mariana_asr.engine.training.job import run_job
from mariana_asr.engine.training.stepping import Stepper
from mariana_asr.errors import DataError, StageError
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.options import DnnOptions, LstmOptions, TdnnOptions

NETWORKS = {
    "dnn": DnnOptions(hidden_layers=2, hidden_dim=16, left_context=1, right_context=1),
    "tdnn": TdnnOptions(offsets=[[-1, 0, 1], [-2, 0]], hidden_dim=12, chunk_frames=8),
    "lstm": LstmOptions(cell_dim=8, chunk_frames=8, left_context=4, right_context=3),
}
LOG_PRIORS = np.log(np.arange(1.0, CLASSES + 1.0) / (CLASSES * (CLASSES + 1) / 2))
GROUPS = np.array([0, 0, 1, 2, 3, 4])
OPTIONS = SequenceOptions(
    learning_rate=3e-5,
    optimiser=SgdOptions(momentum=0.5),
    utterances_per_step=6,
    cross_entropy=0.1,
    checkpoint_every=3,
    schedule=SequenceExponentialOptions(epochs=3, final_factor=0.1),
)
ALONE = Workers.alone(torch.device("cpu"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums over threads may round differently, and small networks are faster without."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return (
        make_data(folder / "train", seed=1, utterances=40),
        make_data(folder / "held_out", seed=2, utterances=9),
    )


def start(kind: str = "dnn"):
    """A network with batch statistics of its own, as one that was trained has."""
    network = build_network(NETWORKS[kind], DIM, CLASSES, seed=3)
    generator = torch.Generator().manual_seed(8)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.2, generator=generator)
    return network


def job(data, out: Path, options=OPTIONS, kind="dnn", **engine) -> SequenceJob:
    dirs = [(d.frames.directory, d.lattices.directory) for d in data]
    return SequenceJob(
        start(kind),
        *dirs,
        torch.from_numpy(LOG_PRIORS).float(),
        torch.from_numpy(GROUPS),
        options,
        EngineOptions(**engine),
        out,
    )


@pytest.mark.parametrize(
    ("kind", "criterion"), [("dnn", "smbr"), ("dnn", "mmi"), ("tdnn", "smbr"), ("lstm", "mmi")]
)
def test_the_criterion_on_held_out_lattices_improves(data, tmp_path: Path, kind, criterion):
    network = start(kind)
    options = OPTIONS.model_copy(update={"criterion": criterion, "learning_rate": 0.01})
    engine = EngineOptions(threads=1, workers=1)
    before = {n: b.clone() for n, b in network.named_buffers() if "running" in n}
    summary = train_on_lattices(
        network, *data, LOG_PRIORS, options, tmp_path, engine, groups=GROUPS
    )
    assert summary.held_out_loss < 0.97 * summary.initial_loss
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [0, 1, 2, 3]
    assert {record["frames"] for record in log[1:]} == {int(data[0].lattices.frames.sum())}
    accuracies = [record["held_out_accuracy"] for record in log]
    assert accuracies[-1] > accuracies[0] + 0.01
    if criterion == "smbr":
        for record in log:
            assert record["held_out_loss"] == pytest.approx(1 - record["held_out_accuracy"])
    for name, buffer in network.named_buffers():
        assert name not in before or torch.equal(buffer, before[name]), name


def test_one_step_is_kaldis(data, tmp_path: Path):
    """SGD's rate times the sum of gradients by scaled scores, found by differences."""
    options = OPTIONS.model_copy(update={"optimiser": SgdOptions(), "learning_rate": 1e-3})
    engine, network = EngineOptions(), start()
    log_priors, groups = torch.from_numpy(LOG_PRIORS).float(), torch.from_numpy(GROUPS)
    task = SequenceTask(network, *data, log_priors, groups, options, ALONE)
    stepper = Stepper(task.objective, ALONE, options, engine, learning_rate_factors={})
    minibatch = next(iter(task.source.epoch(1)))
    task.objective.train()
    assert not network.training
    bias = network.output.bias.detach().clone()
    logits = []
    expected = torch.zeros(CLASSES, dtype=torch.float64)
    for utterance in minibatch.utterances:
        frames = utterance.frames
        padded = torch.cat([frames[:1], frames, frames[-1:]])
        windows = padded.unfold(0, 3, 1).transpose(1, 2).reshape(len(frames), -1)
        with torch.no_grad():
            logits.append(network(windows).double())
        for label in range(CLASSES):
            ends = []
            for sign in (1, -1):
                scores = options.acoustic_scale * (logits[-1] - log_priors.double())
                scores[:, label] += sign * 1e-5
                found = plain_losses(
                    utterance.lattice, scores.tolist(), utterance.targets.tolist(), GROUPS.tolist()
                )
                ends.append(-found[0])
            expected[label] += (ends[0] - ends[1]) / 2e-5
        wrong = torch.softmax(logits[-1], dim=1)
        wrong[torch.arange(len(frames)), utterance.targets] -= 1.0
        expected += options.cross_entropy * wrong.sum(dim=0)
    stepper.step(minibatch, options.initial_learning_rate, 0)
    torch.testing.assert_close(
        network.output.bias.detach().double(),
        bias.double() - 1e-3 * expected,
        atol=1e-7,
        rtol=1e-5,
    )


def test_lattices_are_measured_as_by_all_paths_written_out(data):
    network = start().eval()
    log_priors, groups = torch.from_numpy(LOG_PRIORS).float(), torch.from_numpy(GROUPS)
    task = SequenceTask(network, *data, log_priors, groups, OPTIONS, ALONE)
    found = task.evaluate()
    source = UtteranceSource(data[1], utterances_per_step=3, seed=0, workers=ALONE)
    expected = 0.0
    for minibatch in source.epoch(0):
        for utterance in minibatch.utterances:
            frames = torch.cat([utterance.frames[:1], utterance.frames, utterance.frames[-1:]])
            windows = frames.unfold(0, 3, 1).transpose(1, 2).reshape(len(utterance.frames), -1)
            with torch.no_grad():
                scores = OPTIONS.acoustic_scale * (network(windows) - log_priors)
            expected += plain_losses(
                utterance.lattice, scores.tolist(), utterance.targets.tolist(), GROUPS.tolist()
            )[0]
    assert found.accuracy == pytest.approx(expected / data[1].lattices.frames.sum(), rel=1e-5)


EXACT = [
    (AllReduceOptions(), OPTIONS, 1),
    (AllReduceOptions(), OPTIONS, 2),
    (ShardedOptions(), OPTIONS.model_copy(update={"optimiser": AdamOptions(type="adam")}), 1),
]


def learnt(workers: Workers, data, out: Path, number: int, kind: str = "dnn"):
    exchange, options, pieces = EXACT[number]
    made = job(data, out / f"{number}-{kind}", options, kind, exchange=exchange, accumulate=pieces)
    run_job(made, workers)
    return made.network.state_dict()


def learn_all(workers: Workers, dirs, out: Path):
    data = [open_data(*pair) for pair in dirs]
    found = [learnt(workers, data, out, number) for number in range(len(EXACT))]
    return [*found, learnt(workers, data, out, 0, "tdnn"), learnt(workers, data, out, 0, "lstm")]


def dirs_of(data):
    return [(d.frames.directory, d.lattices.directory) for d in data]


@pytest.mark.parametrize("size", [2, 5])
def test_any_number_of_workers_learns_what_one_learns(data, tmp_path: Path, size):
    expected = learn_all(ALONE, dirs_of(data), tmp_path / "alone")
    for results in run_workers(learn_all, size, dirs_of(data), tmp_path):
        for found, alone in zip(results, expected, strict=True):
            assert relative_difference(found, alone) < 1e-5


class _PowerCut(BaseException):
    pass


def run_until(stop_at: int, workers: Workers, made: SequenceJob):
    """What is learnt; None, where all workers end in the midst of a step."""
    step, steps = Stepper.step, 0

    def counted(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise _PowerCut
        return step(self, *arguments)

    Stepper.step = counted
    try:
        run_job(made, workers)
    except _PowerCut:
        return None
    finally:
        Stepper.step = step
    return made.network.state_dict()


def stop_and_resume(workers: Workers, dirs, out: Path):
    data, results = [open_data(*pair) for pair in dirs], []
    for exchange in (AllReduceOptions(), LocalSgdOptions(block_steps=2)):
        folder = out / exchange.type
        for stop_at in (5, 9):
            assert run_until(stop_at, workers, job(data, folder, exchange=exchange)) is None
        resumed = run_until(1000, workers, job(data, folder, exchange=exchange))
        whole = run_until(1000, workers, job(data, folder / "whole", exchange=exchange))
        results.append(all(torch.equal(resumed[key], whole[key]) for key in whole))
    return results


def test_a_run_stopped_and_resumed_ends_with_the_bits_of_one_never_stopped(data, tmp_path: Path):
    assert stop_and_resume(ALONE, dirs_of(data), tmp_path / "alone") == [True, True]
    for results in run_workers(stop_and_resume, 2, dirs_of(data), tmp_path):
        assert results == [True, True]


def test_another_network_to_begin_with_is_another_training(data, tmp_path: Path):
    run_job(job(data, tmp_path), ALONE)
    other = job(data, tmp_path)
    with torch.no_grad():
        other.network.output.bias[0] += 1.0
    with pytest.raises(StageError, match="network that training begins with, priors or groups"):
        run_job(other, ALONE)


def test_two_launched_workers_train(data, tmp_path: Path):
    network = start()
    engine = EngineOptions(workers=2, threads=1)
    train_on_lattices(network, *data, LOG_PRIORS, OPTIONS, tmp_path / "two", engine, groups=GROUPS)
    alone = job(data, tmp_path / "one")
    run_job(alone, ALONE)
    assert relative_difference(network.state_dict(), alone.network.state_dict()) < 1e-5


def test_what_does_not_fit_is_refused_before_anything_runs(data, tmp_path: Path):
    train, held_out = data
    mixed = LatticeData(train.frames, held_out.lattices)
    with pytest.raises(DataError, match="lattices are of other frames"):
        train_on_lattices(start(), mixed, held_out, LOG_PRIORS, OPTIONS, tmp_path)
    wide = [("utt", np.zeros((4, DIM + 1), np.float32), np.zeros(4, np.int32))]
    other = LatticeData(pack_frames(tmp_path / "wide", wide, num_outputs=CLASSES), train.lattices)
    with pytest.raises(DataError, match=f"frames have {DIM + 1} values, the network takes {DIM}"):
        train_on_lattices(start(), other, held_out, LOG_PRIORS, OPTIONS, tmp_path)


def test_a_rate_that_is_too_high_says_which_key_to_lower(data, tmp_path: Path):
    options = OPTIONS.model_copy(update={"learning_rate": 1e6, "max_non_finite": 2})
    with pytest.raises(StageError) as error:
        train_on_lattices(start(), *data, LOG_PRIORS, options, tmp_path, EngineOptions(workers=1))
    assert "Lower sequence.learning_rate (now " in str(error.value)
