"""Preparers: from a corpus as it is published to Kaldi data directories and a dictionary."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mariana_asr.corpus.prepare import an4, espeak_digits, fsdd
from mariana_asr.corpus.prepare.an4 import An4Options
from mariana_asr.corpus.prepare.espeak_digits import EspeakDigitsOptions
from mariana_asr.corpus.prepare.fsdd import FsddOptions

__all__ = [
    "PREPARERS",
    "An4Options",
    "EspeakDigitsOptions",
    "FsddOptions",
    "PreparerOptions",
    "prepare_corpus",
]

PreparerOptions = Annotated[
    An4Options | FsddOptions | EspeakDigitsOptions, Field(discriminator="preparer")
]
"""Options of any preparer, told apart by the key ``preparer``."""

PREPARERS: dict[str, Callable[[Any, Path], None]] = {
    "an4": an4.prepare,
    "fsdd": fsdd.prepare,
    "espeak_digits": espeak_digits.prepare,
}
"""The preparers by name; each takes its own options and the output folder."""


def prepare_corpus(options: PreparerOptions, out: Path) -> None:
    """Prepare a corpus below ``out``.

    Writes a Kaldi data directory for each set (``out/train``, ``out/test`` and, where the
    preparer makes one, ``out/dev``), the dictionary in Kaldi's form (``out/dict``, with
    ``lm.arpa`` where the corpus has a language model) and, where audio is made, ``out/wav``.
    What an earlier preparation left there is removed first. ``wav.scp`` holds absolute paths,
    so ``out`` cannot be moved afterwards.

    Raises:
        DataError: The corpus is nowhere and cannot be fetched, or is not as it should be.
        StageError: A set has no usable utterance.
    """
    for name in ("train", "dev", "test", "dict", "wav"):
        shutil.rmtree(out / name, ignore_errors=True)
    PREPARERS[options.preparer](options, out)
