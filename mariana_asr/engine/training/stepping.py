"""One step of training: forward, backward, exchange, update."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mariana_asr.engine.exchange import make_exchange
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.optimisers.optimiser import Optimiser
from mariana_asr.engine.options import EngineOptions, LearningOptions
from mariana_asr.engine.training.task import Minibatch
from mariana_asr.nnet.dropout import set_frame_position

NETWORK_PREFIX = "network."
"""Of the names of parameters in an objective; users name a network's parameters without it."""


class Stepper:
    """An objective with what trains it: exchange and optimiser.

    Attributes:
        exchange: How the workers combine their gradients or parameters.
        optimiser: Updates what this worker owns.
        sums: (3,) float64 on the device: this worker's loss, measure (for a classification the
            right frames) and frames since they were last taken.
    """

    def __init__(
        self,
        objective: nn.Module,
        workers: Workers,
        options: LearningOptions,
        engine: EngineOptions,
        *,
        learning_rate_factors: dict[str, float],
    ) -> None:
        """The objective is on the workers' device already."""
        self._objective = objective
        self._device = workers.device
        self._pieces = engine.accumulate
        self._autocast = engine.precision == "bfloat16"
        if engine.compile:
            objective.compile()
        squares = getattr(options.optimiser, "squares", "reduced")
        self.exchange = make_exchange(
            objective, workers, engine.exchange, exact_squares=squares == "exact"
        )
        self.optimiser = Optimiser(
            {_plain(name): value for name, value in self.exchange.parameters.items()},
            options,
            learning_rate_factors=learning_rate_factors,
            sum_over_owners=self.exchange.sum_over_owners,
        )
        self.sums = torch.zeros(3, dtype=torch.float64, device=workers.device)
        network = getattr(objective, "network", None)
        self._after_step: Callable[[], None] | None = getattr(network, "after_step", None)
        self._moving = [b for b in objective.buffers() if b.is_floating_point()]

    def step(self, minibatch: Minibatch, learning_rate: float, step_seed: int) -> bool:
        """Learn from a minibatch.

        Args:
            minibatch: This worker's part of it.
            learning_rate: The rate of this step.
            step_seed: Decides what the network draws at random in this step.

        Returns:
            Whether it was learnt from; if its gradient is not finite, nothing is changed.
        """
        before = [buffer.clone() for buffer in self._moving]
        sums = torch.zeros_like(self.sums)
        self.exchange.zero_grad()
        for number, (first_row, piece) in enumerate(minibatch.pieces(self._pieces)):
            set_frame_position(self._objective, step_seed, first_row)
            with self.exchange.accumulating(last=number == self._pieces - 1):
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                    loss, measure = self.exchange.objective(*piece)
                # One, or NaN where the loss is not finite: then no worker's gradient is, and all
                # of them skip the step.
                loss.backward(1.0 + 0.0 * loss.detach())
            sums[0] += loss.detach()
            sums[1] += measure
        sums[2] += minibatch.frames
        frames = self.exchange.finish_backward(minibatch.frames, minibatch.global_frames)
        squares = self.exchange.squares
        if squares is not None:
            squares = {_plain(name): value for name, value in squares.items()}
        applied = self.optimiser.step(learning_rate, frames, squares)
        if applied:
            self.sums += sums
        else:
            # Running statistics of batch norm have seen what was not finite.
            for buffer, value in zip(self._moving, before, strict=True):
                buffer.copy_(value)
        self.exchange.finish_step(applied)
        if applied and self._after_step is not None:
            # Only now all workers have the parameters of this step.
            self._after_step()
            self.exchange.parameters_changed()
        self._forget_momentum_at_boundary()
        return applied

    def synchronise(self) -> None:
        """Bring all workers to the same parameters and buffers, as at the end of an epoch."""
        self.exchange.synchronise()
        self._forget_momentum_at_boundary()

    def _forget_momentum_at_boundary(self) -> None:
        if self.exchange.resets_momentum and self.exchange.at_boundary:
            self.optimiser.forget_momentum()

    def take_sums(self) -> Tensor:
        """The sums since they were last taken, (3,) float64."""
        taken = self.sums.clone()
        self.sums.zero_()
        return taken


def step_seed(seed: int, *place: int) -> int:
    """A number of 64 bits that is another one for any other (seed, place); it is no random one."""
    number = seed
    for part in place:
        number = (number * 6364136223846793005 + part + 1) % 2**64
    return number


def _plain(name: str) -> str:
    return name.removeprefix(NETWORK_PREFIX)
