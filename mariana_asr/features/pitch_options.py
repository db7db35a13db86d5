"""Options of the pitch features, with Kaldi's names."""

import math
from typing import Self

from pydantic import Field, model_validator

from mariana_asr.options import Options

MAX_NUM_LAGS = 5000
"""The time and memory of the search for the best path grow with the square of this number."""


class PitchOptions(Options):
    """Pitch and voicing, appended to each frame: Kaldi's compute-and-process-kaldi-pitch-feats.

    Sample rate, frame length, frame shift and ``snip_edges`` are those of the other features.
    Options that only matter to Kaldi's online extraction are not here.
    """

    min_f0: float = Field(default=50.0, gt=0)
    """Lowest pitch to look for, in Hz."""
    max_f0: float = Field(default=400.0, gt=0)
    """Highest pitch to look for, in Hz."""
    soft_min_f0: float = Field(default=10.0, ge=0)
    """The higher it is, the more the search favours high pitch over low; at most ``min_f0``."""
    penalty_factor: float = Field(default=0.1, ge=0)
    """Weight of the cost of a pitch that changes from frame to frame."""
    lowpass_cutoff: float = Field(default=1000.0, gt=0)
    """Cutoff in Hz of the low-pass filter that the signal is resampled with."""
    resample_frequency: float = Field(default=4000.0, gt=0)
    """Rate in Hz that the signal is resampled to."""
    delta_pitch: float = Field(default=0.005, gt=0)
    """Least relative change of pitch that is told apart."""
    nccf_ballast: float = Field(default=7000.0, ge=0)
    """The higher it is, the less quiet frames have a say in the course of the pitch."""
    lowpass_filter_width: int = Field(default=1, ge=1)
    """Zero crossings of the low-pass filter on either side; more make it steeper."""
    upsample_filter_width: int = Field(default=5, ge=1)
    """Zero crossings on either side of the filter that correlations are interpolated with."""
    add_pov_feature: bool = True
    """Give a value that falls with the probability of voicing."""
    add_normalized_log_pitch: bool = True
    """Give the logarithm of pitch, less its mean in a window, weighted by voicing."""
    add_delta_pitch: bool = True
    """Give the time derivative of the logarithm of pitch."""
    add_raw_log_pitch: bool = False
    """Give the logarithm of pitch."""
    pitch_scale: float = 2.0
    """Factor of the normalised logarithm of pitch."""
    pov_scale: float = 2.0
    """Factor of the voicing feature."""
    pov_offset: float = 0.0
    """Added to the voicing feature, where no mean is subtracted later."""
    delta_pitch_scale: float = 10.0
    """Factor of the time derivative."""
    delta_pitch_noise_stddev: float = Field(default=0.0, ge=0)
    """Standard deviation of noise added to the time derivative before it is scaled. Kaldi's default
    is 0.005; here it is 0.0, so that features can be reproduced by any program."""
    normalization_left_context: int = Field(default=75, ge=0)
    """Frames before each frame in the window of the mean."""
    normalization_right_context: int = Field(default=75, ge=0)
    """Frames after each frame in the window of the mean."""
    delta_window: int = Field(default=2, ge=1)
    """Frames on either side that the time derivative looks at."""

    @property
    def dim(self) -> int:
        """Values a frame."""
        return (
            self.add_pov_feature
            + self.add_normalized_log_pitch
            + self.add_delta_pitch
            + self.add_raw_log_pitch
        )

    @property
    def num_lags(self) -> int:
        """How many pitches are told apart; rounding may make it one more or less."""
        return int(math.log(self.max_f0 / self.min_f0) / math.log1p(self.delta_pitch)) + 1

    @property
    def first_lag(self) -> int:
        """Least lag, in resampled samples, that correlations are measured at."""
        reach = self.upsample_filter_width / (2.0 * self.resample_frequency)
        return math.ceil(self.resample_frequency * (1.0 / self.max_f0 - reach))

    @property
    def last_lag(self) -> int:
        """Greatest lag, in resampled samples, that correlations are measured at."""
        reach = self.upsample_filter_width / (2.0 * self.resample_frequency)
        return math.floor(self.resample_frequency * (1.0 / self.min_f0 + reach))

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse what Kaldi asserts on or fails at, with the values at fault."""
        if not self.dim:
            raise ValueError("pitch without one of its values: set one of the add_ options to true")
        if not self.soft_min_f0 <= self.min_f0 < self.max_f0:
            raise ValueError(
                f"soft_min_f0 {self.soft_min_f0:g}, min_f0 {self.min_f0:g} and max_f0 "
                f"{self.max_f0:g} Hz do not fit: soft_min_f0 <= min_f0 < max_f0"
            )
        if self.num_lags > MAX_NUM_LAGS:
            raise ValueError(
                f"delta_pitch {self.delta_pitch:g} tells {self.num_lags} pitches apart from min_f0 "
                f"{self.min_f0:g} to max_f0 {self.max_f0:g} Hz: at most {MAX_NUM_LAGS}"
            )
        if self.resample_frequency != int(self.resample_frequency):
            raise ValueError(
                f"resample_frequency {self.resample_frequency} is not a whole number of Hz"
            )
        if 2 * self.lowpass_cutoff > self.resample_frequency:
            raise ValueError(
                f"lowpass_cutoff {self.lowpass_cutoff:g} Hz is more than half of "
                f"resample_frequency {self.resample_frequency:g} Hz"
            )
        if self.first_lag < 0:
            raise ValueError(
                f"max_f0 {self.max_f0:g} Hz is too high: with resample_frequency "
                f"{self.resample_frequency:g} Hz and upsample_filter_width "
                f"{self.upsample_filter_width} lags would begin below 0"
            )
        return self
