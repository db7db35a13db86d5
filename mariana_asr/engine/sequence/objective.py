"""What sequence training minimises: a network with its criterion, as one module."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mariana_asr.engine.options import SequenceOptions
from mariana_asr.engine.sequence.criterion import Criterion, LatticeLoss
from mariana_asr.engine.sequence.source import Utterance
from mariana_asr.nnet.utterance_logits import utterance_logits


class SequenceObjective(nn.Module):
    """A criterion on the lattices of utterances, summed over frames, and the frames it has right.

    Acoustic log-likelihoods are logits less log-priors. In training the options' cross-entropy
    comes on top, and the gradient leaves the acoustic scale out, as Kaldi's nnet1 does.

    The network always is in evaluation mode: lattices are those of the network at work, and its
    batch statistics would be those of a few utterances.
    """

    log_priors: Tensor
    groups: Tensor

    def __init__(
        self, network: Any, options: SequenceOptions, log_priors: Tensor, groups: Tensor
    ) -> None:
        """The network becomes a submodule, so that its parameters are ``network.*``.

        Args:
            network: As ``FrameNetwork``.
            options: Criterion and scales.
            log_priors: (P,) float32 what is subtracted from logits.
            groups: (P,) int64: a class is right where its group is the reference's.
        """
        super().__init__()
        self.network = network
        self._scale, self._cross_entropy = options.acoustic_scale, options.cross_entropy
        self._criterion = Criterion(options.criterion, options.boost, options.drop_frames)
        self.register_buffer("log_priors", log_priors, persistent=False)
        self.register_buffer("groups", groups, persistent=False)

    def train(self, mode: bool = True) -> "SequenceObjective":
        """Set the mode of everything but the network."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, utterances: list[Utterance]) -> tuple[Tensor, Tensor]:
        """Loss, and expected number of right frames, over some utterances."""
        if not utterances:
            # Still a function of all parameters, whose gradients other workers wait for.
            zero = torch.stack([0.0 * p.sum() for p in self.network.parameters()]).sum()
            return zero, zero.detach()
        losses, right = zip(*map(self._judge, utterances), strict=True)
        return torch.stack(losses).sum(), torch.stack(right).sum()

    def _judge(self, utterance: Utterance) -> tuple[Tensor, Tensor]:
        logits = torch.cat(list(utterance_logits(self.network, utterance.frames))).float()
        scores = self._scale * (logits - self.log_priors)
        loss, right, _ = LatticeLoss.apply(
            scores, utterance.targets, self.groups, utterance.lattice, self._criterion
        )
        if not self.training:
            return loss, right
        # Its value stays what it is; only its gradient grows.
        loss = loss + (1.0 / self._scale - 1.0) * (loss - loss.detach())
        if self._cross_entropy:
            frames = cross_entropy(logits, utterance.targets, reduction="sum")
            loss = loss + self._cross_entropy * frames
        return loss, right
