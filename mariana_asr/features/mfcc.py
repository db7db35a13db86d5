"""Mel-frequency cepstral coefficients, as Kaldi's compute-mfcc-feats makes them."""

from typing import Literal, Self

import kaldi_native_fbank
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.features.frames import FrameOptions, all_frames, set_native_options


class MfccOptions(FrameOptions):
    """Options of Kaldi's compute-mfcc-feats."""

    type: Literal["mfcc"] = "mfcc"
    """Kind of features."""
    num_ceps: int = Field(default=13, ge=1)
    """Number of coefficients, C0 or energy among them."""
    use_energy: bool = True
    """The first coefficient is the frame's log energy rather than C0."""
    energy_floor: float = Field(default=0.0, ge=0)
    """Floor of the frame's energy, on samples in the range of 16-bit integers."""
    raw_energy: bool = True
    """Energy before pre-emphasis and window rather than after."""
    cepstral_lifter: float = Field(default=22.0, ge=0)
    """Constant of the liftering; 0 for none."""
    htk_compat: bool = False
    """Energy or C0 last, and C0 scaled by the square root of 2."""

    @property
    def dim(self) -> int:
        """Values a frame."""
        return self.num_ceps + self.pitch_dim

    @model_validator(mode="after")
    def _check_num_ceps(self) -> Self:
        if self.num_ceps > self.num_mel_bins:
            raise ValueError(
                f"num_ceps {self.num_ceps} exceeds num_mel_bins {self.num_mel_bins}: "
                "a transform of so many filters has no more coefficients"
            )
        return self


def compute_mfcc(samples: NDArray[np.float32], options: MfccOptions) -> NDArray[np.float32]:
    """MFCC of samples at ``options.sample_frequency``, no dither, no pitch: (T, num_ceps)."""
    native = kaldi_native_fbank.MfccOptions()
    set_native_options(native, options)
    native.num_ceps = options.num_ceps
    native.use_energy = options.use_energy
    native.energy_floor = options.energy_floor
    native.raw_energy = options.raw_energy
    native.cepstral_lifter = options.cepstral_lifter
    native.htk_compat = options.htk_compat
    return all_frames(kaldi_native_fbank.OnlineMfcc(native), samples, options, options.num_ceps)
