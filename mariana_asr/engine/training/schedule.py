"""Learning-rate schedules: pure state machines fed with held-out losses."""

import math
from dataclasses import dataclass
from typing import Any

from mariana_asr.engine.options import NewbobOptions


@dataclass(frozen=True)
class Decision:
    """What an epoch's held-out loss led to."""

    accepted: bool
    """Whether the epoch's weights are kept; else those before the epoch come back."""
    finished: bool
    """Whether training ends."""
    reason: str
    """Why training ends, or what happened to the learning rate; for the log."""


class Newbob:
    """The newbob schedule as in Kaldi's steps/nnet/train_scheduler.sh.

    An epoch that does not lower the held-out loss is rejected. Once an epoch improves the loss by
    less than ``start_halving_impr`` (relative), the learning rate is multiplied by
    ``halving_factor`` after this and every following epoch, until an epoch improves it by less
    than ``end_halving_impr``.

    Attributes:
        learning_rate: The rate for the next epoch.
        loss: Held-out loss of the weights kept.
        epoch: Number of epochs seen.
        halving: Whether the rate has begun to fall.
        finished: Whether training is over.
    """

    def __init__(self, options: NewbobOptions, learning_rate: float, initial_loss: float) -> None:
        """``initial_loss`` is the held-out loss before the first epoch."""
        self.options = options
        self.learning_rate = learning_rate
        self.loss = initial_loss
        self.epoch = 0
        self.halving = False
        self.finished = False

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
        return Decision(accepted, self.finished, reason)

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

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        state = dict(vars(self))
        del state["options"]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of :meth:`state_dict`."""
        vars(self).update(state)
