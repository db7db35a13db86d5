"""Loss and accuracy of a network on a frame store."""

from contextlib import closing
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.randomizer import Randomizer

MINIBATCH_SIZE = 2048
RANDOMIZER_SIZE = 32768


@dataclass(frozen=True)
class Evaluation:
    """How well a network classifies frames."""

    loss: float
    """Mean cross-entropy a frame, in nats; Kaldi's AvgLoss."""
    accuracy: float
    """Share of frames whose most probable class is the target, 0 to 1."""


def evaluate(
    network: nn.Module,
    store: FrameStore,
    *,
    left_context: int,
    right_context: int,
    device: torch.device,
) -> Evaluation:
    """Run a network over every frame of a store, in evaluation mode and without gradients."""
    frames = Randomizer(
        store,
        left_context=left_context,
        right_context=right_context,
        minibatch_size=MINIBATCH_SIZE,
        randomizer_size=RANDOMIZER_SIZE,
        seed=0,
        device=device,
        shuffle=False,
    )
    was_training = network.training
    network.eval()
    # Sums stay on the device until the end, in double precision: nothing waits for them.
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode(), closing(frames.epoch(0)) as minibatches:
        for minibatch in minibatches:
            logits = network(minibatch.inputs)
            loss += cross_entropy(logits, minibatch.targets, reduction="sum")
            correct += (logits.argmax(dim=1) == minibatch.targets).sum()
    network.train(was_training)
    return Evaluation(loss.item() / store.num_frames, correct.item() / store.num_frames)
