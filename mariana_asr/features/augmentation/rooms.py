"""Reverberation: impulse responses, simulated or recorded, and what they do to an utterance."""

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import DataError

_FIRST_REFLECTION = 0.0025
"""Seconds from the direct sound to the first reflection, which has come about a metre further."""


def simulate_response(
    rt60: float, direct_to_reverberant_db: float, rate: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Simulate a room's impulse response: the direct sound, then exponentially decaying noise.

    Source: Polack, "La transmission de l'energie sonore dans les salles", 1988: behind the first
    reflections, which are too dense to tell apart, a room's response is like Gaussian noise.

    Args:
        rt60: Seconds in which the sound falls by 60 dB.
        direct_to_reverberant_db: Energy of the direct sound over that of all that follows.
        rate: Sample rate in Hz.
        generator: Source of randomness.

    Returns:
        Shape (samples of ``rt60`` seconds,); the direct sound is a 1 at the beginning.
    """
    length = max(2, round(rt60 * rate))
    tail = generator.standard_normal(length) * 10.0 ** (-3.0 * np.arange(length) / (rt60 * rate))
    tail[: min(length - 1, max(1, round(_FIRST_REFLECTION * rate)))] = 0.0
    tail *= 10.0 ** (-direct_to_reverberant_db / 20.0) / np.sqrt(np.square(tail).sum())
    tail[0] = 1.0
    return tail


def reverberate(
    samples: NDArray[np.float32], response: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Move an utterance to a room, without delay and as loud as it was.

    The direct sound, taken to be the response's peak, stays where it was in time, so that labels
    of the frames still hold (Kaldi: wav-reverberate --shift-output=true).

    Args:
        samples: Audio, shape (N,).
        response: The room's impulse response, shape (M,).

    Returns:
        Shape (N,): samples with the same power as before.

    Raises:
        DataError: The response is all zeros.
    """
    peak = int(np.argmax(np.abs(response)))
    if not response[peak]:
        raise DataError("an impulse response of digital silence")
    size = 1 << (len(samples) + len(response) - 2).bit_length()
    # Upright: a microphone's polarity is of no matter, and the direct sound stays in phase.
    spectrum = np.fft.rfft(response / response[peak], size) * np.fft.rfft(samples, size)
    moved = np.fft.irfft(spectrum, size)[peak : peak + len(samples)]
    power = np.square(moved).mean()
    if not power:
        return samples
    gain = np.sqrt(np.square(samples, dtype=np.float64).mean() / power)
    return (gain * moved).astype(np.float32)
