"""Pretraining on the frame store and the workers."""

import logging
from pathlib import Path

import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference
from gloo import run_workers

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.normalisation import synchronise_batch_norm
from mariana_asr.engine.options import (
    DenoisingOptions,
    EngineOptions,
    NewbobOptions,
    RbmOptions,
    TrainOptions,
)
from mariana_asr.engine.pretraining import pretrain
from mariana_asr.engine.training.stepping import Stepper
from mariana_asr.engine.training.stopping import Stopped, StopSignal
from mariana_asr.engine.training.train import train_network
from mariana_asr.errors import RecipeError
from mariana_asr.nnet.dnn import Dnn, DnnOptions

SIGMOID = DnnOptions(
    hidden_layers=3,
    hidden_dim=30,
    left_context=1,
    right_context=1,
    activation="sigmoid",
    normalisation="none",
    dropout=0.0,
)
RELU = SIGMOID.model_copy(update={"activation": "relu", "normalisation": "batch", "dropout": 0.2})
KINDS = {
    "rbm": (SIGMOID, RbmOptions(epochs=2, first_layer_epochs=3)),
    "denoising": (RELU, DenoisingOptions(epochs=2)),
}
ALONE = Workers.alone(torch.device("cpu"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return pack_linear_task(
        tmp_path_factory.mktemp("stores") / "train", seed=1, utterances=60
    ).directory


def options_for(kind: str) -> TrainOptions:
    return TrainOptions(minibatch_size=64, randomizer_size=1000, pretraining=KINDS[kind][1])


def run(workers: Workers, directory: Path, folder: Path, kind: str, stop=None):
    network = Dnn(KINDS[kind][0], DIM, CLASSES, seed=3)
    synchronise_batch_norm(network, workers)
    store = FrameStore.open(directory)
    stop = stop or StopSignal()
    torch.manual_seed(options_for(kind).seed)
    pretrain(network, store, options_for(kind), EngineOptions(), folder, workers, stop)
    return network.state_dict()


def run_both(workers: Workers, directory: Path, folder: Path):
    return {kind: run(workers, directory, folder / f"{kind}{workers.size}", kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_hidden_layer_learns_to_restore_its_input(directory, tmp_path, kind, caplog):
    with caplog.at_level(logging.INFO):
        found = run(ALONE, directory, tmp_path, kind)
    untouched = Dnn(KINDS[kind][0], DIM, CLASSES, seed=3).state_dict()
    changed = {name for name in found if not torch.equal(found[name], untouched[name])}
    assert {name for name in found if name.startswith("hidden") and "weight" in name} <= changed
    assert not any(name.startswith("output") for name in changed)
    errors: dict[str, list[float]] = {}
    for record in caplog.records:
        layer, *_, error = record.args
        errors.setdefault(layer, []).append(error)
    assert len(errors) == 3
    assert all(values[-1] < values[0] for values in errors.values()), errors


def test_any_number_of_workers_learns_the_same(directory, tmp_path):
    expected = {kind: run(ALONE, directory, tmp_path / kind, kind) for kind in KINDS}
    for found in run_workers(run_both, 2, directory, tmp_path):
        for kind in KINDS:
            assert relative_difference(found[kind], expected[kind]) < 1e-4, kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_at_its_layer_and_ends_with_the_same_bits(
    directory, tmp_path, kind, monkeypatch
):
    expected = run(ALONE, directory, tmp_path / "whole", kind)
    stop, step, steps = StopSignal(), Stepper.step, 0

    def counted(self, *arguments):
        nonlocal steps
        steps += 1
        stop.received = steps > 250
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match=r"pretraining layer hidden"):
        patch.setattr(Stepper, "step", counted)
        run(ALONE, directory, tmp_path / "stopped", kind, stop)
    assert len(list((tmp_path / "stopped").iterdir())) >= 1
    found = run(ALONE, directory, tmp_path / "stopped", kind)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_training_begins_with_it(directory, tmp_path, caplog):
    store = FrameStore.open(directory)
    options = options_for("rbm").model_copy(update={"schedule": NewbobOptions(max_iters=2)})
    with caplog.at_level(logging.INFO):
        train_network(Dnn(SIGMOID, DIM, CLASSES), store, store, options, tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    first_epoch = next(i for i, text in enumerate(messages) if text.startswith("epoch 1"))
    assert sum("pretraining of layer" in text for text in messages[:first_epoch]) == 7
    kept = [path.name for path in (tmp_path / "pretraining").iterdir()]
    assert kept == ["02-hidden.4.ckpt"]


def test_machines_need_sigmoid_units(directory, tmp_path):
    network, store = Dnn(RELU, DIM, CLASSES), FrameStore.open(directory)
    with pytest.raises(RecipeError, match="sigmoid"):
        train_network(network, store, store, options_for("rbm"), tmp_path)
