"""Joining recordings of single words into strings, with pauses that sound like the recordings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FRAME_SECONDS = 0.02
_FADE_SECONDS = 0.005
_QUIET_FRAMES = 8
_LEAST_RMS = 1.0
"""Frames below one step of 16-bit samples are digital silence, not a room."""


def quiet_frames(recordings: Sequence[NDArray[np.float32]], rate: int) -> NDArray[np.float32]:
    """Find the quietest 20 ms frames of some recordings.

    Args:
        recordings: Samples on the scale of 16-bit integers, each of shape (samples,).
        rate: Sample rate in Hz.

    Returns:
        Frames of shape (at most 8, samples of 20 ms), the quietest first; frames of digital
        silence are left out. Empty if the recordings have no other.
    """
    length = int(_FRAME_SECONDS * rate)
    frames = np.concatenate(
        [
            np.lib.stride_tricks.sliding_window_view(samples, length)[:: length // 2]
            for samples in recordings
            if len(samples) >= length
        ]
        or [np.zeros((0, length), np.float32)]
    )
    rms = np.sqrt(np.square(frames - frames.mean(axis=1, keepdims=True)).mean(axis=1))
    audible = np.flatnonzero(rms >= _LEAST_RMS)
    return frames[audible[np.argsort(rms[audible], kind="stable")[:_QUIET_FRAMES]]]


def room_tone(
    frames: NDArray[np.float32], length: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Make background noise of any length out of a few quiet frames.

    Frames drawn at random are overlapped by half under sine windows, whose squares add up to
    one, so that the noise keeps the frames' level, spectrum and offset.

    Args:
        frames: Quiet frames of shape (number, samples); none gives digital silence.
        length: Number of samples to make.
        generator: Source of the random choice.
    """
    if not len(frames):
        return np.zeros(length, np.float32)
    size = frames.shape[1] - frames.shape[1] % 2
    hop = size // 2
    offset = frames.mean()
    centred = (frames - frames.mean(axis=1, keepdims=True))[:, :size]
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size)
    count = length // hop + 2
    chosen = centred[generator.integers(len(centred), size=count)] * window
    tone = np.zeros((count + 1) * hop)
    tone[: count * hop] += chosen[:, :hop].ravel()
    tone[hop:] += chosen[:, hop:].ravel()
    return (tone[hop : hop + length] + offset).astype(np.float32)


def join(
    recordings: Sequence[NDArray[np.float32]],
    pauses: Sequence[float],
    rate: int,
    generator: np.random.Generator,
) -> NDArray[np.int16]:
    """Join recordings with pauses before, between and after them.

    No noise is added to the recordings. The pauses are made of the string's own quietest
    moments (``room_tone``), so that they neither fall into digital silence, which no
    microphone gives, nor bring in a noise that the words lack. Each recording fades in and
    out within 5 ms, against clicks.

    Args:
        recordings: Samples on the scale of 16-bit integers.
        pauses: Seconds of each pause, one more than there are recordings.
        rate: Sample rate in Hz.
        generator: Source of the random choice of quiet frames.
    """
    gaps = [round(pause * rate) for pause in pauses]
    length = sum(gaps) + sum(map(len, recordings))
    joined = room_tone(quiet_frames(recordings, rate), length, generator)
    position = gaps[0]
    for samples, gap in zip(recordings, gaps[1:], strict=True):
        fade = min(int(_FADE_SECONDS * rate), len(samples) // 2)
        gain = np.ones(len(samples), np.float32)
        gain[:fade] = np.arange(1, fade + 1) / (fade + 1)
        gain[len(gain) - fade :] = gain[:fade][::-1]
        part = joined[position : position + len(samples)]
        part[:] = gain * samples + (1 - gain) * part
        position += len(samples) + gap
    return np.clip(np.rint(joined), -32768, 32767).astype(np.int16)
