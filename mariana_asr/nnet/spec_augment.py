"""Masks over frequency and time in training (Park et al. 2019)."""

import torch
from torch import Tensor

from mariana_asr.errors import RecipeError
from mariana_asr.nnet.dropout import FrameNoise

STREAM = 1 << 16
"""Beyond the streams of a network's layers."""


class SpecAugment(FrameNoise):
    """In training, replaces some bands and some frames of each window by the mean.

    Masks are functions of the position that ``set_frame_position`` sets, as those of dropout are:
    any number of workers draws the same.
    """

    mean: Tensor

    def __init__(
        self,
        mean: Tensor,
        *,
        bands: int,
        frequency_masks: int,
        frequency_width: int,
        time_masks: int,
        time_width: int,
    ) -> None:
        """Hold what is masked, and with what.

        Args:
            mean: (frame_dim,) what takes the place of masked values.
            bands: Values of a frame that are bands; further ones are the same bands again.
            frequency_masks: Masks over bands.
            frequency_width: Bands of one at most.
            time_masks: Masks over frames.
            time_width: Frames of one at most.

        Raises:
            RecipeError: A frame is no whole number of times the bands, or masks are too wide.
        """
        super().__init__(STREAM)
        if len(mean) % bands or (frequency_masks and frequency_width > bands):
            raise RecipeError(
                f"frames of {len(mean)} values cannot have {bands} bands, or masks of "
                f"{frequency_width} bands",
                where="train.spec_augment",
                remedy="Set bands to the number of values before deltas, and frequency_width below",
            )
        self.register_buffer("mean", mean.clone(), persistent=False)
        self._bands = bands
        self._frequency = (frequency_masks, frequency_width)
        self._time = (time_masks, time_width)

    def forward(self, windows: Tensor) -> Tensor:
        """Windows (B, T * frame_dim) to the same with masks."""
        if not self.training or not len(windows):
            return windows
        frame_dim = len(self.mean)
        frames = windows.view(len(windows), -1, frame_dim)
        length = frames.shape[1]
        count = self._frequency[0] + self._time[0]
        # Two numbers a mask, uniform in [0, 1).
        bits = self.bits(len(windows), 2 * count).bitwise_and(0x7FFFFF)
        uniform = bits.to(torch.float32).mul_(2.0**-23).view(len(windows), 2, count)
        begins, widths = uniform[:, 0], uniform[:, 1]
        masks = self._frequency[0]
        over_bands = _covered(begins[:, :masks], widths[:, :masks], self._bands, self._frequency[1])
        over_time = _covered(begins[:, masks:], widths[:, masks:], length, self._time[1])
        copies = frame_dim // self._bands
        masked = over_bands.repeat(1, copies)[:, None, :] | over_time[:, :, None]
        return torch.where(masked, self.mean, frames).view(windows.shape)


def _covered(begins: Tensor, widths: Tensor, size: int, max_width: int) -> Tensor:
    """(B, masks) numbers in [0, 1) to (B, size) places that any of the masks covers."""
    width = (widths * (min(max_width, size) + 1)).floor()
    begin = (begins * (size - width + 1)).floor()[:, :, None]
    place = torch.arange(size, device=begins.device)
    return ((place >= begin) & (place < begin + width[:, :, None])).any(dim=1)
