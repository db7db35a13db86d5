"""Preparing the Free Spoken Digit Dataset: single digits, or connected strings made of them."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.corpus.audio import read_audio
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.corpus.prepare.digits import DIGITS, cut_into_strings, write_digit_dictionary
from mariana_asr.corpus.prepare.download import PublicCorpus, find_corpus
from mariana_asr.corpus.prepare.room_tone import join
from mariana_asr.errors import DataError
from mariana_asr.files import atomic_directory
from mariana_asr.options import Options
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

RATE = 8000
"""Sample rate of the recordings in Hz."""

TEST_INDICES = range(0, 5)
"""Recordings of each digit and speaker that are the official test set."""

DEV_INDICES = range(5, 10)
"""Recordings that are kept from training to tune on; the corpus itself names none."""

FSDD = PublicCorpus(
    name="fsdd",
    urls=("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",),
    folder="free-spoken-digit-dataset-1.0.9",
    # Published by TensorFlow Datasets for this address, and also what `git archive` of the tag
    # v1.0.9, compressed by `gzip -n`, gives.
    sha256="8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
)
"""The dataset's public home; v1.0.9 is the last release with these five speakers alone."""

Recording = tuple[int, str, int]
"""Digit, speaker and index of a recording."""


class FsddOptions(Options):
    """Which digits of FSDD to use, and for what."""

    preparer: Literal["fsdd"] = "fsdd"
    """Which corpus to prepare."""
    corpus_dir: Path | None = None
    """Folder with FSDD's recordings/; by default it is looked for, then downloaded."""
    task: Literal["connected", "single"] = "connected"
    """``single``: each recording is an utterance, the official split by index. ``connected``:
    strings of one speaker's recordings, the test speakers left out of training."""
    speakers: list[str] = Field(
        default=["george", "jackson", "nicolas", "theo", "yweweler"], min_length=1
    )
    """The speakers to use, of those in the folder (later releases have more than these)."""
    test_speakers: list[str] = Field(default=["jackson"], min_length=1)
    """Connected: the speakers of the test set, left out of training."""
    dev_speakers: list[str] = Field(default=[])
    """Connected: the speakers of the development set, left out of training. By default it is
    made of the training speakers' recordings 5 to 9, which training then goes without."""
    shortest: int = Field(default=3, ge=1)
    """Connected: least number of digits in a string."""
    longest: int = Field(default=7, ge=1)
    """Connected: greatest number of digits in a string."""
    repeats: int = Field(default=1, ge=1)
    """Connected: how often each training recording is used; others are used once."""
    pause: tuple[float, float] = (0.05, 0.3)
    """Connected: least and greatest seconds of the pauses between digits."""
    edge: tuple[float, float] = (0.1, 0.3)
    """Connected: least and greatest seconds before the first digit and after the last."""
    seed: int = 0
    """Connected: seed of the order of digits, the strings' lengths and the pauses."""

    @model_validator(mode="after")
    def _check(self) -> "FsddOptions":
        if self.longest < 2 * self.shortest - 1:
            raise ValueError(
                f"longest is {self.longest}; it must be at least {2 * self.shortest - 1} with "
                f"shortest {self.shortest}, or some digits could not be used"
            )
        for name in ("pause", "edge"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} is {low} to {high}, not a range of seconds")
        left_out = [*self.test_speakers, *self.dev_speakers]
        if unknown := sorted(set(left_out) - set(self.speakers)):
            raise ValueError(f"{', '.join(unknown)}: not in speakers ({', '.join(self.speakers)})")
        if len(set(left_out)) < len(left_out):
            raise ValueError("a speaker is named twice in test_speakers and dev_speakers")
        if self.task == "connected" and len(set(self.speakers)) == len(left_out):
            raise ValueError("test_speakers and dev_speakers leave no speaker to train on")
        return self


def prepare(options: FsddOptions, out: Path) -> None:
    """Write the data directories ``train``, ``dev`` and ``test``, and ``dict``.

    Connected strings are written as WAV files below ``out/wav``; single digits are used where
    they lie. A recording that cannot be used is left out and listed in ``skipped.txt`` of each
    set that should have held it.

    Raises:
        DataError: The corpus is nowhere and cannot be fetched, or a speaker is not in it.
        StageError: A set has no usable recording.
    """
    root = find_corpus(FSDD, options.corpus_dir)
    files = _find_recordings(root, options.speakers)
    if options.task == "single":
        _prepare_single(files, out)
    else:
        _prepare_connected(files, options, out)
    write_digit_dictionary(out / "dict")


