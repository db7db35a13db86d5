"""What the digit corpora share: words, pronunciations, and cutting digits into strings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mariana_asr.corpus.prepare.dict_dir import write_dict_dir

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""The words of the ten digits, at the place of their value."""

PRONUNCIATIONS = (
    ("zero", "Z IH R OW"),
    ("zero", "Z IY R OW"),
    ("one", "W AH N"),
    ("two", "T UW"),
    ("three", "TH R IY"),
    ("four", "F AO R"),
    ("five", "F AY V"),
    ("six", "S IH K S"),
    ("seven", "S EH V AH N"),
    ("eight", "EY T"),
    ("nine", "N AY N"),
)
"""Words and their phones in ARPAbet without stress, as in the CMU dictionary."""

ItemT = TypeVar("ItemT")


def write_digit_dictionary(path: Path) -> None:
    """Write the dictionary of the ten digits in Kaldi's form (see ``write_dict_dir``)."""
    lexicon = [(word, phones.split()) for word, phones in PRONUNCIATIONS]
    write_dict_dir(path, lexicon, sorted({phone for _, phones in lexicon for phone in phones}))


def cut_into_strings(
    items: Sequence[ItemT], shortest: int, longest: int, generator: np.random.Generator
) -> list[list[ItemT]]:
    """Cut a sequence into strings of random length, leaving nothing over.

    Every length that leaves nothing, or enough for another string, is equally likely at each
    cut. Where ``longest < 2 * shortest - 1`` some sequences cannot be cut so.

    Args:
        items: What to cut, at least ``shortest`` of them.
        shortest: Least length of a string.
        longest: Greatest length of a string.
        generator: Source of the random lengths.

    Raises:
        ValueError: There are too few items, or the lengths cannot add up to their number.
    """
    strings: list[list[ItemT]] = []
    start = 0
    while start < len(items):
        left = len(items) - start
        lengths = [n for n in range(shortest, longest + 1) if left - n == 0 or left - n >= shortest]
        if not lengths:
            raise ValueError(f"{len(items)} items do not fill strings of {shortest} to {longest}")
        length = int(generator.choice(lengths))
        strings.append(list(items[start : start + length]))
        start += length
    return strings
