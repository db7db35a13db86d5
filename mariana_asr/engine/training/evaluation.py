"""Loss and accuracy of a network on a frame store."""

from contextlib import closing
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.randomizer import Randomizer
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.training.objective import FrameClassification
from mariana_asr.nnet.network import FrameNetwork

MINIBATCH_SIZE = 2048
RANDOMIZER_SIZE = 32768


@dataclass(frozen=True)
class Evaluation:
    """How well a network classifies frames."""

    loss: float
    """Mean loss a frame: of a classification the cross-entropy in nats, Kaldi's AvgLoss."""
    accuracy: float
    """Mean measure a frame: of a classification the share of right frames, 0 to 1."""


def evaluate_network(
    network: FrameNetwork, store: FrameStore, device: torch.device | str = "cpu"
) -> Evaluation:
    """Cross-entropy and accuracy of a network on all frames of a store; it stays on the device."""
    network.to(device)
    return evaluate(
        FrameClassification(cast(nn.Module, network)),
        store,
        Workers.alone(torch.device(device)),
        left_context=network.left_context,
        right_context=network.right_context,
        chunk_frames=network.chunk_frames,
    )


def evaluate(
    objective: nn.Module,
    store: FrameStore,
    workers: Workers,
    *,
    left_context: int,
    right_context: int,
    chunk_frames: int,
) -> Evaluation:
    """Run an objective over every frame of a store, in evaluation mode and without gradients.

    Workers share the frames, and all of them get the whole figures.
    """
    frames = Randomizer(
        store,
        left_context=left_context,
        right_context=right_context,
        chunk_frames=chunk_frames,
        minibatch_size=MINIBATCH_SIZE * workers.size,
        randomizer_size=RANDOMIZER_SIZE,
        seed=0,
        workers=workers,
        shuffle=False,
    )
    was_training = objective.training
    objective.eval()
    # Sums stay on the device until the end, in double precision: nothing waits for them.
    sums = torch.zeros(2, dtype=torch.float64, device=workers.device)
    with torch.inference_mode(), closing(frames.epoch(0)) as minibatches:
        for minibatch in minibatches:
            loss, measure = objective(minibatch.inputs, minibatch.targets)
            sums[0] += loss
            sums[1] += measure
    objective.train(was_training)
    loss_sum, measure_sum = workers.sum(sums).tolist()
    return Evaluation(loss_sum / store.num_frames, measure_sum / store.num_frames)
