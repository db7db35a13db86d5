"""Which pronunciations an alignment took, and where it has silence between words."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.output.segments import SILENCE_WORD, PhoneSplitter, WordAligner, WordSegment
from mariana_asr.align.transition_ids import iterate_alignments
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError
from mariana_asr.lang.langdir import Lang
from mariana_asr.parallel import parallel_map
from mariana_asr.skipped import Skipped

CHUNK_UTTERANCES = 200
"""Utterances that a process takes at once."""

Spoken = tuple[str, ...]
"""A word and the phones that it was said with, which do not tell their place in the word."""

BEGIN: Spoken = ("<s>",)
"""Stands before the first word of an utterance."""

END: Spoken = ("</s>",)
"""Stands after the last word of an utterance."""

_POSITIONS = ("_B", "_I", "_E", "_S")


@dataclass(frozen=True)
class SilenceCounts:
    """How often a pronunciation had silence beside it."""

    before: int = 0
    not_before: int = 0
    after: int = 0
    not_after: int = 0


@dataclass
class PronunciationCounts:
    """Counts of neighbouring pronunciations; they grow with the vocabulary, not with the speech.

    Attributes:
        neighbours: How often the second followed the first, and whether there was silence
            between them. `BEGIN` and `END` are neighbours too.
        utterances: Number of utterances counted.
    """

    neighbours: Counter[tuple[Spoken, Spoken, bool]] = field(default_factory=Counter)
    utterances: int = 0

    def add_utterance(self, words: Iterable[Spoken | None]) -> None:
        """Count an utterance: what was said in order, None for silence between words."""
        said = [BEGIN]
        silent = [False]
        for word in words:
            if word is None:
                silent[-1] = True
            else:
                said.append(word)
                silent.append(False)
        said.append(END)
        self.neighbours.update(
            (*pair, silence) for pair, silence in zip(pairwise(said), silent, strict=True)
        )
        self.utterances += 1

    def add(self, other: "PronunciationCounts") -> None:
        """Add what was counted elsewhere."""
        self.neighbours.update(other.neighbours)
        self.utterances += other.utterances

    def pronunciations(self) -> Counter[Spoken]:
        """How often each pronunciation was said (Kaldi: ``pron_counts_nowb.txt``)."""
        counts: Counter[Spoken] = Counter()
        for (_, word, _), count in self.neighbours.items():
            if word != END:
                counts[word] += count
        return counts

    def pairs(self) -> Counter[tuple[Spoken, Spoken]]:
        """How often each pronunciation followed each other one, whether there was silence or not.

        (Kaldi: ``pron_bigram_counts_nowb.txt``.)
        """
        counts: Counter[tuple[Spoken, Spoken]] = Counter()
        for (left, right, _), count in self.neighbours.items():
            counts[left, right] += count
        return counts

    def silences(self) -> dict[Spoken, SilenceCounts]:
        """How often each pronunciation, `BEGIN` and `END` had silence beside it.

        (Kaldi: ``sil_counts_nowb.txt``.)
        """
        counts: dict[Spoken, list[int]] = {}
        for (left, right, silent), count in self.neighbours.items():
            counts.setdefault(right, [0, 0, 0, 0])[0 if silent else 1] += count
            counts.setdefault(left, [0, 0, 0, 0])[2 if silent else 3] += count
        return {word: SilenceCounts(*numbers) for word, numbers in counts.items()}


def count_pronunciations(
    data: DataDir,
    lang: Lang,
    alignment: str | Path,
    *,
    model: str | Path | None = None,
    jobs: int = 1,
    skipped: Skipped | None = None,
) -> PronunciationCounts:
    """Count the pronunciations and silences of an alignment (Kaldi: steps/get_prons.sh).

    Alignments are read one by one, so memory does not grow with their number.

    Args:
        data: The transcripts that were aligned.
        lang: The lang directory that they were aligned with.
        alignment: A directory with ``ali.*.gz``, or one archive.
        model: The ``final.mdl`` of the transition ids; by default that in the directory.
        jobs: Number of processes.
        skipped: Takes the utterances whose alignment does not fit their transcript.

    Raises:
        FormatError: A file is missing or damaged, or model and alignment do not fit.
    """
    skipped = Skipped("counting of pronunciations") if skipped is None else skipped
    alignment = Path(alignment)
    counts = PronunciationCounts()
    for part, failed in parallel_map(
        _count_chunk,
        _chunks(data, lang, alignment, skipped),
        jobs=jobs,
        setup=_load_counter,
        setup_arguments=(lang, Path(model or alignment / "final.mdl")),
    ):
        counts.add(part)
        for utterance, reason in failed.items():
            skipped.add(utterance, reason)
    return counts


def write_counts(counts: PronunciationCounts) -> dict[str, str]:
    """The counts as the files that Kaldi's steps/get_prons.sh ends with: name to text.

    Silence itself, which it counts as a pronunciation of ``<eps>``, is left out.
    """
    names = {word: " ".join(word) for pair in counts.pairs() for word in pair}
    silences = counts.silences()
    used = sorted(counts.pronunciations().items(), key=lambda item: (-item[1], item[0]))
    pairs = sorted((names[left], names[right], n) for (left, right), n in counts.pairs().items())
    return {
        "pron_counts_nowb.txt": "".join(f"{count} {names[word]}\n" for word, count in used),
        "pron_bigram_counts_nowb.txt": "".join(
            f"{count}\t{left}\t{right}\n" for left, right, count in pairs
        ),
        "sil_counts_nowb.txt": "".join(
            f"{n.before} {n.not_before} {n.after} {n.not_after} {names[word]}\n"
            for word, n in sorted(silences.items(), key=lambda item: names[item[0]])
        ),
    }


@dataclass(frozen=True)
class _Item:
    utterance: str
    words: Sequence[int]
    tids: NDArray[np.int32]


def _chunks(data: DataDir, lang: Lang, alignment: Path, skipped: Skipped) -> Iterator[list[_Item]]:
    chunk: list[_Item] = []
    for utterance, tids in iterate_alignments(alignment):
        if utterance not in data.text:
            skipped.add(utterance, f"no transcript in {data.path}")
            continue
        chunk.append(_Item(utterance, lang.transcript_to_ids(data.text[utterance]), tids))
        if len(chunk) == CHUNK_UTTERANCES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _AlignmentCounter:
    """What a process loads once."""

    def __init__(self, lang: Lang, model: Path) -> None:
        self._splitter = PhoneSplitter(read_transition_model(model))
        self._aligner = WordAligner(lang)
        self._words = {number: word for word, number in lang.words.items()}
        self._phones = {number: phone for phone, number in lang.phones.items()}
        if lang.word_boundary is not None:
            self._phones = {
                number: phone[:-2] if phone.endswith(_POSITIONS) else phone
                for number, phone in self._phones.items()
            }
        self._names: dict[tuple[int, ...], Spoken] = {}

    def count(self, items: Iterable[_Item]) -> tuple[PronunciationCounts, dict[str, str]]:
        """Count utterances; those that do not fit their transcripts come with the reason."""
        counts = PronunciationCounts()
        failed = {}
        for item in items:
            try:
                phones = self._splitter.split(item.tids)
                segments = self._aligner.segment(item.words, phones)
            except FormatError as error:
                error.where = f"utterance {item.utterance}"
                raise
            except DataError as error:
                failed[item.utterance] = str(error)
                continue
            counts.add_utterance(map(self._spoken, segments))
        return counts, failed

    def _spoken(self, segment: WordSegment) -> Spoken | None:
        if segment.word == SILENCE_WORD:
            return None
        ids = (segment.word, *segment.pronunciation)
        if ids not in self._names:
            phones = (self._phones[phone] for phone in ids[1:])
            self._names[ids] = (self._words[ids[0]], *phones)
        return self._names[ids]


_counter: _AlignmentCounter | None = None


def _load_counter(lang: Lang, model: Path) -> None:
    global _counter
    _counter = _AlignmentCounter(lang, model)


def _count_chunk(items: list[_Item]) -> tuple[PronunciationCounts, dict[str, str]]:
    assert _counter is not None  # parallel_map's setup has run
    return _counter.count(items)
