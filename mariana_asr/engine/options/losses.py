"""Options of the loss, and of masks on the input in training."""

from typing import Self

from pydantic import Field, model_validator

from mariana_asr.options import Options


class LossOptions(Options):
    """What training minimises: by default the cross-entropy of frames.

    Held-out frames are always measured by the plain cross-entropy. Groups are sets of classes that
    belong together; those of an acoustic model are the pdfs of one phone, whatever its tone, its
    stress or its place in the word.
    """

    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a frame's target that is spread evenly over all classes (Szegedy et al. 2016)."""
    group_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a frame's target that is spread evenly over the classes of its group, which are
    those that it is confused with most."""
    focal_gamma: float = Field(default=0.0, ge=0.0)
    """Frames weigh (1 - posterior of the target) to this power: those that are right already count
    less (Lin et al. 2017)."""
    group_task: float = Field(default=0.0, ge=0.0)
    """Weight of a second task, to tell a frame's group by an output layer of its own, which only
    training has (multi-task learning; Seltzer and Droppo 2013)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.label_smoothing + self.group_smoothing >= 1.0:
            raise ValueError(
                "label_smoothing and group_smoothing leave nothing of the target: their sum must "
                "be below 1"
            )
        return self

    @property
    def needs_groups(self) -> bool:
        """Whether groups of classes have to be known."""
        return self.group_smoothing > 0.0 or self.group_task > 0.0


class SpecAugmentOptions(Options):
    """Masks over bands of frequency and stretches of time in training (Park et al. 2019).

    Each window is masked anew in each epoch; what is masked becomes the mean of the training
    frames. Masks over frequency need features that are bands of it, as filter banks are.
    """

    frequency_masks: int = Field(default=2, ge=0)
    """Number of masks over bands."""
    frequency_width: int = Field(default=8, ge=0)
    """Bands of a mask at most; each width from 0 on is equally likely."""
    time_masks: int = Field(default=0, ge=0)
    """Number of masks over frames. Windows must be long for these: chunks, or a wide context."""
    time_width: int = Field(default=10, ge=0)
    """Frames of a mask at most."""
    bands: int | None = Field(default=None, ge=1)
    """Number of bands: deltas are further values of the same bands. By default what the features
    had before their deltas."""
