"""A synthetic corpus that needs no download: connected digits spoken by eSpeak NG in noise.

It shows that the toolkit works where no corpus is at hand. Error rates on it say nothing about
real speech.
"""

import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.corpus.noise import NoiseColour, noise
from mariana_asr.corpus.prepare.digits import DIGITS, write_digit_dictionary
from mariana_asr.corpus.prepare.espeak import Utterance, VoiceScript, check_voices, speak
from mariana_asr.files import atomic_directory
from mariana_asr.options import Options

_COMMA_PROBABILITY = 0.2
_EDGE_SECONDS = (0.1, 0.3)
_PEAK = 30000.0


def _voices(*default: str) -> Any:
    return Field(default=list(default), min_length=1)


class EspeakDigitsOptions(Options):
    """Voices, amounts and noise of the synthetic digit corpus."""

    preparer: Literal["espeak_digits"] = "espeak_digits"
    """Which corpus to prepare."""
    train_voices: list[str] = _voices(
        "en-us+m1",
        "en-us+m3",
        "en-us+f1",
        "en-us+f4",
        "en-us+Alex",
        "en-us+Annie",
        "en-us+adam",
        "en-us+shelby",
        "en-us-nyc+m5",
        "en-us-nyc+Andrea",
        "en-us-nyc+michel",
        "en+m2",
        "en+m7",
        "en+f3",
        "en+linda",
        "en+pablo",
        "en-gb-x-rp+Denis",
        "en-gb-x-rp+anika",
        "en-gb-x-rp+Gene",
        "en-gb-scotland+norbert",
        "en-gb-scotland+aunty",
        "en-gb-x-gbclan+travis",
        "en-gb-x-gbcwmd+steph",
        "en-029+paul",
    )
    """eSpeak NG voices as ACCENT+VARIANT."""
    dev_voices: list[str] = _voices("en-us+m4", "en+f5", "en-gb-x-rp+edward", "en-us-nyc+belinda")
    """Voices of the development set; no variant of another set."""
    test_voices: list[str] = _voices(
        "en-us+m6",
        "en-us+f2",
        "en-us+boris",
        "en-us-nyc+victor",
        "en+ed",
        "en+sandro",
        "en-gb-x-rp+robert",
        "en-gb-scotland+quincy",
    )
    """Voices of the test set; no variant of another set."""
    train_strings: int = Field(default=25, ge=1)
    """Strings each training voice says."""
    dev_strings: int = Field(default=15, ge=1)
    """Strings each voice of the development set says."""
    test_strings: int = Field(default=15, ge=1)
    """Strings each test voice says."""
    shortest: int = Field(default=3, ge=1)
    """Least number of digits in a string."""
    longest: int = Field(default=7, ge=1)
    """Greatest number of digits in a string."""
    snr_db: list[float] = Field(default=[15.0, 10.0, 5.0, 0.0], min_length=1)
    """Signal-to-noise ratios in dB; each string gets one of them, all equally often a voice."""
    noises: list[NoiseColour] = Field(default=["white", "pink"], min_length=1)
    """Colours of the noise; each string gets one at random."""
    sample_rate: Literal[8000, 16000] = 8000
    """Sample rate of the WAV files in Hz."""
    seed: int = 0
    """Seed of the digits, the manner of speaking and the noise."""

    @model_validator(mode="after")
    def _check(self) -> "EspeakDigitsOptions":
        if self.longest < self.shortest:
            raise ValueError(f"longest is {self.longest}, less than shortest {self.shortest}")
        names = [speaker_name(voice) for voice in self.all_voices]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"voices named twice: {', '.join(repeated)}")
        sets = {name: self.voices(name) for name in ("train", "dev", "test")}
        for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
            # The variant is the speaker; the same one with another accent is no new speaker.
            if shared := sorted(set(map(_variant, sets[one])) & set(map(_variant, sets[other]))):
                raise ValueError(f"{one}_voices and {other}_voices share {', '.join(shared)}")
        return self

    def voices(self, name: str) -> list[str]:
        """Voices of the set ``train``, ``dev`` or ``test``."""
        return {"train": self.train_voices, "dev": self.dev_voices, "test": self.test_voices}[name]

    @property
    def all_voices(self) -> list[str]:
        """Voices of all sets."""
        return [*self.train_voices, *self.dev_voices, *self.test_voices]

    def strings(self, name: str) -> int:
        """Number of strings a voice says in the set ``train``, ``dev`` or ``test``."""
        counts = {"train": self.train_strings, "dev": self.dev_strings, "test": self.test_strings}
        return counts[name]


