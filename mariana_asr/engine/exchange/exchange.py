"""What every exchange offers to the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mariana_asr.engine.exchange.meter import ExchangeMeter
from mariana_asr.engine.launch.workers import Workers

OptimiserState = Literal["shared", "sharded", "local"]
"""Whether all workers' optimisers hold the same, parts of one whole, or each its own."""


class Exchange(ABC):
    """One worker's side of combining what the workers learn.

    A step is: :meth:`zero_grad`; for each piece of the worker's part of the minibatch, under
    :meth:`accumulating`, the forward and backward pass through :attr:`objective`, whose loss is a
    sum over frames; :meth:`finish_backward`; the optimiser's step on :attr:`parameters`;
    :meth:`finish_step`. All workers do all of it, in the same order, even with no frames at all.

    Attributes:
        objective: What to call. It may wrap the module that was given.
        parameters: What this worker's optimiser updates, by the names that
            ``objective.named_parameters()`` of the module that was given has.
        squares: After :meth:`finish_backward`, and with the exact adaptive rule only: the sum over
            the workers of each one's own squared gradient, by name.
        meter: What the exchange costs.
        sum_over_owners: Sums a tensor over the workers that own parts of the parameters; None if
            every worker has all of them.
        optimiser_state: How the workers' optimisers belong together.
        resets_momentum: Whether optimisers should forget their momentum whenever workers come
            together (see :attr:`at_boundary`).
    """

    optimiser_state: OptimiserState = "shared"
    resets_momentum: bool = False

    def __init__(self, objective: nn.Module, workers: Workers) -> None:
        self.objective = objective
        self.parameters: dict[str, Tensor] = _trained(objective)
        self.squares: dict[str, Tensor] | None = None
        self.meter = ExchangeMeter(workers)
        self.sum_over_owners: Callable[[Tensor], Tensor] | None = None
        self._workers = workers
        self._given = objective

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Where one piece's forward and backward pass run; only the last piece exchanges."""
        return nullcontext()

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self._given.parameters():
            parameter.grad = None

    @abstractmethod
    def finish_backward(self, local_frames: int, global_frames: int) -> int:
        """Wait until :attr:`parameters` have their gradients.

        Args:
            local_frames: Frames of this worker's part of the minibatch; may be 0.
            global_frames: Frames of all workers.

        Returns:
            Of how many frames the gradients are the sum; at least 1.
        """

    def finish_step(self, applied: bool) -> None:
        """Bring to the workers what the optimisers did.

        Args:
            applied: False if the step was skipped because its gradients are not finite.
        """
        self.meter.end_step()

    @property
    def at_boundary(self) -> bool:
        """Whether all workers hold the same parameters now."""
        return True

    def synchronise(self) -> None:
        """Bring all workers to the same parameters and buffers now, as at the end of an epoch.

        Buffers differ if batch norm takes its statistics from each worker's own frames.
        """
        self._average_buffers()

    def parameters_changed(self) -> None:  # noqa: B027 (most keep no copy of them)
        """Follow a network that changed its own parameters between two steps."""

    def reset(self) -> None:  # noqa: B027 (most have nothing to forget)
        """Take the network's parameters for new ones: they were set to others on all workers."""

    def close(self) -> None:
        """Leave the module that was given alone: afterwards it can be used without exchange."""
        self.objective = self._given
        self.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """What this worker has to go on with besides parameters and the optimiser's state.

        Tensors, plain values, and dicts of them. It holds between steps, at a boundary.
        """
        return {"buffers": {name: b.detach().clone() for name, b in self._buffers().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict` of the same worker of as many."""
        for name, buffer in self._buffers().items():
            buffer.copy_(state["buffers"][name])

    def _buffers(self) -> dict[str, Tensor]:
        """Buffers of the network that training may change in ways that differ by worker."""
        kept = self._given.state_dict(keep_vars=True).keys()
        return {
            name: buffer
            for name, buffer in self._given.named_buffers()
            if name in kept and buffer.is_floating_point()
        }

    @torch.no_grad()
    def _average_buffers(self) -> None:
        buffers = list(self._buffers().values())
        if not buffers or self._workers.size == 1:
            return
        # In float64 the mean of equal values is that value, which keeps constants what they are.
        flat = torch.cat([buffer.reshape(-1).double() for buffer in buffers])
        means = self._mean_over_workers(flat).split([b.numel() for b in buffers])
        for buffer, mean in zip(buffers, means, strict=True):
            buffer.copy_(mean.view_as(buffer))

    def _mean_over_workers(self, parameters: Tensor) -> Tensor:
        """Average a tensor of parameters or buffers over the workers, in place."""
        self.meter.count_all_reduce("parameter", parameters.nbytes)
        ended = self.meter.launch(hidden=False)
        self._workers.sum(parameters)
        ended()
        return parameters.div_(self._workers.size)

    def _begin_equal(self) -> None:
        """Give all workers the first one's parameters and buffers."""
        for tensor in self._given.state_dict().values():
            dist.broadcast(tensor, 0)


class Alone(Exchange):
    """One worker: nothing is exchanged."""

    def finish_backward(self, local_frames: int, global_frames: int) -> int:
        """As of :class:`Exchange`."""
        return global_frames


def _trained(objective: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in objective.named_parameters() if p.requires_grad}
