"""Noise that is made rather than recorded."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

NoiseColour = Literal["white", "pink"]


def noise(
    colour: NoiseColour, length: int, rate: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Make Gaussian noise with a root mean square of 1.

    Args:
        colour: ``white``: equal power at all frequencies; ``pink``: power falling as 1/f above
            50 Hz, as in rooms and streets.
        length: Number of samples.
        rate: Sample rate in Hz.
        generator: Source of randomness.

    Returns:
        Samples of shape (length,).
    """
    white = generator.standard_normal(length)
    if colour == "pink":
        frequencies = np.maximum(np.fft.rfftfreq(length, 1 / rate), 50.0)
        white = np.fft.irfft(np.fft.rfft(white) / np.sqrt(frequencies), length)
    return white / np.sqrt(np.square(white).mean())
