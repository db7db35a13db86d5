"""Noise for utterances: made, recorded, or babble of other utterances."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.corpus.audio import iterate_audio, open_audio_info, read_audio
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.corpus.noise import noise
from mariana_asr.corpus.resampling import resample
from mariana_asr.corpus.speed import AS_RECORDED
from mariana_asr.errors import DataError
from mariana_asr.features.augmentation.options import AugmentationOptions, NoiseOptions

_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".sph"})
"""Names of audio files end in one of these."""

_POOL_UTTERANCES = 100
"""Utterances that babble is made of: kept in memory, as whole recordings take long to read."""

_POOL_SECONDS = 10.0
"""Of each of them at most."""

_DRAWS = 10
"""How often another part of a recording is drawn where it is silent."""

NOISE, IMPULSE_RESPONSES = "noise", "impulse responses"
"""What recordings are of, in the words of an error."""

Samples = NDArray[np.float32]


def list_recordings(folder: Path, what: str) -> list[Path]:
    """All audio files below a folder, sorted; their headers are read.

    Args:
        folder: Where to look.
        what: What they are, for an error.

    Raises:
        DataError: There are none, or one is damaged or has several channels.
    """
    paths = _audio_files(folder)
    if not paths:
        raise DataError(
            f"no recordings of {what} in this folder",
            where=folder,
            remedy=f"Name a folder that has files ending in {', '.join(sorted(_SUFFIXES))}",
        )
    for path in paths:
        _, frames, channels = open_audio_info(path)
        if channels != 1 or not frames:
            raise DataError(
                f"{channels} channels and {frames} samples, expected one channel of {what}",
                where=path,
                remedy="Mix it down (sox IN OUT remix -), or take it out of the folder",
            )
    return paths


def check_recordings(options: AugmentationOptions) -> None:
    """Look whether the folders that the options name have recordings that can be used.

    Raises:
        DataError: One has none, or a recording is damaged or has several channels.
    """
    for folder, what in _folders(options):
        list_recordings(folder, what)


def recordings_of(options: AugmentationOptions) -> dict[str, int]:
    """Recordings of noise and rooms with their sizes in bytes: what the draws depend on."""
    return {
        str(path): path.stat().st_size
        for folder, _ in _folders(options)
        for path in _audio_files(folder)
    }


def read_at_rate(path: Path, rate: int) -> Samples:
    """Read a recording, resampled if it has another rate: shape (N,).

    Raises:
        DataError: It cannot be read.
    """
    samples, own_rate = read_audio(path)
    return resample(samples, own_rate, rate)


def add_noise(
    samples: NDArray[np.float32], noise: NDArray[np.floating], snr_db: float
) -> NDArray[np.float32]:
    """Mix an utterance with noise at a signal-to-noise ratio.

    Args:
        samples: Audio, shape (N,). Digital silence stays as it is: no ratio to it is defined.
        noise: Noise of the same shape, of any level but silence.
        snr_db: Power of the utterance over that of the noise, in dB, over all samples.

    Returns:
        Shape (N,), the utterance as loud as before, not clipped.
    """
    signal = np.sqrt(np.square(samples, dtype=np.float64).mean())
    level = signal * 10.0 ** (-snr_db / 20.0) / _rms(noise)
    return (samples + level * noise).astype(np.float32)


@dataclass(frozen=True)
class _Voice:
    """An utterance that may be heard in babble."""

    utterance: str
    speaker: str
    samples: Samples
    rate: int


class NoiseSource:
    """Gives noise of the kinds that are asked for."""

    def __init__(
        self,
        options: NoiseOptions,
        data: DataDir,
        generator: np.random.Generator,
        *,
        allow_pipes: bool = False,
    ) -> None:
        """List the recordings of noise, and read the utterances that babble is made of.

        Args:
            options: Kinds of noise.
            data: The data directory whose utterances are the babble.
            generator: Draws these utterances.
            allow_pipes: Whether commands in its ``wav.scp`` may be run.

        Raises:
            DataError: There are no recordings of noise, one is damaged, or there are too few
                utterances for babble.
        """
        self._options = options
        self._recordings: list[Path] = []
        self._voices: list[_Voice] = []
        if options.folder is not None:
            self._recordings = list_recordings(options.folder, NOISE)
        if "babble" in options.kinds:
            self._voices = _read_voices(data, generator, allow_pipes)
            if len(self._voices) <= options.voices[0]:
                raise DataError(
                    f"babble of {options.voices[0]} voices or more needs more utterances than the "
                    f"{len(self._voices)} that can be read",
                    where=data.path,
                    remedy="Ask for fewer voices, or leave babble out of the kinds of noise",
                )

    def draw(
        self,
        length: int,
        rate: int,
        generator: np.random.Generator,
        *,
        utterance: str = "",
        speaker: str = "",
    ) -> NDArray[np.floating]:
        """Draw noise of one of the kinds.

        Args:
            length: Number of samples.
            rate: Their rate in Hz.
            generator: Source of randomness.
            utterance: Id of the utterance that it is for, which is not heard in it.
            speaker: Its speaker, who is not heard in it where there are enough others.

        Returns:
            Shape (length,), at any level but not silent.

        Raises:
            DataError: A recording cannot be read, or is silent.
        """
        kind = self._options.kinds[int(generator.integers(len(self._options.kinds)))]
        if kind == "recordings":
            path = self._recordings[int(generator.integers(len(self._recordings)))]
            return _excerpt(read_at_rate(path, rate), length, generator, str(path))
        if kind == "babble":
            return self._babble(length, rate, generator, utterance, speaker)
        return noise(kind, length, rate, generator)

    def _babble(
        self,
        length: int,
        rate: int,
        generator: np.random.Generator,
        utterance: str,
        speaker: str,
    ) -> NDArray[np.floating]:
        """Several voices, all equally loud."""
        least, most = self._options.voices
        candidates = [voice for voice in self._voices if voice.speaker != speaker]
        if len(candidates) < least:
            candidates = [voice for voice in self._voices if voice.utterance != utterance]
        count = min(int(generator.integers(least, most, endpoint=True)), len(candidates))
        babble = np.zeros(length)
        for number in generator.choice(len(candidates), count, replace=False):
            voice = candidates[int(number)]
            samples = resample(voice.samples, voice.rate, rate)
            part = _excerpt(samples, length, generator, voice.utterance)
            babble += part / _rms(part)
        return babble


def _read_voices(data: DataDir, generator: np.random.Generator, allow_pipes: bool) -> list[_Voice]:
    """Read some utterances as they were recorded; the unreadable and silent are passed over."""
    recorded = [u for u in data.utterances if data.speeds.get(u, AS_RECORDED) == AS_RECORDED]
    count = min(_POOL_UTTERANCES, len(recorded))
    chosen = [recorded[int(n)] for n in np.sort(generator.permutation(len(recorded))[:count])]
    voices = []
    audio = iterate_audio(data, chosen, allow_pipes=allow_pipes, on_error=lambda *_: None)
    for utterance, samples, rate in audio:
        kept = samples[: round(_POOL_SECONDS * rate)].copy()
        if kept.any():
            voices.append(_Voice(utterance, data.utt2spk[utterance], kept, rate))
    return voices


def _excerpt(samples: Samples, length: int, generator: np.random.Generator, name: str) -> Samples:
    """A part of a recording from anywhere; at the recording's end it goes on from the beginning.

    Raises:
        DataError: Only silence is found.
    """
    for _ in range(_DRAWS):
        start = int(generator.integers(len(samples)))
        part = np.take(samples, np.arange(start, start + length), mode="wrap")
        if part.any():
            return part
    raise DataError(
        "this recording of noise is digital silence, or most of it is",
        where=name,
        remedy="Take it out of the folder",
    )


def _audio_files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return sorted(path for path in found if path.is_file())


def _folders(options: AugmentationOptions) -> Iterator[tuple[Path, str]]:
    """The folders that options name, and what is in them."""
    if options.noise is not None and options.noise.folder is not None:
        yield options.noise.folder, NOISE
    if options.reverberation is not None and options.reverberation.folder is not None:
        yield options.reverberation.folder, IMPULSE_RESPONSES


def _rms(samples: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
