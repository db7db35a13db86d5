"""Frames with their neighbours."""

import numpy as np
from numpy.typing import NDArray


def splice(feats: NDArray[np.float32], left: int, right: int) -> NDArray[np.float32]:
    """Join each frame with its neighbours, as Kaldi's splice-feats does.

    At the edges the first and the last frame are repeated. Training gathers the same windows on
    the device; this is the reference for that.

    Args:
        feats: Features, shape (T, D).
        left: Frames of left context.
        right: Frames of right context.

    Returns:
        Shape (T, (left + 1 + right) * D), in the order of time.
    """
    total = len(feats)
    frames = np.arange(total)[:, None] + np.arange(-left, right + 1)
    return feats[np.clip(frames, 0, total - 1)].reshape(total, -1)
