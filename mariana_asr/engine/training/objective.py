"""What training minimises: a network with its loss, as one module that workers can share."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class FrameNetwork(Protocol):
    """What training needs of a network, which is an ``nn.Module`` besides.

    It maps windows (B, (left_context + 1 + right_context) * frame_dim) to logits (B, num_outputs).
    """

    frame_dim: int
    num_outputs: int
    left_context: int
    right_context: int


class FrameClassification(nn.Module):
    """Cross-entropy of a network's logits, summed over frames, and how many it got right."""

    def __init__(self, network: nn.Module) -> None:
        """The network becomes a submodule, so that its parameters are ``network.*``."""
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (B, W * D) and targets (B,) to the loss in nats and the number of right frames.

        Under autocast the loss is still taken in float32.
        """
        logits = self.network(windows).float()
        loss = cross_entropy(logits, targets, reduction="sum")
        with torch.no_grad():
            # As argmax == target, which is ten times slower on a CPU; only here do ties count.
            of_target = logits.gather(1, targets[:, None]).squeeze(1)
            correct = (of_target == logits.amax(dim=1)).sum()
        return loss, correct
