"""Time derivatives of features."""

import numpy as np
from numpy.typing import NDArray


def add_deltas(feats: NDArray[np.float32], order: int = 2, window: int = 2) -> NDArray[np.float32]:
    """Append deltas up to an order, as Kaldi's add-deltas does.

    Each order regresses the one before over ``window`` frames on either side. Kaldi joins these
    regressions to one filter on the static features before it clamps at the utterance's edges,
    so near the edges this is not the delta of the delta.

    Args:
        feats: Features, shape (T, D).
        order: How often to differentiate; 0 returns the features alone.
        window: Frames on either side.

    Returns:
        Shape (T, D * (order + 1)): the features, their deltas, the deltas of those.
    """
    total, dim = feats.shape
    slope = np.arange(-window, window + 1, dtype=np.float64)
    slope /= np.sum(slope**2)
    reach = order * window
    padded = feats[np.clip(np.arange(-reach, total + reach), 0, total - 1)]
    result = np.empty((total, dim * (order + 1)), dtype=np.float32)
    result[:, :dim] = feats
    scales = np.ones(1)
    for degree in range(1, order + 1):
        scales = np.convolve(scales, slope)
        first = reach - degree * window
        delta = np.zeros((total, dim), dtype=np.float64)
        for offset, scale in enumerate(scales):
            if scale:
                delta += scale * padded[first + offset : first + offset + total]
        result[:, degree * dim : (degree + 1) * dim] = delta
    return result
