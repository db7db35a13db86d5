"""Layers over time: maps of (B, T, inputs) to fewer frames, each seen with some neighbours."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu
from torch.nn.utils import skip_init

from mariana_asr.nnet.dropout import FrameDropout

LayerT = TypeVar("LayerT", bound=nn.Module)

Normalisation = Literal["batch", "layer", "none"]

NORM_EPSILON = 1e-3
"""Kaldi's: what is added to a variance, so that units that are hardly ever on are not blown up."""


class SplicedLinear(nn.Linear):
    """A linear map of the frames at some distances from each frame: a convolution over time.

    Computed as one matrix product of the joined frames, which on a CPU is as fast as torch's
    convolution with dilation, and is not bound to evenly spaced offsets.

    Attributes:
        offsets: Distances of the frames, rising; the weights of the earliest frame come first.
        left: Frames that the output lacks at its beginning.
        right: Frames that it lacks at its end.
    """

    def __init__(
        self,
        offsets: Sequence[int],
        inputs: int,
        outputs: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Each frame that is seen has ``inputs`` values."""
        super().__init__(len(offsets) * inputs, outputs, bias, device, dtype)
        self.offsets = tuple(offsets)
        self.left, self.right = -min(0, *offsets), max(0, *offsets)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, left + L + right, inputs) to (B, L, outputs)."""
        length = frames.shape[1] - self.left - self.right
        seen = [frames.narrow(1, self.left + offset, length) for offset in self.offsets]
        spliced = torch.cat(seen, dim=2) if len(seen) > 1 else seen[0]
        return linear(spliced, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What printing the network shows."""
        return f"offsets={list(self.offsets)}, {super().extra_repr()}"


class SemiOrthogonalLinear(SplicedLinear):
    """A map without bias whose matrix is kept near a semi-orthogonal one times some number.

    It only marks the layer; :mod:`mariana_asr.nnet.orthonormal` moves its weights.
    """


class TimeDropout(nn.Module):
    """Dropout of (B, T, units), by frame or the same in all frames of a chunk."""

    def __init__(self, p: float, stream: int, *, over_time: bool) -> None:
        """Layers of a network need different streams."""
        super().__init__()
        self.dropout = FrameDropout(p, stream)
        self.over_time = over_time

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, units) to the same."""
        if not self.over_time or not self.training:
            return self.dropout(frames)
        factors = self.dropout(frames.new_ones(len(frames), frames.shape[2]))
        return frames * factors[:, None]


class TimeDelayLayer(nn.Module):
    """A map of some frames, rectifier, normalisation and dropout, in Kaldi's order.

    Attributes:
        left: Frames that the output lacks at its beginning.
        right: Frames that it lacks at its end.
    """

    def __init__(
        self,
        offsets: Sequence[int],
        inputs: int,
        outputs: int,
        *,
        normalisation: Normalisation,
        dropout: TimeDropout | None = None,
    ) -> None:
        """Weights are not drawn yet."""
        super().__init__()
        self.affine = undrawn(SplicedLinear, offsets, inputs, outputs)
        self.norm = row_norm(normalisation, outputs)
        self.dropout = dropout or nn.Identity()
        self.left, self.right = self.affine.left, self.affine.right

    def forward(self, frames: Tensor) -> Tensor:
        """(B, left + L + right, inputs) to (B, L, outputs)."""
        return self.dropout(over_rows(self.norm, relu(self.affine(frames))))


def undrawn(kind: Callable[..., LayerT], *arguments: object, **keywords: object) -> LayerT:
    """A layer without initial values, which would be drawn from torch's global generator."""
    return skip_init(kind, *arguments, **keywords)


def row_norm(kind: Normalisation, units: int) -> nn.Module:
    """Normalisation of rows (rows, units), without a scale and a shift of its own, as Kaldi's."""
    if kind == "batch":
        return nn.BatchNorm1d(units, eps=NORM_EPSILON, affine=False)
    if kind == "layer":
        return nn.LayerNorm(units, eps=NORM_EPSILON, elementwise_affine=False)
    return nn.Identity()


def over_rows(norm: nn.Module, values: Tensor) -> Tensor:
    """Apply to (..., units) what takes (rows, units)."""
    return norm(values.flatten(0, -2)).view(values.shape)
