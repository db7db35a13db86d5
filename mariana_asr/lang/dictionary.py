"""Pronunciation dictionaries: Kaldi's dict directories and plain lexicon files."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mariana_asr.errors import DataError, counted
from mariana_asr.files import write_text
from mariana_asr.lang.lexicon_file import (
    LEXICONS,
    WITH_SILENCE,
    Pronunciation,
    SentenceSilence,
    WordSilence,
    has_silence,
    lexicon_lines,
    read_lexicon,
    read_lines,
    read_sentence_silence,
    sentence_silence_lines,
)

logger = logging.getLogger(__name__)

SILENCE_NAMES = ("SIL", "SPN", "NSN")
_POSITION = re.compile(r".*_[BEIS]")
_REMEDY = "A lexicon has lines 'word phone phone ...', lexiconp.txt 'word probability phone ...'"


@dataclass(frozen=True)
class Dictionary:
    """Pronunciations and phones, as in a Kaldi dict directory.

    Attributes:
        pronunciations: In the order of the file.
        silence_phones: Silence and noise phones; those of one inner list share tree roots.
        nonsilence_phones: Phones of speech; those of one inner list share tree roots.
        optional_silence: The silence phone that may stand between words.
        extra_questions: Sets of phones for the decision tree to ask about.
        silence: Probabilities of silence at the ends of sentences; where they are given, every
            pronunciation has its own too (`Pronunciation.silence`).
    """

    pronunciations: list[Pronunciation]
    silence_phones: list[list[str]]
    nonsilence_phones: list[list[str]]
    optional_silence: str
    extra_questions: list[list[str]] = field(default_factory=list)
    silence: SentenceSilence | None = None

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
        ``lexiconp.txt`` or ``lexiconp_silprob.txt``; beside the latter ``silprob.txt`` must stand.

        Raises:
            DataError: Lists every problem of the file.
        """
        path = Path(path)
        problems: list[str] = []
        pronunciations = read_lexicon(path, problems)
        sentences = _sentence_silence(path, pronunciations, problems)
        used = {phone for _, p in pronunciations for phone in p.phones}
        for line, entry in pronunciations:
            for phone in entry.phones:
                problems += _phone_problems(f"{path}:{line}", phone, position_dependent_phones)
        _raise(path, problems)
        entries = _without_duplicates(path, pronunciations)
        if oov not in {p.word for p in entries}:
            logger.info("%s: added the word %s, said as %s", path, oov, spoken_noise_phone)
            entries.append(_oov_pronunciation(oov, spoken_noise_phone, sentences))
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
            silence=sentences,
        )

    def with_oov(self, oov: str) -> "Dictionary":
        """Add the unknown word where it is missing, said as spoken noise or else as silence."""
        if oov in self.words:
            return self
        silence = [phone for phones in self.silence_phones for phone in phones]
        phone = "SPN" if "SPN" in silence else self.optional_silence
        logger.info("added the word %s to the dictionary, said as %s", oov, phone)
        added = _oov_pronunciation(oov, phone, self.silence)
        return replace(self, pronunciations=[*self.pronunciations, added])


