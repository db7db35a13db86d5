"""From a dictionary to a lang directory with its grammar."""

import logging
from collections.abc import Iterable
from pathlib import Path

from mariana_asr.lang.dictionary import read_dictionary
from mariana_asr.lang.grammar import make_grammar
from mariana_asr.lang.options import ArpaLm, LangOptions, NgramLm
from mariana_asr.lang.prepare import prepare_lang
from mariana_asr.recipe.schema import LangSection

logger = logging.getLogger(__name__)


def make_lang(
    section: LangSection, dictionary: Path, sentences: Iterable[str], out: str | Path
) -> None:
    """Make a lang directory with ``G.fst``.

    Args:
        section: The recipe's section ``lang``; its ``lexicon`` is not looked at.
        dictionary: A lexicon.txt, or a directory in Kaldi's dict form. An ``lm.arpa`` in it is
            the language model where the section names none.
        sentences: Transcripts for an n-gram model; where neither the section nor the dictionary
            has a language model, a trigram is trained on them.
        out: The lang directory.

    Raises:
        FormatError: The dictionary or the ARPA file is missing or wrong.
        StageError: An n-gram model has no transcripts to train on.
    """
    words = read_dictionary(dictionary, position_dependent_phones=section.position_dependent_phones)
    options = section.model_dump(include=set(LangOptions.model_fields))
    prepare_lang(words, LangOptions(**options), out)
    arpa = dictionary / "lm.arpa"
    lm = section.lm or (ArpaLm(path=arpa) if arpa.is_file() else NgramLm())
    make_grammar(out, lm, sentences)
