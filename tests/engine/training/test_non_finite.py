"""An utterance with absurd values: its minibatches are skipped by all workers, and it is named."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference
from gloo import run_workers

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.packing import pack_frames
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    BmufOptions,
    EngineOptions,
    ExponentialOptions,
    PowerSgdOptions,
    TrainOptions,
)
from mariana_asr.engine.training.train import Job, run_job
from mariana_asr.errors import StageError
from mariana_asr.nnet.dnn import Dnn, DnnOptions

NETWORK = DnnOptions(hidden_layers=2, hidden_dim=20, left_context=1, right_context=1)
OPTIONS = TrainOptions(
    learning_rate=0.002,
    minibatch_size=64,
    randomizer_size=1000,
    schedule=ExponentialOptions(epochs=1),
    max_non_finite=100,
)
EXCHANGES = {
    "allreduce": EngineOptions(),
    "powersgd": EngineOptions(exchange=PowerSgdOptions(start_step=3)),
    "bmuf": EngineOptions(exchange=BmufOptions(block_steps=4), sync_batch_norm=False),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    sound = pack_linear_task(folder / "dev", seed=2, utterances=40)

    def utterances():
        for number in range(sound.num_utterances):
            frames, targets = sound.read_utterance(number)
            yield f"utt{number}", frames, targets
        broken = np.full((3, DIM), 3e38, dtype=np.float32)
        yield "broken", broken, np.zeros(3, dtype=np.int32)

    return pack_frames(folder / "train", utterances(), num_outputs=CLASSES).directory, (
        sound.directory
    )


def train(workers: Workers, stores, out: Path, kind: str, options: TrainOptions = OPTIONS):
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("mariana_asr.engine.training.loop")
    logger.addHandler(handler)
    network = Dnn(NETWORK, DIM, CLASSES)
    try:
        summary = run_job(Job(network, *stores, options, EXCHANGES[kind], out / kind), workers)
    finally:
        logger.removeHandler(handler)
    skipped = [text for text in messages if "step skipped" in text]
    return summary.skipped_steps, skipped, network.state_dict()


def train_each(workers: Workers, stores, out: Path):
    return {kind: train(workers, stores, out, kind) for kind in EXCHANGES}


def give_up(workers: Workers, stores, out: Path) -> str:
    options = OPTIONS.model_copy(update={"max_non_finite": 1})
    try:
        train(workers, stores, out / "gives up", "allreduce", options)
    except StageError as error:
        return str(error)
    return ""


def test_workers_skip_the_same_steps_and_name_the_utterance(stores, tmp_path: Path):
    results = run_workers(train_each, 2, stores, tmp_path)
    steps = -(-FrameStore.open(stores[0]).num_frames // OPTIONS.minibatch_size)
    for kind in EXCHANGES:
        (skipped, messages, weights), (skipped_too, others, weights_too) = (
            result[kind] for result in results
        )
        assert 1 <= skipped == skipped_too <= 3 < steps, kind
        assert all(text.endswith("frames of utterances broken") for text in messages + others)
        assert messages or kind == "bmuf"
        assert all(torch.isfinite(tensor).all() for tensor in weights.values()), kind
        assert relative_difference(weights_too, weights) == 0.0, kind


def test_all_workers_give_up_with_the_same_message(stores, tmp_path: Path):
    one, other = run_workers(give_up, 2, stores, tmp_path)
    assert one == other
    assert "1 minibatches in a row, the last with frames of utterances broken" in one
