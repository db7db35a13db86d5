"""Context windows by index: a frame and its neighbours are gathered, never stored spliced."""

import torch
from torch import Tensor


def window_offsets(left_context: int, right_context: int, device: torch.device) -> Tensor:
    """Offsets of a context window's frames from its centre: ``-left, ..., 0, ..., right``."""
    return torch.arange(-left_context, right_context + 1, dtype=torch.int32, device=device)


def gather_windows(
    frames: Tensor, centre: Tensor, first: Tensor, last: Tensor, offsets: Tensor
) -> Tensor:
    """Gather the context windows of some frames, repeating each utterance's edge frames.

    Gives the rows that Kaldi's splice-feats gives for these frames.

    Args:
        frames: (N, D) frames of whole utterances, one utterance after the other.
        centre: (B,) int32 row of each window's centre.
        first: (B,) int32 row of the first frame of the centre's utterance.
        last: (B,) int32 row of the last frame of that utterance.
        offsets: (W,) int32 offsets of a window's frames from its centre.

    Returns:
        (B, W * D) float32, the earliest frame of each window first.
    """
    rows = (centre[:, None] + offsets).clamp(min=first[:, None], max=last[:, None])
    windows = frames.index_select(0, rows.view(-1))
    return windows.view(len(centre), -1).to(torch.float32)
