"""Options of sequence-discriminative training on lattices."""

from typing import ClassVar, Literal

from pydantic import Field

from mariana_asr.engine.options.optimisers import DEFAULT_LEARNING_RATES
from mariana_asr.engine.options.schedules import ExponentialOptions, ScheduleOptions
from mariana_asr.engine.options.training import LearningOptions

CriterionName = Literal["smbr", "mmi"]

DEFAULT_SGD_RATE = 1e-5
"""A frame; that of Kaldi's steps/nnet/train_mpe.sh and train_mmi.sh."""

DEFAULT_ADAPTIVE_SHARE = 0.05
"""Default rates of the adaptive optimisers, as a part of those for training from nothing."""


class SequenceOptions(LearningOptions):
    """Training of a network on whole utterances with lattices, from one trained on frames.

    Rates and their meaning are those of training on frames, and gradients leave the acoustic scale
    out, as Kaldi's nnet1 programs do: with SGD, Kaldi's 0.00001 is 0.00001 here. The network stays
    as it is at work: no dropout, and batch norm with the statistics that it was trained with.
    """

    SECTION: ClassVar[str] = "sequence"

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
    schedule: ScheduleOptions = ExponentialOptions(epochs=4, final_factor=1.0)
    """How the learning rate falls, and when training ends. By default four epochs at one rate, as
    in Kaldi; the weights of the epoch that is best on the held-out lattices are kept."""

    @property
    def initial_learning_rate(self) -> float:
        """The learning rate, or the optimiser's default."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.optimiser.type == "sgd":
            return DEFAULT_SGD_RATE
        return DEFAULT_ADAPTIVE_SHARE * DEFAULT_LEARNING_RATES[self.optimiser.type]
