"""The lexicon transducer L: phones in, words out."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.kaldi import kaldifst
from mariana_asr.lang.fst_arrays import FstArrays, to_fst
from mariana_asr.lang.lexicon_file import SentenceSilence, WordSilence


def add_disambiguation(
    pronunciations: Sequence[tuple[str, ...]],
) -> tuple[list[tuple[str, ...]], int]:
    """End pronunciations that homophones share, or that begin another one, with #1, #2, ...

    Source: Kaldi's add_lex_disambig.pl.

    Returns:
        The pronunciations in their order, and the highest number used (0 where none is).
    """
    count = Counter(pronunciations)
    prefixes = {phones[:n] for phones in count for n in range(1, len(phones))}
    used: Counter[tuple[str, ...]] = Counter()
    marked = []
    for phones in pronunciations:
        if count[phones] > 1 or phones in prefixes:
            used[phones] += 1
            phones = (*phones, f"#{used[phones]}")
        marked.append(phones)
    return marked, max(used.values(), default=0)


def lexicon_fst(
    words: Sequence[int],
    probabilities: Sequence[float],
    pronunciations: Sequence[Sequence[int]],
    *,
    sil_prob: float,
    silence_phone: int,
    silence_disambig: int | None = None,
    passed_through: Sequence[tuple[int, int]] = (),
) -> "kaldifst.StdVectorFst":
    """Build L, sorted by output label; state numbers are those of Kaldi's make_lexicon_fst.py.

    Args:
        words: Word ids, one a pronunciation.
        probabilities: Probabilities of the pronunciations, above 0 and at most 1.
        pronunciations: Phone ids, at least one each.
        sil_prob: Probability of silence before the first and after each word.
        silence_phone: The optional silence.
        silence_disambig: Phone id of a disambiguation symbol to follow optional silence.
        passed_through: Phone and word ids of symbols of G that L passes through (#0).
    """
    lengths = np.array([len(phones) for phones in pronunciations], dtype=np.int64)
    costs = -np.log(np.array(probabilities, dtype=np.float64))
    labels = np.fromiter(
        (phone for phones in pronunciations for phone in phones), np.int32, int(lengths.sum())
    )
    ends = np.cumsum(lengths)
    starts = ends - lengths
    if sil_prob > 0.0:
        head, loop, silence, inner = _silence_arcs(sil_prob, silence_phone, silence_disambig)
    else:
        head, loop, silence, inner = [], 0, 0, 1
    # Each pronunciation of n phones brings n-1 states of its own.
    index = np.arange(len(labels))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    entered = inner + index - owner
    source = np.where(index == starts[owner], loop, entered - 1)
    target = np.where(index == ends[owner] - 1, loop, entered)
    olabel = np.where(index == starts[owner], np.array(words, dtype=np.int64)[owner], 0)
    weight = np.where(index == starts[owner], costs[owner], 0.0)
    last = np.flatnonzero(index == ends[owner] - 1)
    columns = [source, target, labels, olabel, weight]
    if sil_prob > 0.0:
        to_silence = [column[last].copy() for column in columns]
        to_silence[1][:] = silence
        to_silence[4] += -math.log(sil_prob)
        weight[last] += -math.log(1.0 - sil_prob)
        columns = [np.concatenate(pair) for pair in zip(columns, to_silence, strict=True)]
    if head:
        columns = [
            np.concatenate([np.array(first), column])
            for first, column in zip(zip(*head, strict=True), columns, strict=True)
        ]
    num_states = inner + int((lengths - 1).sum())
    final = np.full(num_states, np.inf, dtype=np.float32)
    final[loop] = 0.0
    return _built(columns, final, passed_through)


def silence_lexicon_fst(
    words: Sequence[int],
    probabilities: Sequence[float],
    pronunciations: Sequence[Sequence[int]],
    silences: Sequence[WordSilence],
    sentences: SentenceSilence,
    *,
    silence_phone: int,
    silence_disambig: int | None = None,
    passed_through: Sequence[tuple[int, int]] = (),
) -> "kaldifst.StdVectorFst":
    """Build L in which each pronunciation has probabilities of silence beside it.

    Words leave from one of two states, which remember whether silence came before, and lead back
    to both. Sorted by output label; states and arcs are those of Kaldi's
    make_lexicon_fst_silprob.py. Source: Chen et al., "Pronunciation and silence probability
    modeling for ASR", Interspeech 2015.

    Args:
        words: Word ids, one a pronunciation.
        probabilities: Probabilities of the pronunciations, above 0 and at most 1.
        pronunciations: Phone ids, at least one each.
        silences: Silence beside the pronunciations, one each.
        sentences: Silence at the ends of sentences.
        silence_phone: The optional silence.
        silence_disambig: Phone id of a disambiguation symbol that stands where silence does not.
        passed_through: Phone and word ids of symbols of G that L passes through (#0).
    """
    start, without, silent, inner = 0, 1, 2, 3
    pause = 0 if silence_disambig is None else silence_disambig
    lengths = np.array([len(phones) for phones in pronunciations], dtype=np.int64)
    labels = np.fromiter(
        (phone for phones in pronunciations for phone in phones), np.int64, int(lengths.sum())
    )
    costs = -np.log(np.array(probabilities, dtype=np.float64))
    beside = np.array([(s.after, s.before, s.not_before) for s in silences], dtype=np.float64)
    after, before, not_before = beside.T
    # Each phone enters a state of its own; the first one has an arc from either loop state.
    ends = np.cumsum(lengths)
    firsts, lasts = inner + ends - lengths, inner + ends - 1
    within = np.setdiff1d(inner + np.arange(len(labels)), firsts)
    one, none = np.ones(len(lengths), dtype=np.int64), np.zeros(len(within))
    first_phones, word_ids = labels[firsts - inner], np.array(words, dtype=np.int64)
    blocks = [
        ([start], [without], [pause], [0], [-math.log(1.0 - sentences.begin)]),
        ([start], [silent], [silence_phone], [0], [-math.log(sentences.begin)]),
        (without * one, firsts, first_phones, word_ids, costs - np.log(not_before)),
        (silent * one, firsts, first_phones, word_ids, costs - np.log(before)),
        (within - 1, within, labels[within - inner], none, none),
        (lasts, without * one, pause * one, 0 * one, -np.log(1.0 - after)),
        (lasts, silent * one, silence_phone * one, 0 * one, -np.log(after)),
    ]
    columns = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    final = np.full(inner + len(labels), np.inf, dtype=np.float32)
    final[without], final[silent] = -math.log(sentences.not_end), -math.log(sentences.end)
    return _built(columns, final, passed_through)


def _built(
    columns: Sequence[NDArray[Any]],
    final: NDArray[np.float32],
    passed_through: Sequence[tuple[int, int]],
) -> "kaldifst.StdVectorFst":
    """Make the transducer of arcs (source, target, labels, cost), with loops for symbols of G."""
    source, target, ilabel, olabel = (c.astype(np.int32) for c in columns[:4])
    fst = to_fst(FstArrays(source, target, ilabel, olabel, columns[4].astype(np.float32), final))
    if passed_through:
        phones, symbols = zip(*passed_through, strict=True)
        kaldifst.add_self_loops(fst, list(phones), list(symbols))
    kaldifst.arcsort(fst, sort_type="olabel")
    return fst


def _silence_arcs(
    sil_prob: float, phone: int, disambig: int | None
) -> tuple[list[tuple[int, int, int, int, float]], int, int, int]:
    """Arcs around the loop state, that state, the silence state and the next free one."""
    start, loop, silence, free = 0, 1, 2, 3
    arcs = [
        (start, loop, 0, 0, -math.log(1.0 - sil_prob)),
        (start, silence, 0, 0, -math.log(sil_prob)),
    ]
    if disambig is None:
        return [*arcs, (silence, loop, phone, 0, 0.0)], loop, silence, free
    arcs += [(silence, free, phone, 0, 0.0), (free, loop, disambig, 0, 0.0)]
    return arcs, loop, silence, free + 1
