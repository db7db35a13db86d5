"""Options of the learning-rate schedules."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mariana_asr.options import Options, tag_alone


class NewbobOptions(Options):
    """The newbob schedule, with the names and defaults of Kaldi's steps/nnet/train_scheduler.sh."""

    type: Literal["newbob"] = "newbob"
    """Kind of schedule."""
    max_iters: int = Field(default=20, ge=1)
    """Stop after so many epochs."""
    min_iters: int = Field(default=0, ge=0)
    """Train at least so many epochs; these are all accepted."""
    keep_lr_iters: int = Field(default=0, ge=0)
    """Keep the learning rate for so many epochs at the beginning; these are all accepted."""
    start_halving_impr: float = 0.01
    """Start lowering the learning rate once an epoch improves the held-out loss by less than
    this part of it."""
    end_halving_impr: float = 0.001
    """Stop once an epoch at a lowered rate improves the held-out loss by less than this part."""
    halving_factor: float = Field(default=0.5, gt=0.0, le=1.0)
    """What the learning rate is multiplied by after each epoch, once lowering has started."""


class ExponentialOptions(Options):
    """A rate that falls by the same factor with every step, as in Kaldi's nnet3 training.

    Every epoch is kept and goes on from the one before; the weights of the best one are the result.
    """

    type: Literal["exponential"] = "exponential"
    """Kind of schedule."""
    epochs: int = Field(default=10, ge=1)
    """How many epochs to train."""
    final_factor: float = Field(default=0.1, gt=0.0, le=1.0)
    """The last step's learning rate, as a part of the first one's."""


class CosineOptions(Options):
    """A rate that falls along half a cosine, after ``train.warmup_steps`` in which it rises.

    Every epoch is kept and goes on from the one before; the weights of the best one are the result.
    Loshchilov and Hutter (2017), without restarts.
    """

    type: Literal["cosine"] = "cosine"
    """Kind of schedule."""
    epochs: int = Field(default=10, ge=1)
    """How many epochs to train."""
    final_factor: float = Field(default=0.01, ge=0.0, le=1.0)
    """The last step's learning rate, as a part of the highest one."""


ScheduleOptions = Annotated[
    NewbobOptions | ExponentialOptions | CosineOptions,
    Field(discriminator="type"),
    BeforeValidator(tag_alone("type", "newbob")),
]
"""Options of any schedule; ``type`` says which."""
