"""Options of training; importing them does not load torch."""

from typing import Literal

from pydantic import Field

from mariana_asr.options import Options


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


class TrainOptions(Options):
    """Training of a network on frames.

    ``learning_rate``, ``momentum`` and ``l2_penalty`` are rates per frame, as in Kaldi's nnet1:
    a step moves the weights by the learning rate times the *sum* of the minibatch's gradients.
    (Kaldi's 0.008 at a minibatch of 256 is 2.048 where losses are averaged.) A larger minibatch
    thus takes proportionally larger steps; no rate has to be scaled by hand.
    """

    learning_rate: float = Field(default=0.004, gt=0.0)
    """Learning rate per frame at the start. Kaldi's, for sigmoid networks, is 0.008."""
    schedule: NewbobOptions = NewbobOptions()
    """How the learning rate falls, and when training ends."""
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Part of the last step that the next one goes on with."""
    l2_penalty: float = Field(default=0.0, ge=0.0)
    """Weights (not biases) shrink by learning_rate * l2_penalty a frame, beside the gradient."""
    max_grad_norm: float | None = Field(default=None, gt=0.0)
    """Upper bound for the L2 norm of a minibatch's mean gradient; none by default."""
    minibatch_size: int = Field(default=256, ge=1)
    """Frames a step."""
    randomizer_size: int = Field(default=32768, ge=1)
    """Frames that are shuffled among themselves; blocks of utterances come in random order."""
    seed: int = Field(default=777, ge=0)
    """Decides the order of frames, the initial weights and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; ``auto`` takes a GPU if there is one."""
    checkpoint_every: int = Field(default=10000, ge=1)
    """Save a checkpoint every so many steps, besides the one after each epoch."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints to keep."""
    max_non_finite: int = Field(default=10, ge=1)
    """Stop after so many minibatches in a row whose loss is not finite; single ones are skipped."""
