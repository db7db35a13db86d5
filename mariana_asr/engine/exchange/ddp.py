"""Exchanges that hook into DistributedDataParallel."""

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future, collect_all
from torch.nn.parallel import DistributedDataParallel

from mariana_asr.engine.exchange.exchange import Exchange
from mariana_asr.engine.launch.workers import Workers

BUCKET_MEGABYTES = 2.0
"""Gradients are exchanged in buckets of about this size, each as soon as it is full."""

KEEP_BUFFERS: dict[str, Any] = {
    # What it is called from torch 2.13 on, or what it was before.
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}
"""Tells DistributedDataParallel not to send the first worker's buffers to all in each step."""


class DdpExchange(Exchange):
    """Gradients are summed during the backward pass, bucket by bucket, by a hook of ours.

    DistributedDataParallel fills the buckets and waits for them. Its own way is to average; the
    hooks here sum, as losses are sums over frames.
    """

    def __init__(
        self,
        objective: nn.Module,
        workers: Workers,
        *,
        exact_squares: bool,
        bucket_megabytes: float = BUCKET_MEGABYTES,
    ) -> None:
        """``bucket_megabytes``: size from which on a bucket is exchanged."""
        super().__init__(objective, workers)
        self.squares = {} if exact_squares else None
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}
        self._ddp = DistributedDataParallel(
            _Rehearsed(objective),
            device_ids=[workers.device] if workers.device.type == "cuda" else None,
            bucket_cap_mb=bucket_megabytes,
            gradient_as_bucket_view=True,
            **KEEP_BUFFERS,
        )
        self.objective = self._ddp
        self._ddp.register_comm_hook(None, self._exchange)
        self._rehearse()

    def _rehearse(self) -> None:
        """Let the buckets become what they stay.

        DistributedDataParallel rebuilds them once, in the order of the first backward pass. Done
        here, a resumed run has in its first step the buckets of the run that it goes on with: the
        order in which three and more numbers are summed depends on where in a bucket they are.
        """
        for _ in range(2):
            self._ddp().backward()
        self.zero_grad()
        self.meter.take()

    def _exchange(self, state: object, bucket: dist.GradBucket) -> Future[Tensor]:
        """The hook: called on each bucket once it has this worker's gradients."""
        squares = self._sum_squares(bucket) if self.squares is not None else None
        summed = self._sum_bucket(bucket)
        if squares is None:
            return summed
        return collect_all([summed, squares]).then(lambda both: both.value()[0].value())

    @abstractmethod
    def _sum_bucket(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """Replace the gradients in a bucket by their sums over the workers."""

    def _sum_squares(self, bucket: dist.GradBucket) -> Future[Tensor]:
        """Sum this worker's squared gradients with those of the others."""
        assert self.squares is not None
        squares = bucket.buffer().square()
        parameters = bucket.parameters()
        parts = squares.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            self.squares[self._names[id(parameter)]] = part.view_as(parameter)
        return self._sum_adaptive(squares)

    def _sum_adaptive(self, squares: Tensor) -> Future[Tensor]:
        """Sum a flat tensor of squares over the workers, in place."""
        self.meter.count_all_reduce("adaptive", squares.nbytes)
        return self._all_reduce(squares)

    def _all_reduce(self, tensor: Tensor) -> Future[Tensor]:
        """Sum a tensor over all workers, in place, beside the backward pass."""
        ended = self.meter.launch(hidden=True)

        def end(future: Future[list[Tensor]]) -> Tensor:
            ended()
            return future.value()[0]

        return dist.all_reduce(tensor, async_op=True).get_future().then(end)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """As of :class:`Exchange`."""
        return nullcontext() if last else self._ddp.no_sync()

    def finish_backward(self, local_frames: int, global_frames: int) -> int:
        """The end of the backward pass has waited already."""
        return global_frames

    def close(self) -> None:
        """As of :class:`Exchange`."""
        super().close()
        del self._ddp


class _Rehearsed(nn.Module):
    """A module that can also run backward without data, when it is called without any."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *args: Any) -> Any:
        """The objective's, or a zero that depends on all parameters.

        Its gradients come in the reverse order of the parameters, as they do in a network whose
        layers are defined in their order.
        """
        if args:
            return self.objective(*args)
        zero = torch.zeros(())
        for parameter in self.objective.parameters():
            if parameter.requires_grad:
                zero = zero.to(parameter.device) + 0.0 * parameter.sum()
        return zero
