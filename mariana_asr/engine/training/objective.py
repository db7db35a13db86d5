"""What training minimises: a network with its loss, as one module that workers can share."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import skip_init

from mariana_asr.engine.frames.pool import NO_TARGET
from mariana_asr.engine.options import LossOptions
from mariana_asr.errors import RecipeError
from mariana_asr.nnet.spec_augment import SpecAugment


class FrameClassification(nn.Module):
    """Cross-entropy of a network's logits, summed over frames, and how many it got right.

    In training the options' loss takes its place.
    """

    groups: Tensor | None
    group_sizes: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        loss: LossOptions | None = None,
        *,
        groups: Tensor | None = None,
        spec_augment: SpecAugment | None = None,
    ) -> None:
        """The network becomes a submodule, so that its parameters are ``network.*``.

        Args:
            network: As ``FrameNetwork``; for ``loss.group_task`` with a :class:`GroupTask`.
            loss: The loss of training; plain cross-entropy if left out.
            groups: (P,) int64 group of each class, where the loss needs them.
            spec_augment: Masks on the input in training.
        """
        super().__init__()
        self.network = network
        self.loss = loss or LossOptions()
        self.spec_augment = spec_augment
        self.register_buffer("groups", groups, persistent=False)
        sizes = None if groups is None else torch.bincount(groups)
        self.register_buffer("group_sizes", sizes, persistent=False)
        self._is_plain = self.loss == LossOptions()

    def forward(self, windows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (B, W * D) and targets (B * L,) to the loss in nats and the number of right ones.

        What has no target counts for nothing. Under autocast the loss is still taken in float32.
        """
        if self.spec_augment is not None:
            windows = self.spec_augment(windows)
        if self.training and not self._is_plain:
            logits, loss = self._training_loss(windows, targets)
        else:
            logits = self.network(windows).float()
            loss = cross_entropy(logits, targets, reduction="sum", ignore_index=NO_TARGET)
        with torch.no_grad():
            # As argmax == target, which is ten times slower on a CPU; only here do ties count.
            of_target = logits.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
            correct = (of_target == logits.amax(dim=1)).logical_and_(targets != NO_TARGET).sum()
        return loss, correct

    def _training_loss(self, windows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B * L, P), and the loss summed over frames."""
        network: Any = self.network
        options = self.loss
        if options.group_task:
            hidden = network.hidden_of(windows)
            logits, group_logits = network.output(hidden).float(), network.group_task(hidden)
        else:
            logits = network(windows).float()
        is_frame = targets != NO_TARGET
        classes = targets.clamp(min=0)
        log_posteriors = torch.log_softmax(logits, dim=1)
        of_target = log_posteriors.gather(1, classes[:, None]).squeeze(1)
        kept = 1.0 - options.label_smoothing - options.group_smoothing
        loss = -kept * of_target
        if options.label_smoothing:
            loss = loss - options.label_smoothing * log_posteriors.mean(dim=1)
        if options.group_smoothing:
            loss = loss - options.group_smoothing * self._mean_of_group(log_posteriors, classes)
        if options.focal_gamma:
            # Of the posterior that is above 1 by rounding, the root would be no number.
            missing = (1.0 - of_target.exp()).clamp(min=1e-7)
            loss = loss * missing.pow(options.focal_gamma)
        if options.group_task:
            assert self.groups is not None
            target_groups = self.groups.index_select(0, classes)
            task = cross_entropy(group_logits.float(), target_groups, reduction="none")
            loss = loss + options.group_task * task
        return logits, (loss * is_frame).sum()

    def _mean_of_group(self, log_posteriors: Tensor, classes: Tensor) -> Tensor:
        """Of each frame the mean of the log-posteriors of its target's group: (B * L,)."""
        assert self.groups is not None
        assert self.group_sizes is not None
        sums = log_posteriors.new_zeros(len(log_posteriors), len(self.group_sizes))
        sums = sums.index_add(1, self.groups, log_posteriors)
        group = self.groups.index_select(0, classes)[:, None]
        return (sums / self.group_sizes).gather(1, group).squeeze(1)


class GroupTask:
    """Gives a network a second output layer, ``network.group_task``, as long as it is trained.

    As a part of the network it is trained, exchanged and saved in checkpoints as all of it is.
    """

    def __init__(self, network: Any, num_groups: int) -> None:
        """Nothing is done before the ``with`` block.

        Raises:
            RecipeError: The network is not made of hidden layers and an output layer.
        """
        output = getattr(network, "output", None)
        if not (isinstance(output, nn.Linear) and hasattr(network, "hidden_of")):
            raise RecipeError(
                f"{type(network).__name__} cannot have a second task: it needs the method "
                "hidden_of(windows) and an nn.Linear called output",
                where="train.loss.group_task",
                remedy="Leave group_task out, or take one of the networks of this program",
            )
        self._network, self._size = network, (output.in_features, num_groups)

    def __enter__(self) -> None:
        # From zero, as the output layer of a softmax may be: no generator is touched.
        layer = skip_init(nn.Linear, *self._size)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        self._network.group_task = layer

    def __exit__(self, *exception: object) -> None:
        del self._network.group_task
