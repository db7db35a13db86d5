"""Cepstral mean and variance normalisation: per speaker, per utterance or in a sliding window."""

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import DataError


def accumulate_cmvn_stats(feats: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum features and their squares, as Kaldi's compute-cmvn-stats does.

    Statistics of several utterances add up to those of their speaker.

    Args:
        feats: Features, shape (T, D).

    Returns:
        Shape (2, D + 1): sums with the count T at their end; sums of squares with a 0.
    """
    stats = np.zeros((2, feats.shape[1] + 1), dtype=np.float64)
    stats[0, :-1] = feats.sum(axis=0, dtype=np.float64)
    stats[0, -1] = len(feats)
    # Kaldi squares in single precision and sums in double.
    stats[1, :-1] = np.square(feats).sum(axis=0, dtype=np.float64)
    return stats


def stats_of_columns(
    stats: NDArray[np.float64] | None, columns: slice
) -> NDArray[np.float64] | None:
    """The statistics of some of the features' columns, of statistics of all; None stays None."""
    return None if stats is None else np.hstack([stats[:, :-1][:, columns], stats[:, -1:]])


def apply_cmvn(
    feats: NDArray[np.float32],
    stats: NDArray[np.float64],
    *,
    norm_means: bool = True,
    norm_vars: bool = False,
    reverse: bool = False,
) -> NDArray[np.float32]:
    """Normalise features by statistics, as Kaldi's apply-cmvn does.

    Args:
        feats: Features, shape (T, D).
        stats: What ``accumulate_cmvn_stats`` returns, shape (2, D + 1).
        norm_means: Subtract the mean; without it the features come back as they are.
        norm_vars: Divide by the standard deviation, too.
        reverse: Bring normalised features to the statistics' mean (and variance) instead.

    Returns:
        Features of shape (T, D).

    Raises:
        DataError: The dimensions disagree, or the statistics cover less than one frame.
    """
    if not norm_means:
        if norm_vars:
            raise ValueError("Kaldi does not normalise variances without means")
        return feats
    if stats.ndim != 2 or stats.shape[1] != feats.shape[1] + 1 or len(stats) < 1 + norm_vars:
        raise DataError(
            f"CMVN statistics of shape {stats.shape} do not fit features of {feats.shape[1]} "
            f"dimensions: expected (2, {feats.shape[1] + 1})"
        )
    count = stats[0, -1]
    if not (count >= 1.0 and np.isfinite(stats).all()):
        raise DataError(f"CMVN statistics over {count:g} frames are of no use")
    mean = stats[0, :-1] / count
    if not norm_vars:
        return feats + (mean if reverse else -mean).astype(np.float32)
    deviation = np.sqrt(np.maximum(stats[1, :-1] / count - mean**2, 1e-20))
    scale = deviation if reverse else 1.0 / deviation
    offset = mean if reverse else -mean * scale
    return feats * scale.astype(np.float32) + offset.astype(np.float32)


def apply_sliding_cmvn(
    feats: NDArray[np.float32],
    *,
    cmn_window: int = 600,
    min_cmn_window: int = 100,
    center: bool = False,
    norm_vars: bool = False,
) -> NDArray[np.float32]:
    """Normalise each frame by the frames around it, as Kaldi's apply-cmvn-sliding does.

    Args:
        feats: Features, shape (T, D).
        cmn_window: Length of the window in frames.
        min_cmn_window: Frames to use at least at the utterance's start, where ``center`` is
            false: there, the window reaches into the future.
        center: The window is centred on the frame; otherwise it lies before it.
        norm_vars: Divide by the standard deviation, too.

    Returns:
        Features of shape (T, D).
    """
    total = len(feats)
    frame = np.arange(total)
    if center:
        start = frame - cmn_window // 2
        end = start + cmn_window
    else:
        start = frame - cmn_window
        end = frame + 1
    end = np.where(start < 0, end - start, end)
    start = np.maximum(start, 0)
    if not center:
        end = np.maximum(frame + 1, min_cmn_window)
    beyond = np.maximum(end - total, 0)
    start = np.maximum(start - beyond, 0)
    end -= beyond

    count = (end - start)[:, None]
    values = feats.astype(np.float64)
    # Centring changes no result, and keeps the differences of long sums precise.
    values -= values.mean(axis=0) if total else 0.0
    mean = _window_sums(values, start, end) / count
    normalised = values - mean
    if norm_vars:
        variance = _window_sums(values**2, start, end) / count - mean**2
        normalised /= np.sqrt(np.maximum(variance, 1e-10))
        normalised[count[:, 0] == 1] = 0.0
    return normalised.astype(np.float32)


def _window_sums(
    values: NDArray[np.float64], start: NDArray[np.intp], end: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Sums over rows start[t] to end[t], the end not among them, of shape (T, D)."""
    sums = np.zeros((len(values) + 1, values.shape[1]), dtype=np.float64)
    np.cumsum(values, axis=0, out=sums[1:])
    return sums[end] - sums[start]
