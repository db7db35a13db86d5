"""A user's own corpus: Kaldi data directories that exist already."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from mariana_asr.corpus.datadir import FEATURES_FILE, DataDir, read_data_dir
from mariana_asr.corpus.subset import hold_out_speakers
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError, counted, summarise
from mariana_asr.options import Options

logger = logging.getLogger(__name__)

_PROBLEMS_SHOWN = 10


class DataDirsOptions(Options):
    """Kaldi data directories, with audio (``wav.scp``) or with features (``feats.scp``)."""

    preparer: Literal["kaldi_dirs"] = "kaldi_dirs"
    train: Path
    """Data directory to train on."""
    dev: Path | None = None
    """Data directory on which training is watched and decoding weights are chosen."""
    dev_speakers: float | list[str] = 0.1
    """Where there is no ``dev``: the speakers of ``train`` to hold out for it, by name or as a
    fraction, chosen by ``seed``."""
    seed: int = 0
    """Chooses the held-out speakers where ``dev_speakers`` is a fraction."""
    test: dict[str, Path] = Field(min_length=1)
    """Name of each test set and its data directory; one path alone is named ``test``."""

    @field_validator("test", mode="before")
    @classmethod
    def _one_test_set(cls, value: object) -> object:
        return {"test": value} if isinstance(value, str | Path) else value

    @field_validator("test")
    @classmethod
    def _names(cls, value: dict[str, Path]) -> dict[str, Path]:
        taken = {"train", "dev", "dict"} & value.keys()
        if taken:
            raise ValueError(f"must not name a test set {', '.join(sorted(taken))}")
        return value

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose content decides what is prepared."""
        directories = [self.train, *([self.dev] if self.dev else []), *self.test.values()]
        names = ("utt2spk", "text", "wav.scp", "segments", "feats.scp")
        return tuple(d / name for d in directories for name in names if (d / name).exists())


def read_sets(options: DataDirsOptions) -> dict[str, DataDir]:
    """Check the directories and read them: set names to data.

    Raises:
        DataError: A directory has problems; the first are listed, with how to see and mend all.
    """
    sets = {"train": _checked(options.train)}
    if options.dev is not None:
        sets["dev"] = _checked(options.dev)
    else:
        sets["train"], sets["dev"] = hold_out_speakers(
            sets["train"], options.dev_speakers, options.seed
        )
    return sets | {name: _checked(path) for name, path in options.test.items()}


def prepare(options: DataDirsOptions, out: Path) -> None:
    """Copy the directories' tables to ``out``; audio and features stay where they are.

    Raises:
        DataError: A directory has problems.
    """
    for name, data in read_sets(options).items():
        replace(data, path=out / name).write()
        if (data.path / FEATURES_FILE).exists():
            shutil.copyfile(data.path / FEATURES_FILE, out / name / FEATURES_FILE)
        logger.info("%s: %d utterances of %s", name, len(data.utt2spk), data.path)


def _checked(path: Path) -> DataDir:
    has_features = (path / "feats.scp").exists()
    # Commands in wav.scp are not run here; the features stage asks for --allow-pipes.
    # An empty transcript spoils one utterance only: training leaves it out and lists it.
    problems = validate_data_dir(
        path, need_audio=not has_features, allow_empty_text=True, allow_pipes=True
    )
    if problems:
        listed = "\n  ".join(str(problem) for problem in problems[:_PROBLEMS_SHOWN])
        raise DataError(
            f"{counted(len(problems), 'problem')}:\n  {listed}",
            where=path,
            remedy=f"`mariana-asr validate {path}` lists all, with --fix it mends what it can",
        )
    data = read_data_dir(path)
    if empty := sorted(utterance for utterance, words in data.text.items() if not words):
        logger.warning(
            "%s: %s with an empty transcript: %s",
            path / "text",
            counted(len(empty), "utterance"),
            summarise(empty),
        )
    return data
