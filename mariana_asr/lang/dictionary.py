"""Pronunciation dictionaries: Kaldi's dict directories and plain lexicon files."""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mariana_asr.errors import DataError, counted

logger = logging.getLogger(__name__)

SILENCE_NAMES = ("SIL", "SPN", "NSN")
_FORBIDDEN_WORDS = {"<eps>", "<s>", "</s>"}
_DISAMBIGUATION = re.compile(r"#(\d+|nonterm.*)")
_POSITION = re.compile(r".*_[BEIS]")
_REMEDY = "A lexicon has lines 'word phone phone ...', lexiconp.txt 'word probability phone ...'"


@dataclass(frozen=True)
class Pronunciation:
    """One way to say a word, with its probability relative to the word's likeliest one."""

    word: str
    probability: float
    phones: tuple[str, ...]


@dataclass(frozen=True)
class Dictionary:
    """Pronunciations and phones, as in a Kaldi dict directory.

    Attributes:
        pronunciations: In the order of the file.
        silence_phones: Silence and noise phones; those of one inner list share tree roots.
        nonsilence_phones: Phones of speech; those of one inner list share tree roots.
        optional_silence: The silence phone that may stand between words.
        extra_questions: Sets of phones for the decision tree to ask about.
    """

    pronunciations: list[Pronunciation]
    silence_phones: list[list[str]]
    nonsilence_phones: list[list[str]]
    optional_silence: str
    extra_questions: list[list[str]] = field(default_factory=list)

    @property
    def words(self) -> set[str]:
        """All words that have a pronunciation."""
        return {p.word for p in self.pronunciations}

    @classmethod
    def from_lexicon(
        cls,
        path: str | Path,
        silence_phone: str = "SIL",
        *,
        oov: str = "<UNK>",
        spoken_noise_phone: str = "SPN",
        position_dependent_phones: bool = True,
    ) -> "Dictionary":
        """Make a dictionary of a lexicon alone, for users without lists of phones.

        Silence phones are ``silence_phone`` and those of SIL, SPN and NSN that occur; all other
        phones that occur are speech. A missing unknown word is added, said as
        ``spoken_noise_phone``. Whether the file has probabilities is seen by its name,
        ``lexiconp.txt``.

        Raises:
            DataError: Lists every problem of the file.
        """
        path = Path(path)
        problems: list[str] = []
        pronunciations = _read_lexicon(path, path.name.startswith("lexiconp"), problems)
        used = {phone for _, p in pronunciations for phone in p.phones}
        for line, entry in pronunciations:
            for phone in entry.phones:
                problems += _phone_problems(f"{path}:{line}", phone, position_dependent_phones)
        _raise(path, problems)
        entries = _without_duplicates(path, pronunciations)
        if oov not in {p.word for p in entries}:
            logger.info("%s: added the word %s, said as %s", path, oov, spoken_noise_phone)
            entries.append(Pronunciation(oov, 1.0, (spoken_noise_phone,)))
            used.add(spoken_noise_phone)
        silence = [silence_phone]
        silence += [
            phone
            for phone in (*SILENCE_NAMES, spoken_noise_phone)
            if phone in used and phone != silence_phone
        ]
        silence = list(dict.fromkeys(silence))
        return cls(
            pronunciations=entries,
            silence_phones=[[phone] for phone in silence],
            nonsilence_phones=[[phone] for phone in sorted(used - set(silence))],
            optional_silence=silence_phone,
        )

    def with_oov(self, oov: str) -> "Dictionary":
        """Add the unknown word where it is missing, said as spoken noise or else as silence."""
        if oov in self.words:
            return self
        silence = [phone for phones in self.silence_phones for phone in phones]
        phone = "SPN" if "SPN" in silence else self.optional_silence
        logger.info("added the word %s to the dictionary, said as %s", oov, phone)
        return replace(
            self, pronunciations=[*self.pronunciations, Pronunciation(oov, 1.0, (phone,))]
        )


