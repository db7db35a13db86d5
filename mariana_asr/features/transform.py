"""Normalisation, and deltas or neighbouring frames, applied to features as they are read."""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.errors import DataError
from mariana_asr.features.cmvn import accumulate_cmvn_stats, apply_cmvn, apply_sliding_cmvn
from mariana_asr.features.deltas import add_deltas
from mariana_asr.features.splice import splice
from mariana_asr.options import Options


class TransformOptions(Options):
    """Normalisation, then deltas or splicing; they are applied as features are read."""

    cmvn: Literal["none", "speaker", "utterance", "sliding"] = "speaker"
    """What the mean is taken over: cmvn.scp's statistics by speaker, the utterance itself, or a
    window that slides over it."""
    norm_means: bool = True
    """Subtract the mean."""
    norm_vars: bool = False
    """Divide by the standard deviation."""
    cmn_window: int = Field(default=600, ge=1)
    """Frames in the sliding window."""
    min_cmn_window: int = Field(default=100, ge=1)
    """Frames in the sliding window at least, at the utterance's start; unless ``center``."""
    center: bool = False
    """The sliding window is centred on the frame rather than before it."""
    delta_order: int = Field(default=0, ge=0)
    """How many orders of deltas to append."""
    delta_window: int = Field(default=2, ge=1)
    """Frames on either side that a delta looks at."""
    splice_left: int = Field(default=0, ge=0)
    """Frames before each frame that are joined to it, in the place of deltas."""
    splice_right: int = Field(default=0, ge=0)
    """Frames after each frame that are joined to it."""

    @model_validator(mode="before")
    @classmethod
    def _take_over(cls, value: Any) -> Any:
        """Take options with other defaults for what they are."""
        return value.model_dump() if isinstance(value, TransformOptions) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.norm_vars and not self.norm_means:
            raise ValueError("norm_vars needs norm_means: Kaldi has no variance-only normalisation")
        if self.delta_order and self.splices:
            raise ValueError("deltas (delta_order) and splicing exclude each other: set one to 0")
        return self

    @property
    def normalises(self) -> bool:
        """Whether means (and variances) are normalised at all."""
        return self.cmvn != "none" and self.norm_means

    @property
    def needs_stats(self) -> bool:
        """Whether the data directory must have ``cmvn.scp``."""
        return self.normalises and self.cmvn == "speaker"

    @property
    def splices(self) -> bool:
        """Whether frames are joined with their neighbours."""
        return self.splice_left + self.splice_right > 0

    @property
    def copies(self) -> int:
        """How many times as many values a frame has after the transform."""
        return self.splice_left + 1 + self.splice_right + self.delta_order

    def dim(self, feature_dim: int) -> int:
        """Values a frame after the transform, for so many before."""
        return feature_dim * self.copies


class DeltaTransformOptions(TransformOptions):
    """Normalisation and deltas."""

    delta_order: int = Field(default=2, ge=0)
    """How many orders of deltas to append."""


class SpliceTransformOptions(TransformOptions):
    """Normalisation and neighbouring frames."""

    splice_left: int = Field(default=4, ge=0)
    """Frames before each frame that are joined to it, in the place of deltas."""
    splice_right: int = Field(default=4, ge=0)
    """Frames after each frame that are joined to it."""


def transform_features(
    feats: NDArray[np.float32],
    transform: TransformOptions,
    stats: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Normalise features, and append their deltas or join them with their neighbours.

    Args:
        feats: Features, shape (T, D).
        transform: What to do.
        stats: The speaker's CMVN statistics, shape (2, D + 1), for ``cmvn: speaker``.

    Returns:
        Shape (T, ``transform.dim(D)``).

    Raises:
        DataError: The statistics are missing or do not fit.
    """
    if transform.normalises:
        if transform.cmvn == "sliding":
            feats = apply_sliding_cmvn(
                feats,
                cmn_window=transform.cmn_window,
                min_cmn_window=transform.min_cmn_window,
                center=transform.center,
                norm_vars=transform.norm_vars,
            )
        else:
            if transform.cmvn == "utterance":
                stats = accumulate_cmvn_stats(feats)
            if stats is None:
                raise DataError("no CMVN statistics")
            feats = apply_cmvn(feats, stats, norm_vars=transform.norm_vars)
    if transform.delta_order:
        feats = add_deltas(feats, transform.delta_order, transform.delta_window)
    if transform.splices:
        feats = splice(feats, transform.splice_left, transform.splice_right)
    return feats
