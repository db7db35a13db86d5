"""Cutting audio into frames: the options that MFCC and filter banks share, and how they run.

The work is done by kaldi-native-fbank, which is Kaldi's own code without Kaldi. Dither is added
here, because the library's noise cannot be seeded.
"""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.features.pitch_options import PitchOptions
from mariana_asr.options import Options


class FrameOptions(Options):
    """Frames, windows and mel filters: Kaldi's names and, but for ``dither``, its defaults."""

    sample_frequency: float = Field(default=16000.0, gt=0)
    """Sample rate in Hz that the features are computed at."""
    allow_downsample: bool = False
    """Resample audio of a higher rate; otherwise it is an error."""
    allow_upsample: bool = False
    """Resample audio of a lower rate; otherwise it is an error."""
    frame_length: float = Field(default=25.0, gt=0)
    """Frame length in milliseconds."""
    frame_shift: float = Field(default=10.0, gt=0)
    """Frame shift in milliseconds."""
    dither: float = Field(default=0.0, ge=0)
    """Standard deviation of noise added to the samples, whose range is that of 16-bit integers.
    Kaldi's default is 1.0; here it is 0.0, so that features can be reproduced by any program.
    Frames of digital silence stay finite without it: energies are floored before the logarithm."""
    preemphasis_coefficient: float = Field(default=0.97, ge=0, le=1)
    """Coefficient of the pre-emphasis filter."""
    remove_dc_offset: bool = True
    """Subtract each frame's mean."""
    window_type: Literal["hamming", "hanning", "povey", "rectangular", "sine", "blackman"] = "povey"
    """Window function; ``povey`` is like Hamming, but goes to zero at the edges."""
    blackman_coeff: float = 0.42
    """Constant of the generalised Blackman window."""
    round_to_power_of_two: bool = True
    """Pad frames with zeros to a power of two before the FFT."""
    snip_edges: bool = True
    """Only frames that fit into the audio; if false, one a frame shift, reflected at the edges."""
    num_mel_bins: int = Field(default=23, ge=3)
    """Number of triangular mel filters."""
    low_freq: float = Field(default=20.0, ge=0)
    """Lower edge of the lowest mel filter, in Hz."""
    high_freq: float = 0.0
    """Upper edge of the highest mel filter, in Hz; 0 or less is counted from half the rate."""
    pitch: PitchOptions | None = None
    """Append pitch features to each frame; ``{}`` takes their defaults, null appends none."""

    @property
    def window_size(self) -> int:
        """Samples in a frame."""
        return int(self.sample_frequency * 0.001 * self.frame_length)

    @property
    def window_shift(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_frequency * 0.001 * self.frame_shift)

    @property
    def padded_window_size(self) -> int:
        """Samples in a frame after padding for the FFT."""
        size = self.window_size
        return 1 << (size - 1).bit_length() if self.round_to_power_of_two else size

    @property
    def pitch_dim(self) -> int:
        """Values of pitch features in a frame."""
        return self.pitch.dim if self.pitch else 0

    @model_validator(mode="after")
    def _check_frames(self) -> Self:
        """Refuse what Kaldi asserts on, with the values at fault."""
        if self.window_shift < 1 or self.window_size < 2:
            raise ValueError(
                f"frame_length {self.frame_length} and frame_shift {self.frame_shift} "
                f"(milliseconds) are too short at {self.sample_frequency:g} Hz"
            )
        if self.padded_window_size % 2:
            raise ValueError(
                f"a frame has {self.window_size} samples, which must be even unless "
                "round_to_power_of_two is true"
            )
        nyquist = self.sample_frequency / 2
        high = self.high_freq if self.high_freq > 0 else nyquist + self.high_freq
        if not self.low_freq < high <= nyquist:
            raise ValueError(
                f"mel filters from {self.low_freq:g} to {high:g} Hz do not fit: "
                f"low_freq < high_freq <= {nyquist:g} Hz, half of sample_frequency"
            )
        self._check_no_filter_is_empty(high)
        if self.pitch is not None:
            self._check_pitch(self.pitch)
        return self

    def _check_no_filter_is_empty(self, high: float) -> None:
        """Every triangle must hold at least one line of the spectrum."""
        size = self.padded_window_size
        lines = _mel(np.arange(size // 2) * (self.sample_frequency / size))
        edges = np.linspace(_mel(self.low_freq), _mel(high), self.num_mel_bins + 2)
        inside = np.searchsorted(lines, edges[2:], "left") - np.searchsorted(
            lines, edges[:-2], "right"
        )
        if np.any(inside < 1):
            raise ValueError(
                f"num_mel_bins {self.num_mel_bins} is too large for frames of {size} samples: "
                f"{np.count_nonzero(inside < 1)} filters would be empty"
            )

    def _check_pitch(self, pitch: PitchOptions) -> None:
        """The pitch options must go with the sample rate and the frames."""
        if self.sample_frequency != int(self.sample_frequency):
            raise ValueError(
                f"pitch needs a sample_frequency of a whole number of Hz, not "
                f"{self.sample_frequency}"
            )
        if 2 * pitch.lowpass_cutoff > self.sample_frequency:
            raise ValueError(
                f"pitch.lowpass_cutoff {pitch.lowpass_cutoff:g} Hz is more than half of "
                f"sample_frequency {self.sample_frequency:g} Hz"
            )
        if pitch.resample_frequency * min(self.frame_length, self.frame_shift) < 1000:
            raise ValueError(
                f"frame_length {self.frame_length} and frame_shift {self.frame_shift} "
                f"(milliseconds) are too short at pitch.resample_frequency "
                f"{pitch.resample_frequency:g} Hz"
            )


def frame_differences(one: FrameOptions, other: FrameOptions) -> dict[str, tuple[Any, Any]]:
    """Options by which two kinds of features may cut the same audio into other frames.

    Returns:
        Names of the options, with both values.
    """
    names = ["sample_frequency", "frame_shift", "snip_edges"]
    if one.snip_edges:
        # Otherwise the number of frames depends on the shift alone.
        names.append("frame_length")
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in names}
    return {name: (mine, theirs) for name, (mine, theirs) in pairs.items() if mine != theirs}


def _mel(hertz: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def set_native_options(native: Any, options: FrameOptions) -> None:
    """Copy the shared options into kaldi-native-fbank's (``MfccOptions`` or ``FbankOptions``)."""
    frame, mel = native.frame_opts, native.mel_opts
    frame.samp_freq = options.sample_frequency
    frame.frame_length_ms = options.frame_length
    frame.frame_shift_ms = options.frame_shift
    frame.dither = 0.0
    frame.preemph_coeff = options.preemphasis_coefficient
    frame.remove_dc_offset = options.remove_dc_offset
    frame.window_type = options.window_type
    frame.blackman_coeff = options.blackman_coeff
    frame.round_to_power_of_two = options.round_to_power_of_two
    frame.snip_edges = options.snip_edges
    mel.num_bins = options.num_mel_bins
    mel.low_freq = options.low_freq
    mel.high_freq = options.high_freq


def all_frames(
    extractor: Any, samples: NDArray[np.float32], options: FrameOptions, dim: int
) -> NDArray[np.float32]:
    """Run one of kaldi-native-fbank's online extractors over a whole utterance: (T, dim)."""
    extractor.accept_waveform(options.sample_frequency, samples)
    extractor.input_finished()
    features = np.empty((extractor.num_frames_ready, dim), dtype=np.float32)
    for frame in range(len(features)):
        features[frame] = extractor.get_frame(frame)
    return features
