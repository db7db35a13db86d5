"""Log mel filter-bank energies, as Kaldi's compute-fbank-feats makes them."""

from typing import Literal

import kaldi_native_fbank
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mariana_asr.features.frames import FrameOptions, all_frames, set_native_options


class FbankOptions(FrameOptions):
    """Options of Kaldi's compute-fbank-feats."""

    type: Literal["fbank"] = "fbank"
    """Kind of features."""
    use_energy: bool = False
    """Add the frame's log energy as one more value, the first."""
    energy_floor: float = Field(default=0.0, ge=0)
    """Floor of the frame's energy, on samples in the range of 16-bit integers."""
    raw_energy: bool = True
    """Energy before pre-emphasis and window rather than after."""
    htk_compat: bool = False
    """Put the energy last."""
    use_log_fbank: bool = True
    """Take the logarithm."""
    use_power: bool = True
    """Sum the power spectrum rather than the magnitude."""

    @property
    def dim(self) -> int:
        """Values a frame."""
        return self.num_mel_bins + self.use_energy + self.pitch_dim


def compute_fbank(samples: NDArray[np.float32], options: FbankOptions) -> NDArray[np.float32]:
    """Filter banks of samples at ``options.sample_frequency``, no dither, no pitch: (T, D)."""
    dim = options.dim - options.pitch_dim
    native = kaldi_native_fbank.FbankOptions()
    set_native_options(native, options)
    native.use_energy = options.use_energy
    native.energy_floor = options.energy_floor
    native.raw_energy = options.raw_energy
    native.htk_compat = options.htk_compat
    native.use_log_fbank = options.use_log_fbank
    native.use_power = options.use_power
    return all_frames(kaldi_native_fbank.OnlineFbank(native), samples, options, dim)
