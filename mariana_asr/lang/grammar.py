"""Language models and grammars as the transducer G."""

import gzip
import logging
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import FormatError, StageError, summarise
from mariana_asr.files import atomic_file
from mariana_asr.kaldi import kaldifst
from mariana_asr.lang.fst_arrays import FstArrays, from_fst, read_fst, to_fst, write_fst
from mariana_asr.lang.langdir import Lang, read_lang, read_symbol_table
from mariana_asr.lang.ngram import train_ngram
from mariana_asr.lang.options import ArpaLm, NgramLm, SingleWordLm, WordLoopLm

logger = logging.getLogger(__name__)

# kaldilm ends the whole process when an ARPA file is malformed, so it gets one of its own.
_ARPA2FST = (
    "import sys; from mariana_asr.kaldi import kaldilm; "
    "kaldilm.arpa2fst(sys.argv[1], sys.argv[2], disambig_symbol='#0', "
    "read_symbol_table=sys.argv[3], max_arpa_warnings=0)"
)


def make_grammar(
    lang_dir: str | Path,
    lm: ArpaLm | NgramLm | WordLoopLm | SingleWordLm,
    sentences: Iterable[str] | None = None,
    background: Mapping[str, int] | None = None,
) -> None:
    """Write ``G.fst`` into a lang directory, and ``lm.arpa`` where an n-gram model is trained.

    Args:
        lang_dir: The lang directory.
        lm: Which language model or grammar.
        sentences: Transcripts to train an n-gram model on; the other kinds need none.
        background: Counts of words in another text, for what an n-gram model has not seen.

    Raises:
        FormatError: The lang directory or the ARPA file is missing or malformed.
        StageError: There is nothing to train on, or no word is left in G.
    """
    lang = read_lang(lang_dir)
    out = lang.path / "G.fst"
    if isinstance(lm, ArpaLm):
        arpa_to_g(lm.path, lang.path / "words.txt", out)
    elif isinstance(lm, NgramLm):
        texts = list(sentences or ())
        # Noises that have a word of their own are predicted where transcripts have them.
        spoken = {word for text in texts for word in text.split()} & set(lang.words)
        vocabulary = set(lang.speakable_words()) | (spoken - lang.special_words - {lang.oov_word})
        train_ngram(texts, vocabulary, lm.order, lang.path / "lm.arpa", background)
        arpa_to_g(lang.path / "lm.arpa", lang.path / "words.txt", out, compare=False)
    else:
        words = lang.speakable_words() if lm.words is None else lm.words
        ids = _word_ids(words, lang)
        if isinstance(lm, WordLoopLm):
            write_fst(out, word_loop_g(ids, lm.end_prob))
        else:
            write_fst(out, single_word_g(ids))
    problems = grammar_problems(from_fst(read_fst(out)), lang)
    if problems:
        out.unlink()
        raise StageError("; ".join(problems), where=out)