def speaker_name(voice: str) -> str:
    """Name a voice as a speaker, without the ``-`` that parts speaker and string in an id."""
    return voice.replace("-", "").replace(" ", "").replace("+", "_")


def _variant(voice: str) -> str:
    return voice.partition("+")[2] or voice


def prepare(options: EspeakDigitsOptions, out: Path) -> None:
    """Speak the corpus: data directories ``train``, ``dev``, ``test``, and ``dict``.

    The WAV files go below ``out/wav``. Equal options give equal files.

    Raises:
        DataError: eSpeak NG lacks a voice.
        StageError: Its library crashed.
        MissingPackageError: espeakng-loader or torchaudio is not installed.
    """
    check_voices(options.all_voices)
    planned = [
        (name, voice, *_plan(voice, options.strings(name), options))
        for name in ("train", "dev", "test")
        for voice in options.voices(name)
    ]
    data = {name: DataDir(path=out / name, utt2spk={}) for name in ("train", "dev", "test")}
    with atomic_directory(out / "wav") as folder:
        spoken = speak([script for _, _, _, script in planned])
        for (name, voice, strings, _), (clean, rate) in zip(planned, spoken, strict=True):
            generator = _generator(options.seed, voice, "noise")
            noisy = _add_room(clean, rate, options, generator)
            (folder / name).mkdir(exist_ok=True)
            for number, (digits, samples) in enumerate(zip(strings, noisy, strict=True)):
                speaker = speaker_name(voice)
                utterance = f"{speaker}-{''.join(map(str, digits))}_{number:03d}"
                file = f"{name}/{utterance}.wav"
                soundfile.write(folder / file, samples, options.sample_rate, subtype="PCM_16")
                data[name].utt2spk[utterance] = speaker
                data[name].text[utterance] = " ".join(DIGITS[digit] for digit in digits)
                data[name].wav[utterance] = str((out / "wav" / file).absolute())
    for directory in data.values():
        directory.write()
    write_digit_dictionary(out / "dict")


def _generator(seed: int, voice: str, purpose: str) -> np.random.Generator:
    """Make a source of randomness for one voice that other voices do not change."""
    return np.random.default_rng([seed, zlib.crc32(f"{voice} {purpose}".encode())])


def _plan(
    voice: str, count: int, options: EspeakDigitsOptions
) -> tuple[list[list[int]], VoiceScript]:
    """Draw a voice's digit strings and how it says each; a voice has its own pace and pitch."""
    generator = _generator(options.seed, voice, "script")
    pace = generator.integers(150, 200)
    pitch = generator.integers(35, 65)
    strings, utterances = [], []
    for _ in range(count):
        length = int(generator.integers(options.shortest, options.longest, endpoint=True))
        digits = [int(digit) for digit in generator.integers(10, size=length)]
        commas = generator.random(length - 1) < _COMMA_PROBABILITY
        text = DIGITS[digits[0]]
        for digit, comma in zip(digits[1:], commas, strict=True):
            text += (", " if comma else " ") + DIGITS[digit]
        strings.append(digits)
        utterances.append(
            Utterance(
                text,
                words_per_minute=int(pace + generator.integers(-15, 16)),
                pitch=int(pitch + generator.integers(-8, 9)),
                pitch_range=int(generator.integers(30, 71)),
            )
        )
    return strings, VoiceScript(voice, tuple(utterances))


def _add_room(
    clean: list[NDArray[np.int16]],
    rate: int,
    options: EspeakDigitsOptions,
    generator: np.random.Generator,
) -> list[NDArray[np.int16]]:
    """Resample a voice's utterances, put silence around them and add noise."""
    import torch

    from mariana_asr.audio_backend import torchaudio

    repeats = -(-len(clean) // len(options.snr_db))
    snrs = generator.permutation(np.tile(options.snr_db, repeats)[: len(clean)])
    noisy = []
    for samples, snr in zip(clean, snrs, strict=True):
        resampled = torchaudio.functional.resample(
            torch.from_numpy(samples.astype(np.float32)), rate, options.sample_rate
        ).numpy()
        before, after = (
            round(seconds * options.sample_rate) for seconds in generator.uniform(*_EDGE_SECONDS, 2)
        )
        padded = np.pad(resampled, (before, after))
        colour = options.noises[int(generator.integers(len(options.noises)))]
        level = np.sqrt(np.square(resampled).mean()) * 10 ** (-snr / 20)
        mixed = padded + level * noise(colour, len(padded), options.sample_rate, generator)
        # Scaled down rather than clipped where the noise would overflow 16 bits.
        mixed *= min(1.0, _PEAK / np.abs(mixed).max())
        noisy.append(np.rint(mixed).astype(np.int16))
    return noisy
