"""Options of training: what decides the model, whatever machines it is trained on."""

from typing import ClassVar

from pydantic import Field

from mariana_asr.engine.options.losses import LossOptions, SpecAugmentOptions
from mariana_asr.engine.options.optimisers import (
    DEFAULT_LEARNING_RATES,
    OptimiserOptions,
    SgdOptions,
)
from mariana_asr.engine.options.pretraining import PretrainingOptions
from mariana_asr.engine.options.schedules import NewbobOptions, ScheduleOptions
from mariana_asr.options import Options


class LearningOptions(Options):
    """What any training has: rates, optimiser, schedule, bounds, checkpoints."""

    SECTION: ClassVar[str] = "train"
    """The recipe's section that these options are given in, for messages."""

    learning_rate: float | None = Field(default=None, gt=0.0)
    """Learning rate at the start: by default 0.004 a frame for SGD (Kaldi's, for sigmoid networks,
    is 0.008), and a step 0.01 for AdaGrad, 0.001 for Adam and AdamW."""
    optimiser: OptimiserOptions = SgdOptions()
    """How gradients change the weights."""
    schedule: ScheduleOptions = NewbobOptions()
    """How the learning rate falls, and when training ends."""
    warmup_steps: int = Field(default=0, ge=0)
    """The learning rate rises evenly from zero over so many steps at the beginning."""
    layer_rates: dict[str, float] = Field(default_factory=dict)
    """Factors on the learning rate of single layers, by the names of their parameters, where
    ``*`` stands for anything: ``{"hidden.0.*": 0.5}``."""
    l2_penalty: float = Field(default=0.0, ge=0.0)
    """Weights (not biases) shrink by learning_rate * l2_penalty, a frame with SGD, else a step."""
    max_norm: float | None = Field(default=None, gt=0.0)
    """Upper bound for the L2 norm of the weights that lead into a unit (Srivastava et al. 2014);
    none by default."""
    max_grad_norm: float | None = Field(default=None, gt=0.0)
    """Upper bound for the L2 norm of a minibatch's mean gradient; none by default."""
    seed: int = Field(default=777, ge=0)
    """Decides the order of frames, the initial weights and dropout."""
    checkpoint_every: int = Field(default=10000, ge=1)
    """Save a checkpoint every so many steps, besides the one after each epoch."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints to keep."""
    keep_epochs: int = Field(default=0, ge=0)
    """Keep the weights of so many of the last epochs that were not rejected, in `epochs/`, to
    choose from or to average."""
    max_non_finite: int = Field(default=10, ge=1)
    """Stop after so many minibatches in a row whose loss is not finite; single ones are skipped."""

    @property
    def initial_learning_rate(self) -> float:
        """The learning rate, or the optimiser's default."""
        if self.learning_rate is not None:
            return self.learning_rate
        return DEFAULT_LEARNING_RATES[self.optimiser.type]


class TrainOptions(LearningOptions):
    """Training of a network on frames.

    With SGD, ``learning_rate`` and ``l2_penalty`` are rates per frame, as in Kaldi's nnet1: a step
    moves the weights by the learning rate times the *sum* of the minibatch's gradients. (Kaldi's
    0.008 at a minibatch of 256 is 2.048 where losses are averaged.) A larger minibatch thus takes
    proportionally larger steps; no rate has to be scaled by hand. The adaptive optimisers take the
    minibatch's mean gradient, and their rates are per step.
    """

    loss: LossOptions = LossOptions()
    """What is minimised."""
    spec_augment: SpecAugmentOptions | None = None
    """Masks on the input; `{}` takes the defaults, and none are the default."""
    minibatch_size: int = Field(default=256, ge=1)
    """Frames a step, of all workers together."""
    randomizer_size: int = Field(default=32768, ge=1)
    """Frames that are shuffled among themselves; blocks of utterances come in random order."""
    pretraining: PretrainingOptions | None = None
    """Layer-wise pretraining before the training proper; none by default."""
