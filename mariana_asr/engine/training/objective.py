"""What training minimises: a network with its loss, as one module that workers can share."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mariana_asr.engine.frames.pool import NO_TARGET


class FrameClassification(nn.Module):
    """Cross-entropy of a network's logits, summed over frames, and how many it got right."""

    def __init__(self, network: nn.Module) -> None:
        """The network becomes a submodule, so that its parameters are ``network.*``."""
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (B, W * D) and targets (B * L,) to the loss in nats and the number of right ones.

        What has no target counts for nothing. Under autocast the loss is still taken in float32.
        """
        logits = self.network(windows).float()
        loss = cross_entropy(logits, targets, reduction="sum", ignore_index=NO_TARGET)
        with torch.no_grad():
            # As argmax == target, which is ten times slower on a CPU; only here do ties count.
            of_target = logits.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
            correct = (of_target == logits.amax(dim=1)).logical_and_(targets != NO_TARGET).sum()
        return loss, correct