def read_dictionary(
    dict_dir: str | Path, *, position_dependent_phones: bool = True, oov: str = "<UNK>"
) -> Dictionary:
    """Read a Kaldi dict directory, or a lexicon file alone.

    In a directory ``lexiconp.txt`` goes before ``lexicon.txt``.

    Where neither ``silence_phones.txt`` nor ``nonsilence_phones.txt`` stands beside the lexicon,
    the phones are deduced as by `Dictionary.from_lexicon`. A pronunciation that comes twice is
    dropped with a warning. ``lexiconp_silprob.txt`` is not read.

    Args:
        dict_dir: The directory or lexicon file.
        position_dependent_phones: Whether names like ``AH_B`` are refused.
        oov: The unknown word, added where phones are deduced and the lexicon lacks it.

    Raises:
        DataError: Lists every problem of all files, with file and line.
    """
    folder = Path(dict_dir)
    if folder.is_file():
        return Dictionary.from_lexicon(
            folder, oov=oov, position_dependent_phones=position_dependent_phones
        )
    if not folder.is_dir():
        raise DataError("no such lexicon or dict directory", where=folder, remedy=_REMEDY)
    lexicon = next((folder / n for n in _LEXICONS if (folder / n).exists()), None)
    if lexicon is None:
        raise DataError("neither lexiconp.txt nor lexicon.txt", where=folder, remedy=_REMEDY)
    if (folder / "lexiconp_silprob.txt").exists():
        logger.warning("%s: lexiconp_silprob.txt is not used, %s is", folder, lexicon.name)
    if not any((folder / f"{kind}_phones.txt").exists() for kind in ("silence", "nonsilence")):
        return Dictionary.from_lexicon(
            lexicon, oov=oov, position_dependent_phones=position_dependent_phones
        )

    problems: list[str] = []
    silence = _read_phone_sets(folder / "silence_phones.txt", problems, position_dependent_phones)
    nonsilence = _read_phone_sets(
        folder / "nonsilence_phones.txt", problems, position_dependent_phones
    )
    silence_set = {phone for phones in silence for phone in phones}
    known = silence_set | {phone for phones in nonsilence for phone in phones}
    for phone in sorted(silence_set & {phone for phones in nonsilence for phone in phones}):
        problems.append(
            f"{folder}: the phone {phone!r} is in silence_phones.txt and nonsilence_phones.txt"
        )
    optional = [
        word for _, words in _lines(folder / "optional_silence.txt", problems) for word in words
    ]
    if len(optional) != 1:
        problems.append(f"{folder}/optional_silence.txt: expected one phone, found {optional}")
    elif optional[0] not in silence_set:
        problems.append(
            f"{folder}/optional_silence.txt: the phone {optional[0]!r} is not in silence_phones.txt"
        )
    numbered = _read_lexicon(lexicon, lexicon.name == "lexiconp.txt", problems)
    for line, entry in numbered:
        for phone in dict.fromkeys(entry.phones):
            if phone not in known:
                problems.append(
                    f"{lexicon}:{line}: the phone {phone!r} of {entry.word!r} is neither in "
                    "silence_phones.txt nor in nonsilence_phones.txt"
                )
    questions_file = folder / "extra_questions.txt"
    questions = list(_lines(questions_file, problems)) if questions_file.exists() else []
    for line, phones in questions:
        for phone in phones:
            if phone not in known:
                problems.append(f"{questions_file}:{line}: unknown phone {phone!r}")
    _raise(folder, problems)
    return Dictionary(
        pronunciations=_without_duplicates(lexicon, numbered),
        silence_phones=silence,
        nonsilence_phones=nonsilence,
        optional_silence=optional[0],
        extra_questions=[phones for _, phones in questions],
    )


_LEXICONS = ("lexiconp.txt", "lexicon.txt")


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and words; only ASCII white space parts words, as in Kaldi."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, raw in enumerate(lines, 1):
        try:
            words = [word.decode("utf-8") for word in raw.split()]
        except UnicodeDecodeError:
            problems.append(f"{path}:{number}: not UTF-8")
            continue
        if any(character.isspace() for word in words for character in word):
            problems.append(f"{path}:{number}: white space other than blank and tab")
        elif words:
            yield number, words
        else:
            problems.append(f"{path}:{number}: empty line")


def _read_phone_sets(path: Path, problems: list[str], position_dependent: bool) -> list[list[str]]:
    sets = []
    seen: set[str] = set()
    for number, phones in _lines(path, problems):
        for phone in phones:
            if phone in seen:
                problems.append(f"{path}:{number}: the phone {phone!r} comes twice")
            seen.add(phone)
            problems += _phone_problems(f"{path}:{number}", phone, position_dependent)
        sets.append(phones)
    if not sets and not any(p.startswith(str(path)) for p in problems):
        problems.append(f"{path}: empty")
    return sets


def _phone_problems(where: str, phone: str, position_dependent: bool) -> list[str]:
    if phone == "<eps>" or phone.startswith("#"):
        return [f"{where}: {phone!r} cannot be the name of a phone"]
    if position_dependent and _POSITION.fullmatch(phone):
        return [
            f"{where}: the phone {phone!r} ends like a phone marked with its place in the word "
            "(rename it, or set position_dependent_phones to false)"
        ]
    return []


def _read_lexicon(
    path: Path, with_probabilities: bool, problems: list[str]
) -> list[tuple[int, Pronunciation]]:
    entries = []
    before = len(problems)
    for number, (word, *rest) in _lines(path, problems):
        where = f"{path}:{number}"
        if word in _FORBIDDEN_WORDS or _DISAMBIGUATION.fullmatch(word):
            problems.append(f"{where}: {word!r} cannot be a word of the dictionary")
            continue
        probability = 1.0
        if with_probabilities:
            given = rest.pop(0) if rest else ""
            try:
                probability = float(given)
            except ValueError:
                probability = float("nan")
            if not 0.0 < probability <= 1.0:
                problems.append(
                    f"{where}: the probability {given!r} of {word!r} is not above 0 and at most 1"
                )
                continue
        if not rest:
            problems.append(f"{where}: the word {word!r} has no pronunciation")
            continue
        entries.append((number, Pronunciation(word, probability, tuple(rest))))
    if not entries and len(problems) == before:
        problems.append(f"{path}: empty")
    return entries


def _without_duplicates(
    path: Path, entries: Iterable[tuple[int, Pronunciation]]
) -> list[Pronunciation]:
    kept: dict[tuple[str, tuple[str, ...]], Pronunciation] = {}
    for number, entry in entries:
        key = (entry.word, entry.phones)
        if key in kept:
            logger.warning(
                "%s:%d: dropped, %s has the pronunciation %s already",
                path,
                number,
                entry.word,
                " ".join(entry.phones),
            )
        kept.setdefault(key, entry)
    return list(kept.values())


def _raise(path: Path, problems: list[str]) -> None:
    if problems:
        shown = problems[:50]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise DataError(
            f"{counted(len(problems), 'problem')} in the dictionary:\n  " + "\n  ".join(shown),
            where=path,
            remedy=_REMEDY,
        )
