"""Layers over time and frequency: maps of (B, maps, T, bands) to fewer frames and bands."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from mariana_asr.errors import RecipeError
from mariana_asr.features.transform import TransformOptions
from mariana_asr.nnet.time_layers import Normalisation, over_rows, row_norm, undrawn


class BandLayout:
    """Where the frequency bands are in a frame's values.

    A frame is some copies of the features, one after the other: themselves and their deltas, or
    neighbouring frames. Each copy has its bands, then other values such as pitch.

    Attributes:
        copies: Number of copies.
        bands: Number of bands.
        others: Values of all copies together that are no bands.
    """

    def __init__(
        self, transform: TransformOptions, frame_dim: int, other_values: int | None
    ) -> None:
        """Divide a frame; None stands for no other values.

        Raises:
            RecipeError: It cannot be divided so.
        """
        self.copies = transform.copies
        if frame_dim % self.copies != 0:
            raise RecipeError(
                f"{frame_dim} values a frame are not {self.copies} copies of the same bands",
                where="model.transform",
                remedy="Give the network a filter bank's features, with deltas or without",
            )
        self._per_copy, other_values = frame_dim // self.copies, other_values or 0
        self.bands = self._per_copy - other_values
        self.others = self.copies * other_values
        if self.bands < 1:
            raise RecipeError(
                f"no bands are left of {self._per_copy} values",
                where="model.other_values",
                remedy="Say how many values at the end of the features are no frequency bands",
            )

    def maps_of(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, frame_dim) to maps (B, copies, T, bands) and others (B, T, others)."""
        copies = frames.unflatten(2, (self.copies, self._per_copy))
        maps = copies[..., : self.bands].transpose(1, 2)
        return maps, copies[..., self.bands :].flatten(2)


class MapNorm(nn.Module):
    """Normalisation of maps: each over frames and bands, or all values of a frame together."""

    def __init__(self, kind: Normalisation, maps: int, bands: int) -> None:
        """Batch norm takes each map for a unit, layer norm each band of each map."""
        super().__init__()
        self._by_map = kind == "batch"
        self.norm = row_norm(kind, maps if self._by_map else maps * bands)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, maps, T, bands) to the same."""
        values = maps.permute(0, 2, 3, 1).contiguous()
        rows = values if self._by_map else values.flatten(2)
        return over_rows(self.norm, rows).view(values.shape).permute(0, 3, 1, 2)


class PooledConvolution(nn.Module):
    """A convolution, the maxima over neighbouring bands, rectifier and normalisation.

    The rectifier after the maxima gives what it gives before them, for less work.

    Attributes:
        maps: Number of maps that it gives.
        bands: Number of bands of each.
    """

    def __init__(
        self,
        maps: int,
        bands: int,
        filters: int,
        kernel: tuple[int, int],
        pooling: int,
        step: int,
        *,
        normalisation: Normalisation,
    ) -> None:
        """Take ``maps`` of ``bands``; a kernel is some frames by some bands.

        Raises:
            RecipeError: There are too few bands.
        """
        super().__init__()
        self.maps, self.bands = filters, _pooled(bands, kernel[1], pooling, step)
        self._pooling, self._step = (1, pooling), (1, step)
        self.convolution = undrawn(nn.Conv2d, maps, filters, kernel)
        self.norm = MapNorm(normalisation, self.maps, self.bands)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, maps, T, bands) to maps of fewer frames and bands."""
        pooled = max_pool2d(self.convolution(inputs), self._pooling, self._step)
        return self.norm(relu(pooled))


class LimitedConvolution(nn.Module):
    """A convolution whose weights are shared only by the bands that one maximum is taken over.

    Attributes:
        maps: Number of maps that it gives: filters times maxima.
        bands: Bands of each, which is 1: their order is gone.
    """

    def __init__(
        self,
        maps: int,
        bands: int,
        filters: int,
        kernel: tuple[int, int],
        pooling: int,
        step: int,
        *,
        normalisation: Normalisation,
    ) -> None:
        """As :class:`PooledConvolution`.

        Raises:
            RecipeError: There are too few bands.
        """
        super().__init__()
        sections = _pooled(bands, kernel[1], pooling, step)
        self.maps, self.bands = sections * filters, 1
        self._width, self._step = pooling + kernel[1] - 1, step
        self.convolution = undrawn(
            nn.Conv2d, sections * maps, sections * filters, kernel, groups=sections
        )
        self.norm = MapNorm(normalisation, self.maps, self.bands)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, maps, T, bands) to maps of fewer frames and one band."""
        sections = inputs.unfold(3, self._width, self._step).permute(0, 3, 1, 2, 4)
        convolved = self.convolution(sections.flatten(1, 2))
        return self.norm(relu(convolved.amax(dim=3, keepdim=True)))


class SteppingConvolution(nn.Module):
    """A convolution with filters of 3 frames by 3 bands, rectifier and normalisation.

    At the lowest and the highest band the filters see zeros beyond. Only every ``step``-th band is
    computed.

    Attributes:
        maps: Number of maps that it gives.
        bands: Number of bands of each.
    """

    def __init__(
        self, maps: int, bands: int, filters: int, step: int, *, normalisation: Normalisation
    ) -> None:
        """Take ``maps`` of ``bands``."""
        super().__init__()
        self.maps, self.bands = filters, (bands - 1) // step + 1
        self.convolution = undrawn(
            nn.Conv2d, maps, filters, (3, 3), stride=(1, step), padding=(0, 1)
        )
        self.norm = MapNorm(normalisation, self.maps, self.bands)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, maps, T, bands) to maps of two frames less."""
        return self.norm(relu(self.convolution(inputs)))


def joined_maps(maps: Tensor, others: Tensor) -> Tensor:
    """What the layers over time see of maps, and of values that are no bands.

    Args:
        maps: (B, maps, L, bands).
        others: (B, left + L + right, others): of these all frames are seen that the maps have
            seen.

    Returns:
        (B, L, inputs), ``bands * maps + (left + 1 + right) * others`` of them.
    """
    values = maps.permute(0, 2, 3, 1).flatten(2)
    if others.shape[2] == 0:
        return values
    window = others.shape[1] - values.shape[1] + 1
    return torch.cat((values, others.unfold(1, window, 1).flatten(2)), dim=2)


def _pooled(bands: int, kernel: int, pooling: int, step: int) -> int:
    """How many maxima there are over the places of a filter."""
    places = bands - kernel + 1
    if places < pooling:
        raise RecipeError(
            f"a convolution over {kernel} bands with pooling over {pooling} needs at least "
            f"{kernel + pooling - 1} bands, and has {bands}",
            where="model.frequency_kernels",
            remedy="Lower model.frequency_kernels or model.pooling, take away a convolution, or "
            "raise num_mel_bins of the features",
        )
    return (places - pooling) // step + 1