def read_dictionary(
    dict_dir: str | Path, *, position_dependent_phones: bool = True, oov: str = "<UNK>"
) -> Dictionary:
    """Read a Kaldi dict directory, or a lexicon file alone.

    In a directory ``lexiconp_silprob.txt``, with ``silprob.txt`` beside it, goes before
    ``lexiconp.txt``, and that before ``lexicon.txt``.

    Where neither ``silence_phones.txt`` nor ``nonsilence_phones.txt`` stands beside the lexicon,
    the phones are deduced as by `Dictionary.from_lexicon`. A pronunciation that comes twice is
    dropped with a warning.

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
    lexicon = next((folder / n for n in LEXICONS if (folder / n).exists()), None)
    if lexicon is None:
        raise DataError("neither lexiconp.txt nor lexicon.txt", where=folder, remedy=_REMEDY)
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
        word for _, words in read_lines(folder / "optional_silence.txt", problems) for word in words
    ]
    if len(optional) != 1:
        problems.append(f"{folder}/optional_silence.txt: expected one phone, found {optional}")
    elif optional[0] not in silence_set:
        problems.append(
            f"{folder}/optional_silence.txt: the phone {optional[0]!r} is not in silence_phones.txt"
        )
    numbered = read_lexicon(lexicon, problems)
    sentences = _sentence_silence(lexicon, numbered, problems)
    for line, entry in numbered:
        for phone in dict.fromkeys(entry.phones):
            if phone not in known:
                problems.append(
                    f"{lexicon}:{line}: the phone {phone!r} of {entry.word!r} is neither in "
                    "silence_phones.txt nor in nonsilence_phones.txt"
                )
    questions_file = folder / "extra_questions.txt"
    questions = list(read_lines(questions_file, problems)) if questions_file.exists() else []
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
        silence=sentences,
    )


def write_dictionary(dictionary: Dictionary, out_dir: str | Path) -> None:
    """Write a dict directory: lexicons, ``silprob.txt`` and the lists of phones.

    ``lexicon.txt`` and ``lexiconp.txt`` are always written; ``lexiconp_silprob.txt`` and
    ``silprob.txt`` where the dictionary has probabilities of silence, and are removed where it
    has none. All lexicons have the order of ``dictionary.pronunciations``.
    """
    out = Path(out_dir)
    entries = dictionary.pronunciations
    # It goes before the other lexicons when it is read, so it must not stand beside others.
    (out / WITH_SILENCE).unlink(missing_ok=True)
    sets = {
        "silence_phones.txt": dictionary.silence_phones,
        "nonsilence_phones.txt": dictionary.nonsilence_phones,
        "optional_silence.txt": [[dictionary.optional_silence]],
        "extra_questions.txt": dictionary.extra_questions,
    }
    for name, rows in sets.items():
        write_text(out / name, "".join(f"{' '.join(row)}\n" for row in rows))
    write_text(out / "lexicon.txt", lexicon_lines(entries))
    write_text(out / "lexiconp.txt", lexicon_lines(entries, probabilities=True))
    if dictionary.silence is None:
        (out / "silprob.txt").unlink(missing_ok=True)
        return
    write_text(out / "silprob.txt", sentence_silence_lines(dictionary.silence))
    write_text(out / WITH_SILENCE, lexicon_lines(entries, silence=True))


def _sentence_silence(
    lexicon: Path, entries: list[tuple[int, Pronunciation]], problems: list[str]
) -> SentenceSilence | None:
    """Read the ``silprob.txt`` of a lexicon with silence, and compare that with its fellows."""
    if not has_silence(lexicon):
        return None
    if not problems:
        problems += _differences(lexicon, entries)
    return read_sentence_silence(lexicon.with_name("silprob.txt"), problems)


def _differences(lexicon: Path, entries: list[tuple[int, Pronunciation]]) -> list[str]:
    """What another lexicon of the directory has otherwise, as when one of them was edited."""
    others = (lexicon.with_name(name) for name in LEXICONS if name != lexicon.name)
    other = next((path for path in others if path.exists()), None)
    if other is None:
        return []
    problems: list[str] = []
    known = {(entry.word, entry.phones): line for line, entry in entries}
    found = set()
    for line, entry in read_lexicon(other, problems):
        found.add((entry.word, entry.phones))
        if (entry.word, entry.phones) not in known:
            problems.append(
                f"{other}:{line}: {lexicon.name} lacks this pronunciation of {entry.word!r} "
                f"(learn the probabilities again, or remove {lexicon.name})"
            )
    return problems + [
        f"{lexicon}:{line}: {other.name} lacks this pronunciation of {word!r}"
        for (word, phones), line in known.items()
        if (word, phones) not in found
    ]


def _oov_pronunciation(word: str, phone: str, sentences: SentenceSilence | None) -> Pronunciation:
    if sentences is None:
        return Pronunciation(word, 1.0, (phone,))
    # Like any word of which nothing is known; a certain silence would leave no other way on.
    silence = WordSilence(min(sentences.overall, 0.99), 1.0, 1.0)
    return Pronunciation(word, 1.0, (phone,), silence)


def _read_phone_sets(path: Path, problems: list[str], position_dependent: bool) -> list[list[str]]:
    sets = []
    seen: set[str] = set()
    for number, phones in read_lines(path, problems):
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
