"""Which pdfs belong to the same phone, whatever its tone, its stress or its place in the word."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import read_transition_model, transition_id_to_pdf
from mariana_asr.errors import FormatError
from mariana_asr.lang.langdir import read_symbol_table

_MARKS = re.compile(r"(?<=.)\d*(_[BIES])?$")
"""What follows a phone's name: tone or stress, and its place in the word."""


def pdf_groups(model_dir: str | Path) -> NDArray[np.int64]:
    """Group the pdfs of a model by phone.

    Phones that share a pdf are one group, so that each pdf has one.

    Args:
        model_dir: Folder with ``final.mdl`` and ``phones.txt``.

    Returns:
        (P,) number of each pdf's group, from 0; a pdf of no phone has one of its own.

    Raises:
        FormatError: A file is missing or damaged, or a phone has no name.
    """
    model_dir = Path(model_dir)
    model = read_transition_model(model_dir / "final.mdl")
    names = {number: name for name, number in read_symbol_table(model_dir / "phones.txt").items()}
    pdfs = transition_id_to_pdf(model)
    groups = np.arange(model.num_pdfs)
    first: dict[str, int] = {}
    for transition_id in range(1, model.num_transition_ids + 1):
        phone = model.transition_id_to_phone(transition_id)
        if phone not in names:
            raise FormatError(f"phone {phone} has no name", where=model_dir / "phones.txt")
        group = int(groups[pdfs[transition_id]])
        other = int(groups[first.setdefault(_MARKS.sub("", names[phone]), pdfs[transition_id])])
        groups[groups == max(group, other)] = min(group, other)
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
