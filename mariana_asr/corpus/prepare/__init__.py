"""Preparers: from a corpus as it is published to Kaldi data directories and a dictionary."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from mariana_asr.corpus.prepare import aishell, an4, data_dirs, espeak_digits, fsdd, thchs30
from mariana_asr.corpus.prepare.aishell import AishellOptions
from mariana_asr.corpus.prepare.an4 import An4Options
from mariana_asr.corpus.prepare.data_dirs import DataDirsOptions
from mariana_asr.corpus.prepare.espeak_digits import EspeakDigitsOptions
from mariana_asr.corpus.prepare.fsdd import FsddOptions
from mariana_asr.corpus.prepare.thchs30 import Thchs30Options
from mariana_asr.options import Options, options_from_assignments

__all__ = [
    "PREPARERS",
    "AishellOptions",
    "An4Options",
    "DataDirsOptions",
    "EspeakDigitsOptions",
    "FsddOptions",
    "PreparerOptions",
    "Thchs30Options",
    "check_corpus",
    "corpus_files",
    "prepare_corpus",
    "preparer_options",
]

PreparerOptions = Annotated[
    DataDirsOptions
    | An4Options
    | FsddOptions
    | EspeakDigitsOptions
    | AishellOptions
    | Thchs30Options,
    Field(discriminator="preparer"),
]
"""Options of any preparer, told apart by the key ``preparer``."""


class Preparer(NamedTuple):
    """The options that a preparer takes, and the function that writes below a folder."""

    options: type[Options]
    prepare: Callable[[Any, Path], None]


PREPARERS = {
    "kaldi_dirs": Preparer(DataDirsOptions, data_dirs.prepare),
    "an4": Preparer(An4Options, an4.prepare),
    "fsdd": Preparer(FsddOptions, fsdd.prepare),
    "espeak_digits": Preparer(EspeakDigitsOptions, espeak_digits.prepare),
    "aishell": Preparer(AishellOptions, aishell.prepare),
    "thchs30": Preparer(Thchs30Options, thchs30.prepare),
}
"""The preparers by name."""


def preparer_options(name: str, assignments: Iterable[str]) -> Options:
    """Options of a preparer from ``key=value`` words.

    Raises:
        RecipeError: A word cannot be read, or does not fit the preparer's options.
    """
    return options_from_assignments(PREPARERS[name].options, assignments)


def corpus_files(options: Options) -> tuple[Path, ...]:
    """The files of a user's own that decide what a preparer makes; published corpora stay."""
    return options.files if isinstance(options, DataDirsOptions) else ()


def check_corpus(options: Options) -> None:
    """Check a user's own data directories; published corpora are found or fetched when prepared.

    Raises:
        DataError: A directory is missing or has problems.
    """
    if isinstance(options, DataDirsOptions):
        data_dirs.read_sets(options)


def prepare_corpus(options: Options, out: Path) -> None:
    """Prepare a corpus below ``out``.

    Writes a Kaldi data directory for each set (``out/train``, ``out/dev`` and the test sets), the
    dictionary in Kaldi's form where the corpus has one (``out/dict``, with ``lm.arpa`` where it
    has a language model) and, where audio is made, ``out/wav``.
    What an earlier preparation left there is removed first. ``wav.scp`` holds absolute paths,
    so ``out`` cannot be moved afterwards.

    Raises:
        DataError: The corpus is nowhere and cannot be fetched, or is not as it should be.
        StageError: A set has no usable utterance.
    """
    for name in ("train", "dev", "test", "dict", "wav"):
        shutil.rmtree(out / name, ignore_errors=True)
    preparer = next(p for p in PREPARERS.values() if isinstance(options, p.options))
    preparer.prepare(options, out)
