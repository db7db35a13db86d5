"""Stochastic gradient descent with the conventions of Kaldi's nnet1."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_


class FrameSgd:
    """SGD on the sum of a minibatch's frame losses.

    As in Kaldi's nnet1 (UpdatableComponent of nnet-affine-transform.h):

    - a step is ``-learning_rate`` times the sum, not the mean, of the frames' gradients;
    - momentum: ``c = momentum * c + gradient``, step ``-learning_rate * c``;
    - weights (not biases) are also multiplied by ``1 - learning_rate * l2_penalty * frames``,
      which does not enter the momentum.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        momentum: float,
        l2_penalty: float,
        max_grad_norm: float | None,
        learning_rate_factors: Mapping[str, float],
    ) -> None:
        """``learning_rate_factors`` names parameters trained at another rate, with its factor."""
        by_factor: dict[float, list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                factor = learning_rate_factors.get(name, 1.0)
                by_factor.setdefault(factor, []).append(parameter)
        groups = [{"params": params, "factor": factor} for factor, params in by_factor.items()]
        self._parameters = [parameter for params in by_factor.values() for parameter in params]
        self._sgd = torch.optim.SGD(groups, lr=0.0, momentum=momentum)
        self._l2_penalty = l2_penalty
        self._max_grad_norm = max_grad_norm

    def zero_grad(self) -> None:
        """Forget gradients."""
        self._sgd.zero_grad(set_to_none=True)

    def step(self, learning_rate: float, frames: int) -> bool:
        """Update the parameters from the summed gradients of ``frames`` frames.

        Returns:
            False, and nothing is changed, if gradients are clipped and their norm is not finite.
        """
        if self._max_grad_norm is not None:
            norm = clip_grad_norm_(self._parameters, self._max_grad_norm * frames)
            if not torch.isfinite(norm):
                return False
        for group in self._sgd.param_groups:
            group["lr"] = learning_rate * group["factor"]
            if self._l2_penalty > 0.0:
                keep = 1.0 - group["lr"] * self._l2_penalty * frames
                with torch.no_grad():
                    for parameter in group["params"]:
                        if parameter.ndim > 1:
                            parameter.mul_(keep)
        self._sgd.step()
        return True

    def forget_momentum(self) -> None:
        """Begin anew, after the weights were set to others."""
        self._sgd.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        return self._sgd.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        self._sgd.load_state_dict(state)
