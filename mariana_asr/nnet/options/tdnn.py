"""Options of time-delay networks: plain and factored."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mariana_asr.nnet.options.chunks import ConvolutionOverTimeOptions


def _checked_offsets(offsets: list[int]) -> list[int]:
    if offsets != sorted(set(offsets)):
        raise ValueError("offsets of a layer rise from the earliest frame to the latest")
    if offsets[0] > 0 or offsets[-1] < 0:
        raise ValueError("a layer's first offset is at most 0, and its last at least 0")
    return offsets


FrameOffsets = Annotated[list[int], Field(min_length=1), AfterValidator(_checked_offsets)]
"""Which frames of the layer below a unit sees: distances from its own frame."""


class TdnnOptions(ConvolutionOverTimeOptions):
    """A time-delay network: each layer sees a few frames of the one below.

    Waibel et al., "Phoneme recognition using time-delay neural networks" (1989), with the sparse
    offsets of Peddinti et al., "A time delay neural network architecture for efficient modeling
    of long temporal contexts" (2015), whose best network the default is: it sees 13 frames before
    a frame and 9 after it.
    """

    type: Literal["tdnn"] = "tdnn"
    """Kind of network."""
    offsets: list[FrameOffsets] = Field(
        default=[[-2, -1, 0, 1, 2], [-1, 2], [-3, 3], [-7, 2], [0]], min_length=1
    )
    """For each hidden layer the frames of the one below that a unit sees, as distances from its
    own frame; of the first layer frames of the features."""
    hidden_dim: int = Field(default=512, ge=1)
    """Units of each hidden layer."""


class FactoredLayersOptions(ConvolutionOverTimeOptions):
    """The base of options of networks with factored layers."""

    hidden_dim: int = Field(default=512, ge=1)
    """Units of each factored layer."""
    bottleneck_dim: int = Field(default=96, ge=1)
    """Rank of a factored layer: values between its two linear maps."""
    time_strides: list[Annotated[int, Field(ge=0)]] = Field(
        default=[1, 1, 1, 0, 3, 3, 3], min_length=1
    )
    """For each factored layer how many frames before and after its own a unit sees: Kaldi's
    time-stride. With 0 it sees its own only."""
    bypass_scale: float = Field(default=0.66, ge=0.0, le=1.0)
    """What a factored layer's input is multiplied by before it is added to the output."""
    prefinal_dim: int = Field(default=128, ge=1)
    """Values between the last factored layer and the layer before the output, and between that
    one and the output; Kaldi's small-dim."""
    orthonormal_every: int = Field(default=4, ge=0)
    """Steps after which the first of each layer's two maps is moved towards a semi-orthogonal one;
    0 leaves it alone."""


class TdnnfOptions(FactoredLayersOptions):
    """A time-delay network of factored layers (TDNN-F).

    Povey et al., "Semi-orthogonal low-rank matrix factorization for deep neural networks" (2018),
    built as Kaldi's recipes have it, and small enough for some tens of minutes to some hours of
    speech. With much more, Kaldi uses 12 to 15 layers, ``hidden_dim: 1024`` to 1536 and
    ``bottleneck_dim: 128`` to 160.
    """

    type: Literal["tdnnf"] = "tdnnf"
    """Kind of network."""
    input_offsets: FrameOffsets = Field(default=[-1, 0, 1])
    """Frames of the features that a unit of the first layer, which is not factored, sees."""
