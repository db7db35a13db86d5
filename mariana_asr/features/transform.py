"""Normalisation and deltas, applied to features as they are read."""

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.errors import DataError
from mariana_asr.features.cmvn import accumulate_cmvn_stats, apply_cmvn, apply_sliding_cmvn
from mariana_asr.features.deltas import add_deltas
from mariana_asr.options import Options


class TransformOptions(Options):
    """Normalisation and deltas, in this order; they are applied as features are read."""

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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.norm_vars and not self.norm_means:
            raise ValueError("norm_vars needs norm_means: Kaldi has no variance-only normalisation")
        return self

    @property
    def normalises(self) -> bool:
        """Whether means (and variances) are normalised at all."""
        return self.cmvn != "none" and self.norm_means

    @property
    def needs_stats(self) -> bool:
        """Whether the data directory must have ``cmvn.scp``."""
        return self.normalises and self.cmvn == "speaker"

    def dim(self, feature_dim: int) -> int:
        """Values a frame after the transform, for so many before."""
        return feature_dim * (self.delta_order + 1)


def transform_features(
    feats: NDArray[np.float32],
    transform: TransformOptions,
    stats: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Normalise features and append their deltas.

    Args:
        feats: Features, shape (T, D).
        transform: What to do.
        stats: The speaker's CMVN statistics, shape (2, D + 1), for ``cmvn: speaker``.

    Returns:
        Shape (T, D * (delta_order + 1)).

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
    return feats
