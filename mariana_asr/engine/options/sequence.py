"""Options of sequence-discriminative training on lattices."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mariana_asr.engine.options.optimisers import DEFAULT_LEARNING_RATES
from mariana_asr.engine.options.schedules import (
    CosineOptions,
    ExponentialOptions,
    NewbobOptions,
)
from mariana_asr.engine.options.training import LearningOptions
from mariana_asr.options import tag_alone

CriterionName = Literal["smbr", "mmi"]

DEFAULT_SGD_RATE = 1e-5
"""A frame; that of Kaldi's steps/nnet/train_mpe.sh and train_mmi.sh."""

DEFAULT_ADAPTIVE_SHARE = 0.05
"""Default rates of the adaptive optimisers, as a part of those for training from nothing."""


class SequenceExponentialOptions(ExponentialOptions):
    """A rate that falls by the same factor with every step; by default it does not fall.

    Every epoch is kept and goes on from the one before; the weights of the best one are the result.
    """

    epochs: int = Field(default=4, ge=1)
    """How many epochs to train."""
    final_factor: float = Field(default=1.0, gt=0.0, le=1.0)
    """The last step's learning rate, as a part of the first one's."""


SequenceScheduleOptions = Annotated[
    NewbobOptions | SequenceExponentialOptions | CosineOptions,
    Field(discriminator="type"),
    BeforeValidator(tag_alone("type", "exponential")),
]
"""Options of any schedule; ``type`` says which."""


class SequenceOptions(LearningOptions):
    """Training of a network on whole utterances with lattices, from one trained on frames.

    Rates and their meaning are those of training on frames, and gradients leave the acoustic scale
    out, as Kaldi's nnet1 programs do: with SGD, Kaldi's 0.00001 is 0.00001 here. The network stays
    as it is at work: no dropout, and batch norm with the statistics that it was trained with.
    """

    SECTION: ClassVar[str] = "sequence"

    learning_rate: float | None = Field(default=None, gt=0.0)
    """Learning rate at the start: by default 0.00001 a frame for SGD (Kaldi's), and a step a
    twentieth of what training on frames takes with AdaGrad, Adam and AdamW."""
    seed: int = Field(default=777, ge=0)
    """Decides the order of utterances."""
    criterion: CriterionName = "smbr"
    """What is learnt. ``smbr``: state-level minimum Bayes risk, that the expected number of frames
    with the right pdf is high. ``mmi``: maximum mutual information, that the reference is more
    likely than the lattice's other paths."""
    boost: float = Field(default=0.0, ge=0.0)
    """For ``mmi``: what the score of a path gains with each wrong frame (boosted MMI; 0.05 to 0.2
    are usual)."""
    acoustic_scale: float = Field(default=0.1, gt=0.0)
    """Weight of acoustic log-likelihoods, in the search for lattices and in training."""
    cross_entropy: float = Field(default=0.0, ge=0.0)
    """Weight of the cross-entropy of frames, which is learnt beside the criterion: it holds the
    network back from what only suits the lattices (F-smoothing; Su et al. 2013)."""
    drop_frames: bool = True
    """For ``mmi``: learn nothing from frames whose reference is on no path of the lattice."""
    utterances_per_step: int = Field(default=4, ge=1)
    """Utterances a step, of all workers together."""
    schedule: SequenceScheduleOptions = SequenceExponentialOptions()
    """How the learning rate falls, and when training ends. By default four epochs at one rate, as
    in Kaldi; the weights of the epoch that is best on the held-out lattices are kept."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.boost and self.criterion != "mmi":
            raise ValueError("boost is for the criterion mmi: leave it out")
        if self.schedule.type == "newbob" and self.criterion == "mmi":
            raise ValueError(
                "schedule newbob looks at what part of the loss an epoch gains, and that of mmi is "
                "known but for a constant: take exponential or cosine"
            )
        return self

    @property
    def initial_learning_rate(self) -> float:
        """The learning rate, or the optimiser's default."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.optimiser.type == "sgd":
            return DEFAULT_SGD_RATE
        return DEFAULT_ADAPTIVE_SHARE * DEFAULT_LEARNING_RATES[self.optimiser.type]
