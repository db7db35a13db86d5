"""Pitch features: voicing, normalised log pitch and its change, as Kaldi makes them."""

import numpy as np
from numpy.typing import NDArray

from mariana_asr.features.deltas import add_deltas
from mariana_asr.features.frames import FrameOptions
from mariana_asr.features.pitch_options import PitchOptions
from mariana_asr.features.pitch_tracking import track_pitch


def compute_pitch(
    samples: NDArray[np.float32],
    options: PitchOptions,
    frames: FrameOptions,
    *,
    noise: np.random.Generator | None = None,
) -> NDArray[np.float32]:
    """Pitch features of audio, as Kaldi's compute-and-process-kaldi-pitch-feats makes them.

    Args:
        samples: Mono audio at ``frames.sample_frequency``, shape (N,), without dither.
        options: Range of pitch, which values to give, and so on.
        frames: Sample rate, frame length, frame shift and ``snip_edges``.
        noise: Where the noise of ``delta_pitch_noise_stddev`` comes from.

    Returns:
        Shape (T, ``options.dim``).
    """
    return process_pitch(track_pitch(samples, options, frames), options, noise=noise)


def process_pitch(
    track: NDArray[np.float32],
    options: PitchOptions,
    *,
    noise: np.random.Generator | None = None,
) -> NDArray[np.float32]:
    """Make features of a pitch track, as Kaldi's process-kaldi-pitch-feats does.

    Args:
        track: What ``track_pitch`` returns (correlation and pitch in Hz), shape (T, 2).
        options: Which values to give, their scales and windows.
        noise: Where the noise of ``delta_pitch_noise_stddev`` comes from; None for always the
            same.

    Returns:
        Shape (T, ``options.dim``): those asked for of voicing, normalised log pitch, its time
        derivative and log pitch itself.
    """
    if not len(track):
        return np.zeros((0, options.dim), dtype=np.float32)
    correlation = track[:, 0].astype(np.float64)
    log_pitch = np.log(track[:, 1].astype(np.float64))
    columns = []
    if options.add_pov_feature:
        columns.append(options.pov_scale * _voicing(correlation) + options.pov_offset)
    if options.add_normalized_log_pitch:
        mean = _weighted_mean(log_pitch, _voicing_probability(correlation), options)
        columns.append(options.pitch_scale * (log_pitch - mean))
    if options.add_delta_pitch:
        logs = log_pitch[:, None].astype(np.float32)
        delta = add_deltas(logs, 1, options.delta_window)[:, 1].astype(np.float64)
        if options.delta_pitch_noise_stddev:
            noise = noise or np.random.default_rng(0)
            delta += options.delta_pitch_noise_stddev * noise.standard_normal(len(delta))
        columns.append(options.delta_pitch_scale * delta)
    if options.add_raw_log_pitch:
        columns.append(log_pitch)
    return np.stack(columns, axis=1).astype(np.float32)


def _voicing(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """A feature that falls with voicing and is distributed roughly as a Gaussian."""
    return (1.0001 - np.clip(correlation, -1.0, 1.0)) ** 0.15 - 1.0


def _voicing_probability(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability that a frame is voiced, by the curve that Kaldi's authors fitted."""
    size = np.minimum(np.abs(correlation), 1.0)
    log_odds = (
        -5.2
        + 5.4 * np.exp(7.5 * (size - 1.0))
        + 4.8 * size
        - 2.0 * np.exp(-10.0 * size)
        + 4.2 * np.exp(20.0 * (size - 1.0))
    )
    return 1.0 / (1.0 + np.exp(-log_odds))


def _weighted_mean(
    values: NDArray[np.float64], weights: NDArray[np.float64], options: PitchOptions
) -> NDArray[np.float64]:
    """Each frame's weighted mean over a window around it, shape (T,)."""
    frame = np.arange(len(values))
    first = np.maximum(frame - options.normalization_left_context, 0)
    end = np.minimum(frame + options.normalization_right_context + 1, len(values))
    sums = np.zeros((2, len(values) + 1))
    np.cumsum([values * weights, weights], axis=1, out=sums[:, 1:])
    weighted, total = sums[:, end] - sums[:, first]
    return weighted / total
