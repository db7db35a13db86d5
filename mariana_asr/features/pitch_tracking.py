"""The pitch of each frame, as Kaldi's compute-kaldi-pitch-feats finds it.

P. Ghahremani, B. BabaAli, D. Povey, K. Riedhammer, J. Trmal and S. Khudanpur, "A pitch extraction
algorithm tuned for automatic speech recognition", ICASSP 2014.

The signal is low-passed and resampled. In each frame it is correlated with itself, shifted by
every lag in the range of pitch, and the correlations are interpolated at lags that grow by a
constant factor. The best path through these lags, with a cost for every change, is the pitch.
There is no decision whether a frame is voiced: the correlation at the path's lag tells how likely.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mariana_asr.features.frames import FrameOptions
from mariana_asr.features.pitch_options import PitchOptions

_FRAMES_A_BLOCK = 1000
"""Frames whose correlations are in memory at a time."""

_MENDED_FRAMES = 500
"""Kaldi's recompute-frame: ballasts are mended in utterances up to about this many frames."""

_MENDED_DIFFERENCE = 0.01
"""Relative difference of energies that Kaldi mends ballasts from."""


def track_pitch(
    samples: NDArray[np.float32], options: PitchOptions, frames: FrameOptions
) -> NDArray[np.float32]:
    """Find the pitch of every frame.

    Args:
        samples: Mono audio at ``frames.sample_frequency``, shape (N,), without dither.
        options: Range of pitch and so on.
        frames: Sample rate, frame length, frame shift and ``snip_edges``.

    Returns:
        Shape (T, 2): the normalised correlation at the pitch's lag, about -1 to 1 and the higher
        the more voiced, and the pitch in Hz, which unvoiced frames have, too. T may be greater by
        a frame or two than that of MFCC.
    """
    signal, num_early = resample(samples, int(frames.sample_frequency), options)
    layout = _frame_layout(signal, num_early, options, frames)
    if not len(layout.starts):
        return np.zeros((0, 2), dtype=np.float32)
    lags = select_lags(options)
    interpolation = _interpolation(lags, options)
    correlations = np.empty((len(layout.starts), len(interpolation)), dtype=np.float32)

    def local_costs() -> Iterator[NDArray[np.float32]]:
        bias = np.float32(options.soft_min_f0) * lags
        for first in range(0, len(layout.starts), _FRAMES_A_BLOCK):
            block = slice(first, first + _FRAMES_A_BLOCK)
            correlations[block], ballasted = _correlate(signal, layout, block, options)
            heights = ballasted @ interpolation
            # A step to the neighbouring lag costs about as little as what single precision rounds
            # off: the path is Kaldi's only where this is rounded in the same places.
            yield (np.float32(1.0) - heights) + bias * heights

    jump_cost = math.log1p(options.delta_pitch) ** 2 * options.penalty_factor
    path = best_path(local_costs(), jump_cost)
    track = np.empty((len(path), 2), dtype=np.float32)
    track[:, 0] = np.einsum("tl,lt->t", correlations, interpolation[:, path])
    track[:, 1] = np.float32(1.0) / lags[path]
    return track


def select_lags(options: PitchOptions) -> NDArray[np.float32]:
    """The lags, in seconds, that stand for the pitches from ``max_f0`` to ``min_f0``: shape (S,).

    Each is by the same factor longer than the one before. They are rounded as Kaldi rounds them.
    """
    factor = 1.0 + float(np.float32(options.delta_pitch))
    longest = np.float32(1.0 / options.min_f0)
    lags = []
    lag = np.float32(1.0 / options.max_f0)
    while lag <= longest:
        lags.append(lag)
        lag = np.float32(float(lag) * factor)
    return np.array(lags, dtype=np.float32)


