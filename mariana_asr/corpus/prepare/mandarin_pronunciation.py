"""How Mandarin words are said: initials and finals with tones, from pypinyin's readings."""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache

from mariana_asr.errors import MissingPackageError

HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f"
"""Chinese characters, as the inside of a regular expression's character class."""

_TONES = "12345"
"""The four tones, and 5 for the neutral one."""

_NASAL_SYLLABLES = {
    "m": ("m", "u"),
    "n": ("en",),
    "ng": ("eng",),
    "hm": ("h", "en"),
    "hng": ("h", "eng"),
}
"""Interjections without a vowel, and the nearest initials and finals."""

_DENTALS = frozenset(("z", "c", "s"))
_RETROFLEXES = frozenset(("zh", "ch", "sh", "r"))

Phones = tuple[str, ...]


def pronounce(word: str) -> list[Phones]:
    """The pronunciations of a word of Chinese characters, as initials and finals.

    Finals end in their tone, 1 to 4 or 5 for the neutral one, and begin a syllable that has no
    initial. A single character has all the readings that pypinyin knows, the usual one first; a
    longer word has the reading of the phrase. A word that ends in 儿 is also said with that as a
    neutral ``er5``, as where it only colours the syllable before it.

    Args:
        word: One or more characters.

    Returns:
        The phones of each pronunciation; nothing where a character has no reading.

    Raises:
        MissingPackageError: pypinyin is not installed.
    """
    try:
        from pypinyin import Style, pinyin
    except ImportError as error:
        raise missing_package("pypinyin") from error
    readings = pinyin(
        word,
        style=Style.TONE3,
        heteronym=len(word) == 1,
        neutral_tone_with_five=True,
        errors="ignore",
    )
    if len(readings) != len(word):
        return []
    if len(word) == 1:
        return list(dict.fromkeys(split_syllable(syllable) for syllable in readings[0]))
    phones = tuple(phone for (syllable, *_) in readings for phone in split_syllable(syllable))
    if word[-1] == "儿" and phones[-1].startswith("er"):
        return list(dict.fromkeys((phones, (*phones[:-1], "er5"))))
    return [phones]


@cache
def split_syllable(syllable: str) -> Phones:
    """Split a syllable of pinyin into its initial, if it has one, and its final with the tone.

    Finals are written in full, ``liu`` being ``l iou``, and ü is ``v``, also where spelling
    leaves out the dots. As in THCHS-30, the vowel of ``zi`` is ``iy`` and that of ``zhi`` is
    ``ix``, other sounds than the ``i`` of ``di``. An erhua syllable
    like ``huar1`` becomes ``h ua1 er5``.

    Args:
        syllable: Letters and the tone's digit, ``zhong1``.

    Raises:
        ValueError: This is no syllable of Mandarin.
    """
    from pypinyin.contrib.tone_convert import to_finals, to_initials

    letters, tone = syllable[:-1], syllable[-1:]
    if tone not in _TONES or not letters:
        raise ValueError(f"{syllable!r} is not pinyin with its tone as a digit")
    if letters in _NASAL_SYLLABLES:
        *initial, final = _NASAL_SYLLABLES[letters]
        return (*initial, final + tone)
    if letters == "r":
        return (f"er{tone}",)
    coloured = letters.endswith("r") and letters != "er"
    letters = letters.removesuffix("r") if coloured else letters
    start = to_initials(letters, strict=True)
    final = to_finals(letters, strict=True, v_to_u=False).replace("ü", "v").replace("ê", "ei")
    if not final:
        raise ValueError(f"{syllable!r} is not a syllable of Mandarin")
    if final == "i" and start in _DENTALS:
        final = "iy"
    elif final == "i" and start in _RETROFLEXES:
        final = "ix"
    return (*([start] if start else []), final + tone, *(["er5"] if coloured else []))


def group_by_tone(phones: Iterable[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Group phones as the decision tree is to see them, after Kaldi's egs/aishell.

    Returns:
        The tones of each final together, which share a root of the tree, and each initial alone;
        then the finals of each tone and all initials, which the tree may ask about.
    """
    roots, tones = defaultdict(list), defaultdict(list)
    for phone in sorted(set(phones)):
        match = re.fullmatch(r"([^\d]+)(\d?)", phone)
        assert match is not None, phone
        roots[match[1]].append(phone)
        tones[match[2]].append(phone)
    return [roots[name] for name in sorted(roots)], [tones[tone] for tone in sorted(tones)]


def missing_package(name: str) -> MissingPackageError:
    """The error that says how to install a package for Mandarin."""
    return MissingPackageError(
        f"preparing a Mandarin corpus needs the package {name}, which is not installed",
        remedy="pip install 'mariana-asr[mandarin]'",
    )
