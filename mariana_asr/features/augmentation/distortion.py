"""What is done to an utterance's samples before its features are computed: room, noise, volume."""

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.corpus.speed import AS_RECORDED, original_name
from mariana_asr.errors import DataError
from mariana_asr.features.augmentation.noises import (
    IMPULSE_RESPONSES,
    NoiseSource,
    add_noise,
    list_recordings,
    read_at_rate,
)
from mariana_asr.features.augmentation.options import AugmentationOptions, ReverberationOptions
from mariana_asr.features.augmentation.rooms import reverberate, simulate_response


class Distorter:
    """Distorts the utterances of a data directory, all of them once.

    What is drawn for an utterance follows from the seed, its id and the number of the copy alone,
    so it does not depend on the order in which utterances are read or on who reads them.
    """

    def __init__(
        self,
        options: AugmentationOptions,
        data: DataDir,
        copy: int = 1,
        *,
        allow_pipes: bool = False,
    ) -> None:
        """Find the recordings that are needed.

        Args:
            options: What to do; their speeds are not looked at (``perturbed_copies``).
            data: The data directory whose utterances are to be distorted.
            copy: Which of ``options.copies`` this is, from 1.
            allow_pipes: Whether commands in ``wav.scp`` may be run.

        Raises:
            DataError: There are no recordings of noise or impulse responses where the options
                say, one is damaged, or there are too few utterances for babble.
        """
        self._options = options
        self._copy = copy
        self._noises: NoiseSource | None = None
        self._responses: list[Path] = []
        rooms = options.reverberation
        if rooms is not None and rooms.folder is not None:
            self._responses = list_recordings(rooms.folder, IMPULSE_RESPONSES)
        if options.noise is not None:
            self._noises = NoiseSource(
                options.noise, data, self._generator("", "voices"), allow_pipes=allow_pipes
            )

    def distort(
        self,
        samples: NDArray[np.float32],
        rate: int,
        utterance: str,
        *,
        speaker: str = "",
        speed: float = AS_RECORDED,
    ) -> NDArray[np.float32]:
        """Move an utterance to a room, add noise, and change its volume.

        Nothing is clipped: samples may go beyond the range of 16-bit integers.

        Args:
            samples: Audio at its speed, shape (N,).
            rate: Its sample rate in Hz.
            utterance: Its id.
            speaker: Its speaker's id.
            speed: Its speed, which both ids may tell.

        Returns:
            Shape (N,); every sound is where it was.

        Raises:
            DataError: A recording of noise or an impulse response cannot be used.
        """
        options = self._options
        if options.reverberation is not None:
            generator = self._generator(utterance, "room")
            if generator.random() < options.reverberation.probability:
                response = self._response(options.reverberation, rate, generator)
                samples = reverberate(samples, response)
        if options.noise is not None and self._noises is not None:
            generator = self._generator(utterance, "noise")
            if generator.random() < options.noise.probability:
                snr_db = generator.uniform(*options.noise.snr_db)
                noise = self._noises.draw(
                    len(samples),
                    rate,
                    generator,
                    utterance=original_name(utterance, speed),
                    speaker=original_name(speaker, speed),
                )
                samples = add_noise(samples, noise, snr_db)
        if options.volume is not None:
            factor = self._generator(utterance, "volume").uniform(*options.volume)
            samples = samples * np.float32(factor)
        return samples

    def _response(
        self, options: ReverberationOptions, rate: int, generator: np.random.Generator
    ) -> NDArray[np.floating]:
        """An impulse response, recorded or simulated."""
        if not self._responses:
            rt60 = generator.uniform(*options.rt60)
            ratio = generator.uniform(*options.direct_to_reverberant_db)
            return simulate_response(rt60, ratio, rate, generator)
        path = self._responses[int(generator.integers(len(self._responses)))]
        response = read_at_rate(path, rate)
        if not response.any():
            raise DataError("this impulse response is digital silence", where=path)
        return response

    def _generator(self, utterance: str, purpose: str) -> np.random.Generator:
        """A source of randomness that other utterances and purposes do not change."""
        key = zlib.crc32(f"{utterance} {purpose}".encode())
        return np.random.default_rng([self._options.seed, self._copy, key])
