"""Workers that train apart for some steps, and then bring together what each has learnt."""

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mariana_asr.engine.exchange.exchange import Exchange
from mariana_asr.engine.launch.workers import Workers


class Blocks(Exchange):
    """What exchanges have in common that only average parameters, at the end of a block of steps.

    Between blocks the network holds the model that all workers agree on.
    """

    optimiser_state = "local"

    def __init__(self, objective: nn.Module, workers: Workers, block_steps: int) -> None:
        """``block_steps``: steps of a block."""
        super().__init__(objective, workers)
        self._begin_equal()
        self._block_steps = block_steps
        self._steps = 0
        self._in_block = False

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """As of :class:`Exchange`."""
        if not self._in_block:
            self._in_block = True
            self._begin_block()
        return nullcontext()

    def finish_step(self, applied: bool) -> None:
        """Count the step, and end the block after the last one of it."""
        self._steps += 1
        if self._steps == self._block_steps:
            self.synchronise()
        super().finish_step(applied)

    @property
    def at_boundary(self) -> bool:
        """As of :class:`Exchange`."""
        return not self._in_block

    @torch.no_grad()
    def synchronise(self) -> None:
        """End the block, whose last steps may be missing."""
        if self._in_block:
            self._end_block()
            self._average_buffers()
        self._steps, self._in_block = 0, False

    def reset(self) -> None:
        """As of :class:`Exchange`; the block that was begun is forgotten."""
        self._steps, self._in_block = 0, False

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of :class:`Exchange`."""
        super().load_state_dict(state)
        self._steps, self._in_block = 0, False

    def _begin_block(self) -> None:
        """Called before the first step of a block."""

    @abstractmethod
    def _end_block(self) -> None:
        """Set the parameters to what all workers agree on."""

    def _mean_parameters(self) -> Tensor:
        """All parameters one after the other, averaged over the workers."""
        return self._mean_over_workers(self._flat_parameters())

    def _flat_parameters(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters.values()])

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of the parameters' shapes, by name."""
        parts = flat.split([p.numel() for p in self.parameters.values()])
        return {
            name: part.view_as(parameter)
            for part, (name, parameter) in zip(parts, self.parameters.items(), strict=True)
        }

    def _set_parameters(self, flat: Tensor) -> None:
        for name, values in self._split(flat).items():
            self.parameters[name].copy_(values)


class LocalSgd(Blocks):
    """Parameters are averaged every few steps (Stich 2019).

    A worker takes its part of a minibatch for the whole: its gradient is scaled up to all frames.
    """

    @torch.no_grad()
    def finish_backward(self, local_frames: int, global_frames: int) -> int:
        """As of :class:`Exchange`."""
        if local_frames > 0:
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad *= global_frames / local_frames
        return global_frames

    def _end_block(self) -> None:
        self._set_parameters(self._mean_parameters())


class BlockMomentum(Blocks):
    """Blockwise model-update filtering (Chen and Huo 2016).

    With the model W, the workers' mean M at the end of a block, and where the block began, B:

    - block's update ``D = block_momentum * D + block_learning_rate * (M - B)``, ``W = W + D``;
    - a block begins at ``B = W`` (classical), or ``B = W + block_momentum * D`` (Nesterov).

    A worker's gradients are those of its own frames. Its steps therefore are as many times too
    short as there are workers, which a block momentum of 1 - 1/workers makes up for.

    Between blocks the network holds W: the Nesterov look-ahead is taken when the next step begins,
    so that W is what is evaluated and saved. An epoch's end ends a block early; what follows is a
    block like any other.
    """

    resets_momentum = True

    def __init__(
        self,
        objective: nn.Module,
        workers: Workers,
        *,
        block_steps: int,
        block_momentum: float | None = None,
        block_learning_rate: float = 1.0,
        nesterov: bool = True,
    ) -> None:
        """As of :class:`BmufOptions`."""
        super().__init__(objective, workers, block_steps)
        if block_momentum is None:
            block_momentum = 1.0 - 1.0 / workers.size
        self._momentum, self._rate = block_momentum, block_learning_rate
        self._nesterov = nesterov
        self._model = self._flat_parameters()
        self._update = torch.zeros_like(self._model)

    @torch.no_grad()
    def _begin_block(self) -> None:
        self._model = self._flat_parameters()
        if self._nesterov:
            self._set_parameters(self._model + self._momentum * self._update)

    def finish_backward(self, local_frames: int, global_frames: int) -> int:
        """As of :class:`Exchange`."""
        return max(local_frames, 1)

    def _end_block(self) -> None:
        begin = self._model
        if self._nesterov:
            begin = begin + self._momentum * self._update
        gain = self._mean_parameters().sub_(begin)
        self._update.mul_(self._momentum).add_(gain, alpha=self._rate)
        self._set_parameters(self._model + self._update)

    def reset(self) -> None:
        """As of :class:`Exchange`; the block momentum is forgotten."""
        super().reset()
        self._update.zero_()

    def state_dict(self) -> dict[str, Any]:
        """As of :class:`Exchange`."""
        update = {name: part.clone() for name, part in self._split(self._update).items()}
        return {**super().state_dict(), "update": update}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of :class:`Exchange`."""
        super().load_state_dict(state)
        for name, part in self._split(self._update).items():
            part.copy_(state["update"][name])