def best_path(local_costs: Iterable[NDArray[np.float32]], jump_cost: float) -> NDArray[np.intp]:
    """Find the cheapest path of one state a frame, by the Viterbi algorithm.

    A path costs the sum of its states' local costs, and ``jump_cost`` times the square of the
    distance between states at each step.

    Args:
        local_costs: Blocks of frames, of shapes (T1, S), (T2, S) and so on; at least one frame.
        jump_cost: Cost of a step to the neighbouring state.

    Returns:
        The path, shape (T1 + T2 + ...,).
    """
    # Kaldi narrows down each state's best predecessor from both sides. Here all pairs of states
    # are compared, which is fast enough where it is one operation on arrays, and gives the same.
    backpointers: list[NDArray[np.int16]] = []
    for block in local_costs:
        if not backpointers:
            states = np.arange(block.shape[1])
            jumps = np.square(states[:, None] - states).astype(np.float32) * np.float32(jump_cost)
            totals = np.empty_like(jumps)
            forward = np.zeros(len(states), dtype=np.float32)
        pointers = np.empty(block.shape, dtype=np.int16)
        for frame, costs in enumerate(block):
            np.add(jumps, forward, out=totals)
            best = totals.argmin(axis=1)
            pointers[frame] = best
            forward = totals[states, best] + costs
            # Small numbers keep single precision precise.
            forward -= forward.min()
        backpointers.append(pointers)
    state = int(forward.argmin())
    path = []
    for pointers in reversed(backpointers):
        for frame in range(len(pointers) - 1, -1, -1):
            path.append(state)
            state = int(pointers[frame, state])
    return np.array(path[::-1], dtype=np.intp)


