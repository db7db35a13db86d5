"""Learning-rate schedules: pure state machines fed with held-out losses."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from mariana_asr.engine.options import (
    CosineOptions,
    ExponentialOptions,
    NewbobOptions,
    ScheduleOptions,
)


@dataclass(frozen=True)
class Decision:
    """What an epoch's held-out loss led to."""

    accepted: bool
    """Whether training goes on from the epoch's weights; else those before it come back."""
    best: bool
    """Whether the epoch's weights are the result so far."""
    finished: bool
    """Whether training ends."""
    reason: str
    """Why training ends, or what happened to the learning rate; for the log."""


class Schedule(ABC):
    """What sets the learning rate, keeps or rejects epochs, and ends training.

    Attributes:
        learning_rate: The rate that :meth:`rate` starts from in the next epoch.
        loss: Held-out loss of the weights that are the result so far.
        epoch: Number of epochs seen.
        finished: Whether training is over.
    """

    def __init__(self, learning_rate: float, initial_loss: float) -> None:
        """``initial_loss`` is the held-out loss before the first epoch."""
        self.learning_rate = learning_rate
        self.loss = initial_loss
        self.epoch = 0
        self.finished = False

    @abstractmethod
    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate of a step of the next epoch.

        Args:
            step: Number of the step, from 0.
            num_steps: Steps an epoch, the same for all epochs.
        """

    @abstractmethod
    def update(self, loss: float) -> Decision:
        """Take the held-out loss after the next epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold: plain values."""
        state = dict(vars(self))
        del state["options"]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        vars(self).update(state)


class Newbob(Schedule):
    """The newbob schedule as in Kaldi's steps/nnet/train_scheduler.sh.

    An epoch that does not lower the held-out loss is rejected. Once an epoch improves the loss by
    less than ``start_halving_impr`` (relative), the learning rate is multiplied by
    ``halving_factor`` after this and every following epoch, until an epoch improves it by less
    than ``end_halving_impr``. The rate is the same for all steps of an epoch.

    Attributes:
        halving: Whether the rate has begun to fall.
    """

    def __init__(self, options: NewbobOptions, learning_rate: float, initial_loss: float) -> None:
        """``initial_loss`` is the held-out loss before the first epoch."""
        super().__init__(learning_rate, initial_loss)
        self.options = options
        self.halving = False

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate, whatever the step."""
        return self.learning_rate

    def update(self, loss: float) -> Decision:
        """Take the held-out loss after the next epoch."""
        options = self.options
        self.epoch += 1
        previous = self.loss
        forced = self.epoch <= max(options.keep_lr_iters, options.min_iters)
        accepted = math.isfinite(loss) and (loss < previous or forced)
        if accepted:
            self.loss = loss
        reason = self._adapt(previous)
        if not self.finished and self.epoch >= options.max_iters:
            self.finished = True
            reason = f"max_iters={options.max_iters} epochs done"
        return Decision(accepted, accepted, self.finished, reason)

    def _adapt(self, previous: float) -> str:
        options = self.options
        if self.epoch <= options.keep_lr_iters:
            return "learning rate kept by keep_lr_iters"
        improvement = (previous - self.loss) / previous if previous else 0.0
        if self.halving and improvement < options.end_halving_impr:
            if self.epoch <= options.min_iters:
                return f"improvement {improvement:.5f}, but min_iters={options.min_iters}"
            self.finished = True
            return f"improvement {improvement:.5f} is below {options.end_halving_impr}"
        if improvement < options.start_halving_impr:
            self.halving = True
        if not self.halving:
            return "learning rate kept"
        self.learning_rate *= options.halving_factor
        return "learning rate lowered"


class SteadySchedule(Schedule):
    """A rate that falls from step to step over a number of epochs known beforehand.

    Every epoch is kept and goes on from the one before, except one after which the held-out loss
    is not finite: from its weights nothing could be trained any more. ``learning_rate`` stays the
    highest rate.
    """

    def __init__(
        self,
        options: ExponentialOptions | CosineOptions,
        learning_rate: float,
        initial_loss: float,
    ) -> None:
        """``initial_loss`` is the held-out loss before the first epoch."""
        super().__init__(learning_rate, initial_loss)
        self.options = options

    @abstractmethod
    def fall(self, part: float) -> float:
        """The factor on the rate when ``part`` (0 to 1) of the way is gone."""

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate of a step; the last step of the last epoch has the lowest."""
        gone = self.epoch * num_steps + step
        last = self.options.epochs * num_steps - 1
        return self.learning_rate * self.fall(min(gone / last, 1.0) if last > 0 else 0.0)

    def update(self, loss: float) -> Decision:
        """Take the held-out loss after the next epoch."""
        self.epoch += 1
        self.finished = self.epoch >= self.options.epochs
        accepted = math.isfinite(loss)
        best = accepted and loss < self.loss
        if best:
            self.loss = loss
        if self.finished:
            reason = f"epochs={self.options.epochs} done"
        elif accepted:
            reason = "best so far" if best else "not better than the best so far"
        else:
            reason = "held-out loss is not finite"
        return Decision(accepted, best, self.finished, reason)


class Exponential(SteadySchedule):
    """A rate that falls by the same factor with every step, as in Kaldi's nnet3 training."""

    def fall(self, part: float) -> float:
        """``final_factor`` to the power of ``part``."""
        return self.options.final_factor**part


class Cosine(SteadySchedule):
    """A rate that falls along half a cosine (Loshchilov and Hutter 2017, without restarts)."""

    def fall(self, part: float) -> float:
        """From 1 down to ``final_factor``, slowly at both ends."""
        final = self.options.final_factor
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * part))


def make_schedule(options: ScheduleOptions, learning_rate: float, initial_loss: float) -> Schedule:
    """Make the schedule that the options ask for.

    Args:
        options: Kind of schedule and its figures.
        learning_rate: The highest rate.
        initial_loss: Held-out loss before the first epoch.
    """
    if isinstance(options, NewbobOptions):
        return Newbob(options, learning_rate, initial_loss)
    if isinstance(options, ExponentialOptions):
        return Exponential(options, learning_rate, initial_loss)
    return Cosine(options, learning_rate, initial_loss)
