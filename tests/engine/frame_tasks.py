"""Small tasks of classifying frames, for tests of the engine."""

from pathlib import Path

import numpy as np
import torch

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.packing import pack_frames

DIM, CLASSES = 6, 10


def pack_linear_task(
    folder: Path, *, seed: int, utterances: int, dim: int = DIM, classes: int = CLASSES
) -> FrameStore:
    """Frames whose class is told by a fixed linear map of the frame and the one before."""
    weights = np.random.default_rng(0).standard_normal((2 * dim, classes))

    def made():
        rng = np.random.default_rng(seed)
        for number in range(utterances):
            frames = rng.standard_normal((int(rng.integers(5, 90)), dim)).astype(np.float32)
            before = np.concatenate([frames[:1], frames[:-1]])
            yield f"utt{number}", frames, (np.hstack([before, frames]) @ weights).argmax(axis=1)

    return pack_frames(folder, made(), num_outputs=classes)


def relative_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of a network's tensors, by their norms."""
    return max(
        ((one[name] - other[name]).norm() / other[name].norm().clamp(min=1e-12)).item()
        for name in one
        if one[name].is_floating_point()
    )