def _find_recordings(root: Path, speakers: Iterable[str]) -> dict[Recording, Path]:
    """Map the recordings of some speakers to their files, in the order of speaker, digit, index."""
    found: dict[Recording, Path] = {}
    for file in (root / "recordings").glob("*.wav"):
        if match := re.fullmatch(r"(\d)_([a-z]+)_(\d+)", file.stem):
            found[int(match[1]), match[2], int(match[3])] = file
    present = sorted({speaker for _, speaker, _ in found})
    if missing := sorted(set(speakers) - set(present)):
        raise DataError(
            f"no recordings of {', '.join(missing)}",
            where=root / "recordings",
            remedy=f"It has {', '.join(present) or 'none'}; correct corpus_dir or speakers",
        )
    chosen = (key for key in found if key[1] in speakers)
    return {key: found[key] for key in sorted(chosen, key=lambda key: (key[1], key[0], key[2]))}


def _prepare_single(files: dict[Recording, Path], out: Path) -> None:
    def set_of(index: int) -> str:
        return "test" if index in TEST_INDICES else "dev" if index in DEV_INDICES else "train"

    for name in ("train", "dev", "test"):
        skipped = Skipped(f"preparing the {name} set of FSDD")
        data = DataDir(path=out / name, utt2spk={})
        for (digit, speaker, index), file in files.items():
            if set_of(index) != name:
                continue
            utterance = f"{speaker}-{digit}_{index:03d}"
            if _read(file, utterance, skipped) is not None:
                data.utt2spk[utterance] = speaker
                data.text[utterance] = DIGITS[digit]
                data.wav[utterance] = str(file)
        skipped.finish(data.path / "skipped.txt", len(data.utt2spk))
        data.write()


def _prepare_connected(files: dict[Recording, Path], options: FsddOptions, out: Path) -> None:
    def set_of(recording: Recording) -> str:
        _, speaker, index = recording
        if speaker in options.test_speakers:
            return "test"
        if options.dev_speakers:
            return "dev" if speaker in options.dev_speakers else "train"
        return "dev" if index in DEV_INDICES else "train"

    with atomic_directory(out / "wav") as folder:
        made = []
        for name in ("train", "dev", "test"):
            skipped = Skipped(f"preparing the {name} set of FSDD")
            chosen = {key: file for key, file in files.items() if set_of(key) == name}
            audio = {
                key: samples
                for key, file in chosen.items()
                if (samples := _read(file, file.stem, skipped)) is not None
            }
            data = _make_strings(name, audio, options, folder / name, out)
            skipped.finish(data.path / "skipped.txt", len(data.utt2spk))
            made.append(data)
    for data in made:
        data.write()


def _make_strings(
    name: str,
    audio: dict[Recording, NDArray[np.float32]],
    options: FsddOptions,
    folder: Path,
    out: Path,
) -> DataDir:
    """Write a set's strings below ``folder``, which becomes ``out/wav/<name>`` later."""
    data = DataDir(path=out / name, utt2spk={})
    folder.mkdir()
    place = (out / "wav" / name).absolute()
    for speaker in sorted({speaker for _, speaker, _ in audio}):
        own = [key for key in audio if key[1] == speaker]
        # Each speaker draws from a generator of its own, so that one more does not change others.
        generator = np.random.default_rng([options.seed, *name.encode(), 0, *speaker.encode()])
        order = [
            own[n]
            for _ in range(options.repeats if name == "train" else 1)
            for n in generator.permutation(len(own))
        ]
        if len(order) < options.shortest:
            continue
        strings = cut_into_strings(order, options.shortest, options.longest, generator)
        for number, string in enumerate(strings):
            pauses = [
                generator.uniform(*options.edge),
                *generator.uniform(*options.pause, size=len(string) - 1),
                generator.uniform(*options.edge),
            ]
            samples = join([audio[key] for key in string], pauses, RATE, generator)
            digits = [digit for digit, _, _ in string]
            utterance = f"{speaker}-{''.join(map(str, digits))}_{number:03d}"
            soundfile.write(folder / f"{utterance}.wav", samples, RATE, subtype="PCM_16")
            data.utt2spk[utterance] = speaker
            data.text[utterance] = " ".join(DIGITS[digit] for digit in digits)
            data.wav[utterance] = str(place / f"{utterance}.wav")
    return data


def _read(file: Path, name: str, skipped: Skipped) -> NDArray[np.float32] | None:
    """Read an 8 kHz recording; None if it cannot be used, which is noted in ``skipped``."""
    try:
        samples, rate = read_audio(str(file))
    except DataError as error:
        skipped.add(name, str(error))
        return None
    if rate != RATE:
        skipped.add(name, f"{file}: {rate} Hz, not {RATE}")
        return None
    return samples
