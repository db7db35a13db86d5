"""From a dictionary to a lang directory with its grammar."""

from collections.abc import Iterable
from pathlib import Path

from mariana_asr.corpus.datadir import read_table
from mariana_asr.errors import FormatError
from mariana_asr.lang.dictionary import Dictionary, read_dictionary
from mariana_asr.lang.grammar import make_grammar
from mariana_asr.lang.options import ArpaLm, NgramLm
from mariana_asr.lang.prepare import prepare_lang
from mariana_asr.recipe.schema import LangSection


def read_section_dictionary(section: LangSection, dictionary: Path) -> Dictionary:
    """Read a lexicon.txt or a directory in Kaldi's dict form, as the section wants its phones.

    Raises:
        DataError: It is missing or wrong; all problems at once.
    """
    return read_dictionary(
        dictionary,
        position_dependent_phones=section.position_dependent_phones,
        oov=section.oov,
    )


def make_lang(
    section: LangSection, dictionary: Path, sentences: Iterable[str], out: str | Path
) -> None:
    """Make a lang directory with ``G.fst``.

    Args:
        section: The recipe's section ``lang``; its ``lexicon`` is not looked at.
        dictionary: A lexicon.txt, or a directory in Kaldi's dict form. An ``lm.arpa`` in it is
            the language model where the section names none; a ``word_counts.txt`` has counts
            of words in another text, for an n-gram model.
        sentences: Transcripts for an n-gram model; where neither the section nor the dictionary
            has a language model, a trigram is trained on them.
        out: The lang directory.

    Raises:
        DataError: The dictionary is missing or wrong.
        FormatError: The ARPA file is missing or wrong, or word_counts.txt is wrong.
        StageError: An n-gram model has no transcripts to train on.
    """
    prepare_lang(read_section_dictionary(section, dictionary), section, out)
    arpa = dictionary / "lm.arpa"
    lm = section.lm or (ArpaLm(path=arpa) if arpa.is_file() else NgramLm())
    make_grammar(out, lm, sentences, _word_counts(dictionary / "word_counts.txt"))


def _word_counts(path: Path) -> dict[str, int] | None:
    if not path.is_file():
        return None
    counts = {}
    for word, count in read_table(path).items():
        if not count.isdecimal():
            raise FormatError(f"{word} has the count {count!r}, not a whole number", where=path)
        counts[word] = int(count)
    return counts
