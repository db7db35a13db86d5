"""The files of a dictionary, line by line: lexicons, and probabilities of silence beside words."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_FORBIDDEN_WORDS = {"<eps>", "<s>", "</s>"}
_DISAMBIGUATION = re.compile(r"#(\d+|nonterm.*)")
_SENTENCE_LABELS = ("<s>", "</s>_s", "</s>_n", "overall")

WITH_SILENCE = "lexiconp_silprob.txt"
"""Name of a lexicon whose lines are 'word probability after before not_before phone ...'."""

LEXICONS = (WITH_SILENCE, "lexiconp.txt", "lexicon.txt")
"""Names of lexicons in a dict directory; the first that exists is the one that counts."""


@dataclass(frozen=True)
class WordSilence:
    """How likely optional silence is beside a pronunciation.

    Source: Chen et al., "Pronunciation and silence probability modeling for ASR",
    Interspeech 2015.

    Attributes:
        after: Probability of silence after the word, above 0 and below 1.
        before: Factor on the probability of silence before it; above 1 where silence is more
            frequent there than the words that stand before it lead to expect.
        not_before: The same factor for no silence.
    """

    after: float
    before: float
    not_before: float


@dataclass(frozen=True)
class SentenceSilence:
    """How likely optional silence is at the ends of a sentence (Kaldi: ``silprob.txt``).

    Attributes:
        begin: Probability of silence before the first word, above 0 and below 1.
        end: Factor on the probability of silence before the end, as `WordSilence.before`.
        not_end: The same factor for no silence.
        overall: Probability of silence between two words, whichever they are.
    """

    begin: float
    end: float
    not_end: float
    overall: float


@dataclass(frozen=True)
class Pronunciation:
    """One way to say a word, with its probability relative to the word's likeliest one."""

    word: str
    probability: float
    phones: tuple[str, ...]
    silence: WordSilence | None = None


def read_lines(path: Path, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and words; only ASCII white space parts words, as in Kaldi.

    What is wrong with the file is appended to ``problems``.
    """
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


def read_lexicon(path: Path, problems: list[str]) -> list[tuple[int, Pronunciation]]:
    """Read pronunciations with their line numbers.

    The file's name tells its columns: ``lexiconp...`` has probabilities, and
    ``lexiconp_silprob...`` those of silence beside the word too. What is wrong is appended to
    ``problems``.
    """
    with_probabilities = path.name.startswith("lexiconp")
    with_silence = has_silence(path)
    entries = []
    before = len(problems)
    for number, (word, *rest) in read_lines(path, problems):
        where = f"{path}:{number}"
        if word in _FORBIDDEN_WORDS or _DISAMBIGUATION.fullmatch(word):
            problems.append(f"{where}: {word!r} cannot be a word of the dictionary")
            continue
        probability, silence = 1.0, None
        if with_probabilities:
            given = rest.pop(0) if rest else ""
            probability = _number(given)
            if not 0.0 < probability <= 1.0:
                problems.append(
                    f"{where}: the probability {given!r} of {word!r} is not above 0 and at most 1"
                )
                continue
        if with_silence:
            given_silence, rest = rest[:3], rest[3:]
            silence = _word_silence(given_silence)
            if silence is None:
                problems.append(
                    f"{where}: expected a probability of silence after {word!r}, above 0 and below "
                    f"1, and two factors above 0, found {' '.join(given_silence)!r}"
                )
                continue
        if not rest:
            problems.append(f"{where}: the word {word!r} has no pronunciation")
            continue
        entries.append((number, Pronunciation(word, probability, tuple(rest), silence)))
    if not entries and len(problems) == before:
        problems.append(f"{path}: empty")
    return entries


def has_silence(lexicon: Path) -> bool:
    """Whether a lexicon's name says that it has probabilities of silence."""
    return lexicon.name.startswith(WITH_SILENCE.removesuffix(".txt"))


def read_sentence_silence(path: Path, problems: list[str]) -> SentenceSilence | None:
    """Read ``silprob.txt``; what is wrong is appended to ``problems``."""
    values: dict[str, float] = {}
    before = len(problems)
    for number, row in read_lines(path, problems):
        value = _number(row[1]) if len(row) == 2 else float("nan")
        fits = 0.0 < value < float("inf")
        if row[0] in ("<s>", "overall"):
            # Silence that always begins a sentence would leave no other way into the lexicon.
            fits = 0.0 < value < 1.0 or (row[0] == "overall" and value == 1.0)
        if row[0] not in _SENTENCE_LABELS or not fits:
            problems.append(
                f"{path}:{number}: expected one of {', '.join(_SENTENCE_LABELS)} and a number "
                f"above 0 (a probability after <s> and overall), found {' '.join(row)!r}"
            )
        elif row[0] in values:
            problems.append(f"{path}:{number}: {row[0]} comes twice")
        else:
            values[row[0]] = value
    missing = [label for label in _SENTENCE_LABELS if label not in values]
    if missing and len(problems) == before:
        problems.append(f"{path}: no line of {', '.join(missing)}")
    if len(problems) > before:
        return None
    return SentenceSilence(*(values[label] for label in _SENTENCE_LABELS))


def lexicon_lines(
    pronunciations: Iterable[Pronunciation], *, probabilities: bool = False, silence: bool = False
) -> str:
    """Write the lines of a lexicon; with ``silence``, those of ``lexiconp_silprob.txt``."""
    lines = []
    for entry in pronunciations:
        columns = [entry.word]
        if probabilities or silence:
            columns.append(f"{entry.probability:.15g}")
        if silence:
            assert entry.silence is not None  # the caller's dictionary has them
            beside = entry.silence
            columns += map(_decimal, (beside.after, beside.before, beside.not_before))
        lines.append(f"{' '.join((*columns, *entry.phones))}\n")
    return "".join(lines)


def sentence_silence_lines(silence: SentenceSilence) -> str:
    """Write the lines of ``silprob.txt``."""
    values = (
        _decimal(silence.begin),
        f"{silence.end:.15g}",
        f"{silence.not_end:.15g}",
        _decimal(silence.overall),
    )
    return "".join(f"{label} {v}\n" for label, v in zip(_SENTENCE_LABELS, values, strict=True))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _word_silence(columns: list[str]) -> WordSilence | None:
    values = [_number(column) for column in columns]
    if len(values) < 3 or not 0.0 < values[0] < 1.0:
        return None
    if not all(0.0 < factor < float("inf") for factor in values[1:]):
        return None
    return WordSilence(*values)


def _decimal(value: float) -> str:
    """Two decimals, as Kaldi writes them, where they say all; else 15 digits."""
    short = f"{value:.2f}"
    return short if float(short) == value else f"{value:.15g}"
