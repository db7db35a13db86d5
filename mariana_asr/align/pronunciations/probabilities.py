"""Probabilities of pronunciations, and of silence beside them, learnt from an alignment.

Source: Chen, Xu, Wu, Povey and Khudanpur, "Pronunciation and silence probability modeling for
ASR", Interspeech 2015; Kaldi: steps/get_prons.sh and utils/dict_dir_add_pronprobs.sh, whose
smoothing and rounding are kept.
"""

import logging
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from mariana_asr.align.pronunciations.counts import (
    BEGIN,
    END,
    PronunciationCounts,
    SilenceCounts,
    Spoken,
    count_pronunciations,
    write_counts,
)
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError, summarise
from mariana_asr.files import atomic_file, write_text
from mariana_asr.lang.dictionary import (
    Dictionary,
    Pronunciation,
    SentenceSilence,
    WordSilence,
    read_dictionary,
    write_dictionary,
)
from mariana_asr.lang.langdir import Lang
from mariana_asr.options import Options
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

_PRIOR_AFTER = 2.0
"""Imaginary occurrences of a word, with silence after it as often as on average (lambda 2)."""

_PRIOR_BEFORE = 2.0
"""Imaginary occurrences with and without silence before a word, as expected (lambda 3)."""

_NONE = SilenceCounts()


class PronunciationOptions(Options):
    """How probabilities are made of counts."""

    max_normalize: bool = True
    """Divide a pronunciation's probability by that of its word's likeliest one, as
    utils/dict_dir_add_pronprobs.sh does, so that words with many are not at a disadvantage."""

    silence: bool = True
    """Also learn how likely silence is beside each word (lexiconp_silprob.txt, silprob.txt)."""


@dataclass(frozen=True)
class PronunciationSummary:
    """What was learnt.

    Attributes:
        utterances: Number of utterances counted.
        words: Number of their words.
        skipped: Number of utterances whose alignment did not fit their transcript.
        used: Number of pronunciations that occur.
        pronunciations: Number of pronunciations in the dictionary.
        silence: How often there was silence before a word or the end, 0 to 1.
    """

    utterances: int
    words: int
    skipped: int
    used: int
    pronunciations: int
    silence: float


def learn_pronunciations(
    data: DataDir,
    lang: Lang,
    alignment_dir: str | Path,
    dictionary_path: str | Path,
    out_dir: str | Path,
    options: PronunciationOptions | None = None,
    *,
    jobs: int = 1,
) -> PronunciationSummary:
    """Write a dict directory with probabilities that an alignment gives.

    ``out_dir`` gets lexicons, ``silprob.txt`` and lists of phones (`write_dictionary`), the other
    files of the old dict directory, the counts in Kaldi's form (``pron_counts_nowb.txt``,
    ``sil_counts_nowb.txt``, ``pron_bigram_counts_nowb.txt``) and ``skipped.txt``.

    Args:
        data: The transcripts that were aligned.
        lang: The lang directory that they were aligned with.
        alignment_dir: Directory with ``ali.*.gz`` and ``final.mdl``.
        dictionary_path: The dict directory or lexicon that ``lang`` was made of. Probabilities
            in it are not used.
        out_dir: The dict directory to write.
        options: What is learnt.
        jobs: Number of processes.

    Raises:
        FormatError: A file of the alignment or the lang directory is missing or damaged.
        DataError: The dictionary is wrong, or lacks pronunciations of the alignment.
        StageError: No utterance could be counted.
    """
    out = Path(out_dir)
    dictionary = read_dictionary(
        dictionary_path,
        position_dependent_phones=lang.word_boundary is not None,
        oov=lang.oov_word,
    ).with_oov(lang.oov_word)
    if not Path(alignment_dir, "final.mdl").exists():
        raise FormatError(
            "no final.mdl here",
            where=alignment_dir,
            remedy="Give the directory that `mariana-asr align` wrote",
        )
    skipped = Skipped("counting of pronunciations")
    counts = count_pronunciations(data, lang, alignment_dir, jobs=jobs, skipped=skipped)
    skipped.finish(out / "skipped.txt", counts.utterances)
    learnt = estimate_pronunciations(dictionary, counts, options)
    old = Path(dictionary_path)
    if old.is_dir() and old.resolve() != out.resolve():
        for file in sorted(old.iterdir()):
            if file.is_file():
                with atomic_file(out / file.name) as temporary:
                    shutil.copyfile(file, temporary)
    for name, text in write_counts(counts).items():
        write_text(out / name, text)
    write_dictionary(learnt, out)
    used = counts.pronunciations()
    summary = PronunciationSummary(
        counts.utterances,
        used.total(),
        len(skipped),
        len(used),
        len(learnt.pronunciations),
        _part_silent(counts),
    )
    logger.info(
        "%s: %d words in %d utterances, %d of %d pronunciations occur, silence before %.0f%%",
        out,
        summary.words,
        summary.utterances,
        summary.used,
        summary.pronunciations,
        100 * summary.silence,
    )
    return summary


