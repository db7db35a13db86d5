"""Convolutions over time and frequency below factored time-delay layers (CNN-TDNN-F)."""

import torch
from torch import Tensor, nn

from mariana_asr.nnet.frequency_layers import BandLayout, SteppingConvolution, joined_maps
from mariana_asr.nnet.options import CnnTdnnfOptions
from mariana_asr.nnet.tdnnf import FactoredLayers, FactoredNetwork
from mariana_asr.nnet.time_layers import undrawn


class CnnTdnnf(FactoredNetwork):
    """Convolutions, then factored layers on what they give for a frame."""

    def __init__(
        self, options: CnnTdnnfOptions, frame_dim: int, num_outputs: int, *, seed: int = 777
    ) -> None:
        """The same seed gives the same initial weights.

        Raises:
            RecipeError: The frames have no such bands.
        """
        super().__init__(options, frame_dim, num_outputs)
        self._layout = BandLayout(options.transform, frame_dim, options.other_values)
        convolutions = []
        maps, bands = self._layout.copies, self._layout.bands
        for filters, step in zip(options.filters, options.band_steps, strict=True):
            convolution = SteppingConvolution(
                maps, bands, filters, step, normalisation=options.normalisation
            )
            maps, bands = convolution.maps, convolution.bands
            convolutions.append(convolution)
        self.convolutions = nn.Sequential(*convolutions)
        context = len(convolutions)
        dim = maps * bands + (2 * context + 1) * self._layout.others
        others = [options.bottleneck_dim] * (len(options.time_strides) - 1)
        self.factored = FactoredLayers(dim, [options.first_bottleneck_dim, *others], options)
        self.left_context = context + self.factored.left
        self.right_context = context + self.factored.right
        self.output = undrawn(nn.Linear, self.factored.outputs, num_outputs)
        self.draw_weights(torch.Generator().manual_seed(seed))

    def hidden_over_time(self, frames: Tensor) -> Tensor:
        """See :class:`ChunkNetwork`."""
        maps, others = self._layout.maps_of(frames)
        return self.factored(joined_maps(self.convolutions(maps), others))
