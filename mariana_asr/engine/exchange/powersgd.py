"""Exchange low-rank factors of the gradients."""

from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.futures import Future

from mariana_asr.engine.exchange.ddp import DdpExchange
from mariana_asr.engine.launch.workers import Workers


class PowerSgd(DdpExchange):
    """PowerSGD (Vogels, Karimireddy and Jaggi 2019), as torch has it.

    Each weight matrix is sent as the two factors of one step of power iteration; where these are
    not less than half of the matrix, and for biases, whole gradients are summed. What a worker's
    part in the factors misses of its own gradient is added to that of the next step.

    All gradients are one bucket, as torch's hook needs it with gloo: nothing of the exchange is
    hidden behind the backward pass.
    """

    def __init__(
        self,
        objective: nn.Module,
        workers: Workers,
        *,
        rank: int,
        start_step: int,
        exact_squares: bool = False,
    ) -> None:
        """As of :class:`PowerSgdOptions` and make_exchange."""
        self._rank, self._start_step = rank, start_step
        self._state = self._new_state()
        self._order: list[str] = []
        megabytes = sum(p.nbytes for p in objective.parameters()) / 2**20
        super().__init__(
            objective,
            workers,
            exact_squares=exact_squares,
            bucket_megabytes=megabytes + 1.0,
        )
        self._state = self._new_state()  # without the steps of the rehearsal

    def _new_state(self) -> PowerSGDState:
        return PowerSGDState(
            None,
            matrix_approximation_rank=self._rank,
            start_powerSGD_iter=self._start_step,
        )

    def _sum_bucket(self, bucket: dist.GradBucket) -> Future[Tensor]:
        state, size = self._state, self._workers.size
        self._order = [self._names[id(parameter)] for parameter in bucket.parameters()]
        compressed = state.iter >= state.start_powerSGD_iter
        if compressed and 0 not in state.p_memory_dict:
            # A seed for the first factors that a resumed run has, too.
            state.rng = np.random.RandomState(state.iter)
        sent_before = state.total_numel_after_compression
        ended = self.meter.launch(hidden=True)
        future = powerSGD_hook(state, bucket)
        gradients = bucket.buffer()
        if compressed:
            numel = state.total_numel_after_compression - sent_before
        else:
            numel = gradients.numel()
        self.meter.count_all_reduce("gradient", numel * gradients.element_size())

        def finish(averaged: Future[Tensor]) -> Tensor:
            ended()
            return averaged.value().mul_(size)

        return future.then(finish)

    def finish_step(self, applied: bool) -> None:
        """As of :class:`Exchange`; after a skipped step errors and factors are forgotten."""
        if not applied:
            self.reset()
        super().finish_step(applied)

    def reset(self) -> None:
        """As of :class:`Exchange`."""
        for kept in (
            self._state.error_dict,
            self._state.p_memory_dict,
            self._state.q_memory_dict,
        ):
            kept.clear()

    def state_dict(self) -> dict[str, Any]:
        """As of :class:`Exchange`."""
        state = self._state
        return {
            **super().state_dict(),
            "step": state.iter,
            "order": list(self._order),
            "error": [error.clone() for error in state.error_dict.values()],
            # The left factors are computed anew from the right ones in each step.
            "left": [factors.clone() for factors in state.p_memory_dict.values()],
            "right": [factors.clone() for factors in state.q_memory_dict.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of :class:`Exchange`."""
        super().load_state_dict(state)
        self.reset()
        self._state.iter = state["step"]
        if state["order"] != self._order:
            return  # Only another version of torch can order them in another way.
        for kept, saved in (
            (self._state.error_dict, state["error"]),
            (self._state.p_memory_dict, state["left"]),
            (self._state.q_memory_dict, state["right"]),
        ):
            for tensor in saved:
                kept[0] = tensor.to(self._workers.device, copy=True)
