"""Alignments as transition ids: reading them, and the pdfs and phones that they stand for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import TransitionModel, transition_id_to_pdf
from mariana_asr.archives import iterate_int_vectors
from mariana_asr.errors import FormatError

_ARCHIVE_NAMES = ("ali.*.gz", "ali.*.ark", "*_ali.ark")
"""What archives of alignments are called, in a directory; the first kind that is there counts."""


def alignment_files(path: str | Path) -> list[Path]:
    """The archives of a directory of alignments (``ali.*.gz``, ...), or the one archive given.

    Raises:
        FormatError: There are none.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    for pattern in _ARCHIVE_NAMES:
        if files := sorted(path.glob(pattern)):
            return files
    raise FormatError(f"none of {', '.join(_ARCHIVE_NAMES)} here", where=path)


def read_alignments(path: str | Path) -> dict[str, NDArray[np.int32]]:
    """Read the alignments of a directory or of one archive (``alignment_files``).

    Returns:
        Utterance to transition ids, shape (T,).

    Raises:
        FormatError: There are none, one is damaged, or an utterance is in two of them.
    """
    return dict(iterate_alignments(path))


def iterate_alignments(path: str | Path) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Yield what ``read_alignments`` reads, one utterance after the other.

    Raises:
        FormatError: As there.
    """
    seen: set[str] = set()
    for file in alignment_files(path):
        for utterance, tids in iterate_int_vectors(file):
            if utterance in seen:
                raise FormatError(f"utterance {utterance} is there twice", where=file)
            seen.add(utterance)
            yield utterance, tids


def alignment_to_pdfs(
    tids: NDArray[np.integer], transition_model: TransitionModel
) -> NDArray[np.int32]:
    """Map transition ids to pdf ids, shape (T,) (Kaldi: ali-to-pdf).

    Raises:
        FormatError: A number is no transition id of the model.
    """
    check_transition_ids(tids, transition_model)
    return transition_id_to_pdf(transition_model)[tids]


def check_transition_ids(tids: NDArray[np.integer], transition_model: TransitionModel) -> None:
    """Check that numbers are transition ids of a model.

    Raises:
        FormatError: Some are not.
    """
    highest = transition_model.num_transition_ids
    bad = tids[(tids < 1) | (tids > highest)]
    if len(bad):
        raise FormatError(
            f"{bad[0]} is no transition id: the model has 1 to {highest}",
            remedy="Is this the model that the alignment was made with?",
        )