def estimate_pronunciations(
    dictionary: Dictionary,
    counts: PronunciationCounts,
    options: PronunciationOptions | None = None,
) -> Dictionary:
    """Give the pronunciations of a dictionary the probabilities that counts tell.

    Each pronunciation counts once more than it occurs. Pronunciations come in the order of words,
    then of rising probability, then of phones, as Kaldi sorts them.

    Raises:
        DataError: Pronunciations that were counted are not in the dictionary, or none were.
    """
    options = options or PronunciationOptions()
    if not counts.utterances:
        raise DataError("no utterance was counted, so there is nothing to learn from")
    used = counts.pronunciations()
    entries: dict[Spoken, Pronunciation] = {
        (p.word, *p.phones): p for p in dictionary.pronunciations
    }
    if unknown := sorted(used.keys() - entries.keys()):
        raise DataError(
            "the dictionary lacks pronunciations of the alignment: "
            + summarise([" ".join(spoken) for spoken in unknown]),
            remedy="Give the dictionary that the lang directory of the alignment was made of",
        )
    occurrences: Counter[str] = Counter()
    for spoken in entries:
        occurrences[spoken[0]] += 1 + used[spoken]
    relative = {s: _six_digits((1 + used[s]) / occurrences[s[0]]) for s in entries}
    order = sorted(entries, key=lambda s: (s[0], relative[s], " ".join(s[1:])))
    if options.max_normalize:
        highest: dict[str, float] = {}
        for spoken, probability in relative.items():
            highest[spoken[0]] = max(probability, highest.get(spoken[0], 0.0))
        relative = {s: _six_digits(p / highest[s[0]]) for s, p in relative.items()}
    silences, sentences = _silence(list(entries), counts) if options.silence else ({}, None)
    return replace(
        dictionary,
        pronunciations=[Pronunciation(s[0], relative[s], s[1:], silences.get(s)) for s in order],
        silence=sentences,
    )


def _silence(
    entries: list[Spoken], counts: PronunciationCounts
) -> tuple[dict[Spoken, WordSilence], SentenceSilence]:
    """Estimate how likely silence is beside pronunciations and at the ends of sentences."""
    silences = counts.silences()
    overall = _two_decimals(_part_silent(counts))

    def after(spoken: Spoken) -> float:
        n = silences.get(spoken, _NONE)
        silent = n.after + overall * _PRIOR_AFTER
        return _inside(_two_decimals(silent / (n.after + n.not_after + _PRIOR_AFTER)))

    after_word = {spoken: after(spoken) for spoken in entries}
    # How often there would be silence before a word if that hung on the word before it alone.
    # Kaldi counts the beginning of a sentence as never followed by silence here, whatever
    # silprob.txt says of it; what is learnt is used together with its other programs, so it
    # stays. Words that often begin sentences thus get a higher factor for silence.
    expected: defaultdict[Spoken, float] = defaultdict(float)
    expected_not: defaultdict[Spoken, float] = defaultdict(float)
    for (left, right), count in counts.pairs().items():
        probability = after_word.get(left, 0.0)
        expected[right] += count * probability
        expected_not[right] += count * (1.0 - probability)

    def factors(spoken: Spoken) -> tuple[float, float]:
        n = silences.get(spoken, _NONE)
        return (
            (n.before + _PRIOR_BEFORE) / (expected[spoken] + _PRIOR_BEFORE),
            (n.not_before + _PRIOR_BEFORE) / (expected_not[spoken] + _PRIOR_BEFORE),
        )

    words = {
        spoken: WordSilence(
            after_word[spoken], *(max(_two_decimals(f), 0.01) for f in factors(spoken))
        )
        for spoken in entries
    }
    return words, SentenceSilence(after(BEGIN), *factors(END), overall=_inside(overall))


def _part_silent(counts: PronunciationCounts) -> float:
    silences = counts.silences().values()
    silent = sum(n.before for n in silences)
    return silent / (silent + sum(n.not_before for n in silences))


def _two_decimals(value: float) -> float:
    return float(f"{value:.2f}")


def _six_digits(value: float) -> float:
    # What awk keeps of a number that it prints.
    return float(f"{value:.6g}")


def _inside(probability: float) -> float:
    """Keep silence neither certain nor impossible."""
    return min(max(probability, 0.01), 0.99)