def arpa_to_g(
    arpa: str | Path, words: str | Path, out_fst: str | Path, *, compare: bool = True
) -> None:
    """Make G of an ARPA language model (Kaldi's arpa2fst --disambig-symbol=#0).

    N-grams with words outside of the table are left out; how many words that concerns, and how
    many words of the table the model lacks, is logged.

    Args:
        arpa: The ARPA file, plain or gzipped (``.gz``).
        words: Symbol table of words, with ``#0``.
        out_fst: The file to write.
        compare: Log how the two vocabularies differ.

    Raises:
        FormatError: The ARPA file is missing or malformed; the message names the line.
    """
    arpa, words = Path(arpa), Path(words)
    table = read_symbol_table(words)
    if "#0" not in table:
        raise FormatError("no symbol #0, which back-off arcs carry", where=words)
    if not arpa.is_file():
        raise FormatError("no such ARPA file", where=arpa)
    with tempfile.TemporaryDirectory() as folder, atomic_file(out_fst) as temporary:
        plain = arpa
        if arpa.suffix == ".gz":
            plain = Path(folder) / "lm.arpa"
            try:
                with gzip.open(arpa, "rb") as packed, plain.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
            except (OSError, EOFError) as error:
                raise FormatError(f"cannot be unpacked: {error}", where=arpa) from error
        if compare:
            _compare_vocabularies(arpa, _arpa_words(plain, arpa), table)
        result = subprocess.run(
            [sys.executable, "-c", _ARPA2FST, str(plain), str(temporary), str(words)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode or not temporary.exists():
            said = [line for line in result.stderr.splitlines() if line.strip()]
            errors = [line.removeprefix("[E] ") for line in said if line.startswith("[E]")]
            raise FormatError(
                f"not a valid ARPA file: {(errors or said or ['no message'])[-1]}", where=arpa
            )


def word_loop_g(words: Sequence[int], end_prob: float | None = None) -> "kaldifst.StdVectorFst":
    """Accept every string of one or more words, each word equally likely.

    Args:
        words: Word ids.
        end_prob: Probability of ending after a word; None makes it that of one more word.
    """
    end = 1.0 / (len(words) + 1) if end_prob is None else end_prob
    n = len(words)
    first, following = math.log(n), math.log(n) - math.log(1.0 - end)
    labels = np.array([*words, *words], dtype=np.int32)
    source = np.repeat(np.array([0, 1], dtype=np.int32), n)
    weight = np.repeat(np.array([first, following], dtype=np.float32), n)
    final = np.array([np.inf, -math.log(end)], dtype=np.float32)
    return _acceptor(source, np.ones_like(source), labels, weight, final)


def single_word_g(words: Sequence[int]) -> "kaldifst.StdVectorFst":
    """Accept exactly one word, each equally likely; ``words`` are ids."""
    labels = np.array(words, dtype=np.int32)
    weight = np.full(len(words), math.log(len(words)), dtype=np.float32)
    final = np.array([np.inf, 0.0], dtype=np.float32)
    return _acceptor(np.zeros_like(labels), np.ones_like(labels), labels, weight, final)


def grammar_problems(grammar: FstArrays, lang: Lang) -> list[str]:
    """Say what keeps a G from being composed with L (after Kaldi's check_g_properties.pl)."""
    if not grammar.num_states or not np.isfinite(grammar.final).any():
        return ["G accepts nothing"]
    special = [lang.words[word] for word in ("<s>", "</s>") if word in lang.words]
    disambig = np.isin(grammar.ilabel, lang.disambig_words)
    silent = disambig | (grammar.ilabel == 0)
    known = np.array(sorted(lang.words.values()))
    problems = []
    labels = np.concatenate([grammar.ilabel, grammar.olabel])
    unknown = np.setdiff1d(labels, known)
    if len(unknown):
        problems.append(
            f"G has word ids that words.txt lacks ({summarise([str(u) for u in unknown])}); "
            "it was made for another words.txt"
        )
    if np.isin(labels, special).any():
        problems.append("G has arcs with <s> or </s>; make it with arpa2fst --disambig-symbol=#0")
    if grammar.olabel[disambig].any():
        problems.append(
            "G has arcs with a disambiguation symbol on the input and a word on the output"
        )
    nonterminals = {number for word, number in lang.words.items() if word.startswith("#nonterm")}
    differ = ~silent & (grammar.ilabel != grammar.olabel)
    if set(grammar.ilabel[differ].tolist()) - nonterminals:
        problems.append(
            "G changes words: some arcs have another word on the output than on the input"
        )
    if not (~silent).any():
        problems.append("G has no words")
    if _has_cycle(grammar.select(silent)):
        problems.append("G has a cycle without words, so it cannot be determinised")
    return problems


def _has_cycle(fst: FstArrays) -> bool:
    """Peel off states that no arc enters until none is left, or only cycles are."""
    entering = np.bincount(fst.target, minlength=fst.num_states)
    alive = np.ones(len(fst.source), dtype=bool)
    while alive.any():
        leaves_free = alive & (entering[fst.source] == 0)
        if not leaves_free.any():
            return True
        entering -= np.bincount(fst.target[leaves_free], minlength=fst.num_states)
        alive &= ~leaves_free
    return False


def _acceptor(
    source: NDArray[np.int32],
    target: NDArray[np.int32],
    labels: NDArray[np.int32],
    weight: NDArray[np.float32],
    final: NDArray[np.float32],
) -> "kaldifst.StdVectorFst":
    fst = to_fst(FstArrays(source, target, labels, labels, weight, final))
    kaldifst.arcsort(fst, sort_type="ilabel")
    return fst


def _word_ids(words: Sequence[str], lang: Lang) -> list[int]:
    unknown = [word for word in words if word not in lang.words or word in lang.special_words]
    if unknown or not words:
        raise StageError(
            f"words of the grammar that the dictionary lacks: {summarise(unknown)}"
            if unknown
            else "the grammar has no words",
            where=lang.path / "words.txt",
            remedy="Add them to the dictionary, or correct lang.lm.words",
        )
    return sorted({lang.words[word] for word in words})


def _arpa_words(plain: Path, shown: Path) -> set[str]:
    """Read the words of the unigram section."""
    words: set[str] = set()
    # What stands before \data\ is comment, and may show section marks.
    begun = inside = False
    try:
        with plain.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("\\"):
                    if inside:
                        break
                    mark = line.strip()
                    begun |= mark == "\\data\\"
                    inside = begun and mark == "\\1-grams:"
                elif inside and len(fields := line.split()) > 1:
                    words.add(fields[1])
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", where=shown) from error
    if not inside:
        raise FormatError("not an ARPA file: no \\1-grams: section", where=shown)
    return words


def _compare_vocabularies(arpa: Path, modelled: set[str], table: dict[str, int]) -> None:
    special = {"<s>", "</s>", "<eps>", "#0"}
    unknown = sorted(modelled - special - table.keys())
    if unknown:
        logger.warning(
            "%s: n-grams with %d words outside of the dictionary are left out (%s)",
            arpa,
            len(unknown),
            summarise(unknown),
        )
    missing = sorted(table.keys() - special - modelled)
    if missing:
        logger.warning(
            "%s lacks %d words of the dictionary, which can never be recognised (%s)",
            arpa,
            len(missing),
            summarise(missing),
        )
    if not modelled & (table.keys() - special):
        raise FormatError(
            "the language model shares no word with the dictionary",
            where=arpa,
            remedy="Do both write words alike (upper or lower case)?",
        )
