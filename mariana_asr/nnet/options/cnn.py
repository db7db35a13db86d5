"""Options of networks with convolutions over time and frequency."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mariana_asr.nnet.options.chunks import ConvolutionOverTimeOptions
from mariana_asr.nnet.options.tdnn import FactoredLayersOptions

Count = Annotated[int, Field(ge=1)]


class BandedFramesOptions(ConvolutionOverTimeOptions):
    """The base of options of networks whose input has frequency bands."""

    other_values: int | None = Field(default=None, ge=0)
    """Values at the end of a frame's features that are no bands, such as the 3 of pitch: they go
    to the first layer after the convolutions, beside what these give. By default all values after
    a filter bank's, and none where it is not known what the features are."""

    @model_validator(mode="after")
    def _check_bands(self) -> Self:
        if self.adapted:
            raise ValueError(
                "adapted: true gives features without frequency bands, which convolutions over "
                "frequency need"
            )
        return self


class CnnOptions(BandedFramesOptions):
    """Convolutions over time and frequency with pooling over frequency, then dense layers.

    Abdel-Hamid et al., "Convolutional neural networks for speech recognition" (2014). Features
    are a filter bank's (``features: {type: fbank}``), whose bands have an order; a frame's deltas
    are further maps of the same bands. The paper's own network is ``filters: [150]``,
    ``time_kernels: [15]``, ``frequency_kernels: [8]``, ``pooling: [6]``, ``pooling_steps: [2]``,
    ``hidden_dim: 1000``.
    """

    type: Literal["cnn"] = "cnn"
    """Kind of network."""
    filters: list[Count] = Field(default=[64, 64], min_length=1)
    """Number of filters of each convolution."""
    time_kernels: list[Count] = Field(default=[7, 5], min_length=1)
    """Frames that a filter of each convolution sees. With the default the network sees 5 frames on
    either side of a frame."""
    frequency_kernels: list[Count] = Field(default=[8, 4], min_length=1)
    """Bands that a filter of each convolution sees."""
    pooling: list[Count] = Field(default=[3, 2], min_length=1)
    """How many neighbouring bands each convolution's maximum is taken over."""
    pooling_steps: list[Count] | None = None
    """From how many bands to how many further ones the maxima are taken; by default the maxima
    share no bands: ``pooling``."""
    weight_sharing: Literal["full", "limited"] = "full"
    """Whether a filter is the same at all bands, or has its own weights for each maximum over
    bands; with ``limited`` there is one convolution only."""
    hidden_layers: int = Field(default=2, ge=1)
    """Number of dense layers."""
    hidden_dim: int = Field(default=512, ge=1)
    """Units of each dense layer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        lists = {
            "filters": self.filters,
            "time_kernels": self.time_kernels,
            "frequency_kernels": self.frequency_kernels,
            "pooling": self.pooling,
            "pooling_steps": self.steps,
        }
        if len({len(values) for values in lists.values()}) > 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
            raise ValueError(
                f"each convolution needs one value in each list, but there are {lengths}"
            )
        if self.weight_sharing == "limited" and len(self.filters) > 1:
            raise ValueError(
                "weight_sharing: limited is for a single convolution: its maps have no order of "
                f"bands that another could slide over, but there are {len(self.filters)}"
            )
        return self

    @property
    def steps(self) -> list[int]:
        """``pooling_steps``, with its default filled in."""
        return self.pooling if self.pooling_steps is None else self.pooling_steps


class CnnTdnnfOptions(FactoredLayersOptions, BandedFramesOptions):
    """Convolutions over time and frequency below factored time-delay layers (CNN-TDNN-F).

    As Kaldi's recipes build it (egs/mini_librispeech: local/chain/tuning/run_cnn_tdnn_1a.sh), and
    smaller: filters see 3 frames and 3 bands, and leave out every other band where maps get
    smaller. Features are a filter bank's (``features: {type: fbank}``).
    """

    type: Literal["cnn_tdnnf"] = "cnn_tdnnf"
    """Kind of network."""
    filters: list[Count] = Field(default=[32, 32, 48, 48], min_length=1)
    """Number of filters of each convolution."""
    band_steps: list[Count] = Field(default=[1, 2, 1, 2], min_length=1)
    """From how many bands to how many further ones each convolution's filters move: Kaldi's
    height-subsample-out."""
    first_bottleneck_dim: int = Field(default=192, ge=1)
    """Rank of the first factored layer, which has what the convolutions give as its input and no
    bypass."""
    time_strides: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 3, 3, 3, 3], min_length=1)
    """For each factored layer how many frames before and after its own a unit sees: Kaldi's
    time-stride. With 0 it sees its own only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.filters) != len(self.band_steps):
            raise ValueError(
                f"each convolution needs one value in each list, but filters has "
                f"{len(self.filters)} and band_steps {len(self.band_steps)}"
            )
        return self
