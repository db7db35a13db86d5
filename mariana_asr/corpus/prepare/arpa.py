"""Restricting an ARPA language model to the words of a dictionary."""

import re
from collections.abc import Collection
from pathlib import Path

from mariana_asr.errors import FormatError

_BOUNDARIES = ("<s>", "</s>")


def restrict_arpa(text: str, vocabulary: Collection[str], source: Path) -> str:
    r"""Drop from an ARPA model every n-gram with a word outside of a vocabulary.

    Probabilities stay as they are, so the model may no longer sum to one, as in Kaldi's recipes
    (utils/remove_oovs.pl). Text around the model is dropped and the counts are made right,
    since kaldilm's arpa2fst wants both clean.

    Args:
        text: The model in ARPA form; anything may stand before ``\data\`` and after ``\end\``.
        vocabulary: The words to keep, besides ``<s>`` and ``</s>``.
        source: Where the model is from, for messages.

    Raises:
        FormatError: A section is missing or a line in one cannot be read.
    """
    lines = text.splitlines()
    if "\\data\\" not in (line.strip() for line in lines):
        raise FormatError("no \\data\\ section, so this is no ARPA model", where=source)
    start = next(n for n, line in enumerate(lines) if line.strip() == "\\data\\")
    allowed = {*vocabulary, *_BOUNDARIES}
    sections: dict[int, list[str]] = {}
    order = 0
    for number, line in enumerate(lines[start + 1 :], start + 2):
        stripped = line.strip()
        if stripped == "\\end\\":
            return _format(sections)
        if match := re.fullmatch(r"\\(\d+)-grams:", stripped):
            order = int(match[1])
            sections[order] = []
        elif stripped and order:
            fields = stripped.split()
            if len(fields) not in (order + 1, order + 2) or not _are_numbers(
                [fields[0], *fields[order + 1 :]]
            ):
                raise FormatError(f"{line!r} is no {order}-gram", where=f"{source}:{number}")
            words = fields[1 : order + 1]
            if allowed.issuperset(words):
                # Nothing follows the end of a sentence, so its back-off weight means nothing.
                backoff = [] if words[-1] == "</s>" else fields[order + 1 :]
                sections[order].append("\t".join([fields[0], " ".join(words), *backoff]))
        elif stripped and not re.fullmatch(r"ngram\s+\d+\s*=\s*\d+", stripped):
            raise FormatError(f"{line!r} is no n-gram count", where=f"{source}:{number}")
    raise FormatError("no \\end\\, the file is cut short", where=source)


def _are_numbers(fields: list[str]) -> bool:
    try:
        return bool([float(field) for field in fields])
    except ValueError:
        return False


def _format(sections: dict[int, list[str]]) -> str:
    parts = ["\\data\\"]
    parts += [f"ngram {order}={len(ngrams)}" for order, ngrams in sections.items()]
    for order, ngrams in sections.items():
        parts += ["", f"\\{order}-grams:", *ngrams]
    return "\n".join([*parts, "", "\\end\\"]) + "\n"