def resample(
    samples: NDArray[np.float32], rate: int, options: PitchOptions
) -> tuple[NDArray[np.float32], int]:
    """Low-pass and resample audio, as Kaldi's LinearResample does.

    Returns:
        The signal at ``options.resample_frequency``, shape (D,), and how many of its samples do
        not depend on what follows the audio.
    """
    new_rate = int(options.resample_frequency)
    common = math.gcd(rate, new_rate)
    samples_in_unit, outputs_in_unit = rate // common, new_rate // common
    reach = options.lowpass_filter_width / (2.0 * options.lowpass_cutoff)
    # Time in ticks, of which a sample and a resampled sample both are whole numbers. Kaldi has the
    # filter's reach in single precision.
    ticks = len(samples) * outputs_in_unit
    reach_in_ticks = int(np.float32(reach) * np.float32(rate * outputs_in_unit))
    total = -(-ticks // samples_in_unit)
    early = max(0, -(-(ticks - reach_in_ticks) // samples_in_unit))

    signal = np.empty(total, dtype=np.float32)
    margin = math.ceil(reach * rate) + 1
    padded = np.pad(samples, (margin, margin + samples_in_unit))
    for phase in range(min(outputs_in_unit, total)):
        time = phase / new_rate
        first = math.ceil((time - reach) * rate)
        taps = np.arange(first, math.floor((time + reach) * rate) + 1)
        weights = _windowed_sinc(
            taps / rate - time, options.lowpass_cutoff, options.lowpass_filter_width
        )
        windows = sliding_window_view(padded[margin + first :], len(taps))[::samples_in_unit]
        count = len(range(phase, total, outputs_in_unit))
        signal[phase::outputs_in_unit] = windows[:count] @ (weights / rate).astype(np.float32)
    return signal, early


def _interpolation(lags: NDArray[np.float32], options: PitchOptions) -> NDArray[np.float32]:
    """The matrix that takes correlations at whole lags (rows) to those at ``lags`` (columns)."""
    measured = np.arange(options.first_lag, options.last_lag + 1) / options.resample_frequency
    weights = _windowed_sinc(
        lags - measured[:, None], options.resample_frequency / 2, options.upsample_filter_width
    )
    return (weights / options.resample_frequency).astype(np.float32)


def _windowed_sinc(time: NDArray[np.float64], cutoff: float, zeros: int) -> NDArray[np.float64]:
    """A low-pass filter's response at ``time`` (seconds), under a Hann window.

    Args:
        time: Times, of any shape.
        cutoff: Cutoff frequency in Hz.
        zeros: The zero crossing of the response, on either side, where the window ends.
    """
    window = 0.5 + 0.5 * np.cos(2 * np.pi * cutoff / zeros * time)
    inside = np.abs(time) < zeros / (2.0 * cutoff)
    return np.where(inside, 2 * cutoff * np.sinc(2 * cutoff * time) * window, 0.0)


@dataclass(frozen=True)
class _FrameLayout:
    """Where frames are in the resampled signal, and the ballast of their correlations.

    Attributes:
        starts: First sample of each frame, shape (T,); without ``snip_edges`` the first may be
            negative.
        length: Samples in a frame, without those that lags reach to.
        ballast: What correlations are ballasted with, shape (T,).
        mended_ballast: What Kaldi makes of it when it knows the whole signal, shape (T,).
    """

    starts: NDArray[np.intp]
    length: int
    ballast: NDArray[np.float64]
    mended_ballast: NDArray[np.float64]


def _frame_layout(
    signal: NDArray[np.float32], num_early: int, options: PitchOptions, frames: FrameOptions
) -> _FrameLayout:
    """Lay frames over a signal, of which ``num_early`` samples precede the news of its end.

    Kaldi takes all samples first and is told then that there are no more. Frames that reach into
    the early samples only get a ballast by the energy of these, the others by that of the whole
    signal. Where the utterance is short and the energies differ, it mends the former afterwards.
    """
    length = int(options.resample_frequency * frames.frame_length / 1000)
    shift = int(options.resample_frequency * frames.frame_shift / 1000)
    full_length = length + options.last_lag
    if frames.snip_edges:
        count = max(0, (len(signal) - length) // shift + 1)
        num_early_frames = max(0, (num_early - full_length) // shift + 1)
        starts = shift * np.arange(count)
    else:
        count = (2 * len(signal) + shift) // (2 * shift) if len(signal) >= length else 0
        before_last = num_early - full_length // 2 if num_early >= full_length else 0
        num_early_frames = (2 * before_last + shift) // (2 * shift)
        starts = (2 * np.arange(count) + 1) * shift // 2 - full_length // 2

    energy = float(np.var(signal, dtype=np.float64)) if count else 0.0
    early_energy = energy
    if num_early_frames:
        early_energy = float(np.var(signal[:num_early], dtype=np.float64))
    is_early = np.arange(count) < num_early_frames
    ballast = options.nccf_ballast * (np.where(is_early, early_energy, energy) * length) ** 2
    mended = ballast
    if num_early_frames < _MENDED_FRAMES and (
        abs(early_energy - energy) > _MENDED_DIFFERENCE * (early_energy + energy)
    ):
        mended = np.full(count, options.nccf_ballast * (energy * length) ** 2)
    return _FrameLayout(starts, length, ballast, mended)


def _correlate(
    signal: NDArray[np.float32], layout: _FrameLayout, block: slice, options: PitchOptions
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Correlate each frame with the signal that lies a lag later, for all measured lags.

    Returns:
        Correlations normalised to -1 to 1, and these with the ballast, which draws those of quiet
        frames to 0: two arrays of shape (frames in the block, measured lags).
    """
    length, lags = layout.length, range(options.first_lag, options.last_lag + 1)
    places = layout.starts[block, None] + np.arange(length + options.last_lag)
    windows = signal[np.clip(places, 0, len(signal) - 1)].astype(np.float64)
    windows[(places < 0) | (places >= len(signal))] = 0.0
    windows -= windows[:, :length].mean(axis=1, keepdims=True)

    frame = windows[:, :length]
    products = np.empty((len(windows), len(lags)))
    energies = np.empty_like(products)
    for column, lag in enumerate(lags):
        later = windows[:, lag : lag + length]
        products[:, column] = np.einsum("tn,tn->t", frame, later)
        energies[:, column] = np.einsum("tn,tn->t", later, later)
    energies *= np.einsum("tn,tn->t", frame, frame)[:, None]

    ballast, mended = layout.ballast[block, None], layout.mended_ballast[block, None]
    ballasted = _ratio(products, np.sqrt(energies + ballast))
    mean_energy = energies.mean(axis=1, keepdims=True)
    ballasted *= np.sqrt(_ratio(mean_energy + ballast, mean_energy + mended))
    return _ratio(products, np.sqrt(energies)).astype(np.float32), ballasted.astype(np.float32)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quotient; 0 where the denominator is, as in digital silence."""
    zeros = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    return np.divide(numerator, denominator, out=zeros, where=denominator != 0)
