"""Phones and words of an alignment: where each starts and how long it is.

Words are found by their pronunciations, as Kaldi's lattice-align-words-lexicon does, so phones
that do not carry their position in the word serve as well as those that do.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import TransitionModel
from mariana_asr.align.transition_ids import check_transition_ids
from mariana_asr.align.tree.phones import PhoneTable, split_into_phones
from mariana_asr.errors import DataError, FormatError
from mariana_asr.lang.fst_arrays import FstArrays, from_fst, read_fst
from mariana_asr.lang.langdir import Lang, read_rows

SILENCE_WORD = 0
"""The word id of optional silence between words (``<eps>``)."""

_REPEATED_SILENCE = 1e3
"""Cost of a silence right after another, where a word may be said as silence as well."""

_Pronunciation = tuple[int, ...]
_LexiconCosts = dict[tuple[int, _Pronunciation], float]


class PhoneSegment(NamedTuple):
    """A phone of an alignment.

    Attributes:
        phone: Its id.
        start: The utterance's frame that it starts at.
        frames: Number of its frames.
    """

    phone: int
    start: int
    frames: int


@dataclass(frozen=True, slots=True)
class WordSegment:
    """A word of an alignment, or the optional silence between two.

    Attributes:
        word: Its id; 0 is optional silence.
        phones: The phones of the pronunciation that was said.
    """

    word: int
    phones: tuple[PhoneSegment, ...]

    @property
    def start(self) -> int:
        """The utterance's frame that it starts at."""
        return self.phones[0].start

    @property
    def frames(self) -> int:
        """Number of its frames."""
        last = self.phones[-1]
        return last.start + last.frames - self.phones[0].start

    @property
    def pronunciation(self) -> tuple[int, ...]:
        """Ids of its phones."""
        return tuple(segment.phone for segment in self.phones)


class PhoneSplitter:
    """Cuts alignments into phones (Kaldi: SplitToPhones), with a model's tables made once."""

    def __init__(self, transition_model: TransitionModel) -> None:
        """Take phone, state and kind of every transition id."""
        self._model = transition_model
        self._table = PhoneTable.of(transition_model)

    def split(self, tids: NDArray[np.integer]) -> list[PhoneSegment]:
        """Cut an alignment, shape (T,), into phones, in order.

        Raises:
            FormatError: A number is no transition id of the model.
        """
        check_transition_ids(tids, self._model)
        runs = split_into_phones(self._table, tids, np.zeros(1, dtype=np.int64))
        starts = [0, *runs.ends[:-1].tolist()]
        return [
            PhoneSegment(phone, start, end - start)
            for phone, start, end in zip(
                runs.phones.tolist(), starts, runs.ends.tolist(), strict=False
            )
        ]


def phone_segments(
    tids: NDArray[np.integer], transition_model: TransitionModel
) -> list[PhoneSegment]:
    """Cut one alignment, shape (T,), into phones; `PhoneSplitter` does many faster.

    Raises:
        FormatError: A number is no transition id of the model.
    """
    return PhoneSplitter(transition_model).split(tids)


class WordAligner:
    """Finds the words of a transcript among the phones of its alignment.

    Pronunciations are those of ``phones/align_lexicon.int``, or of ``L.fst`` where a lang
    directory lacks that file. Where the phones can be cut into the words in several ways, the one
    whose pronunciations are the most probable by ``L.fst`` is taken, as in the alignment itself.
    """

    def __init__(self, lang: Lang) -> None:
        """Read the pronunciations of a lang directory.

        Raises:
            FormatError: It has neither file, or the one it has is damaged.
        """
        self._lang = lang
        lexicon = lang.path / "phones" / "align_lexicon.int"
        self._fst_file = lang.path / "L.fst"
        entries = _read_align_lexicon(lexicon) if lexicon.exists() else self._costs
        self._pronunciations: dict[int, list[_Pronunciation]] = {}
        for word, phones in entries:
            self._pronunciations.setdefault(word, []).append(phones)
        self._fillers = self._pronunciations.setdefault(SILENCE_WORD, [])
        if (lang.optional_silence,) not in self._fillers:
            self._fillers.append((lang.optional_silence,))

    def segment(self, words: Sequence[int], phones: Sequence[PhoneSegment]) -> list[WordSegment]:
        """Cut an utterance's phones into its words and the silences between them.

        Args:
            words: Ids of the transcript's words (`Lang.transcript_to_ids`).
            phones: The phones of the alignment, in order.

        Returns:
            Words and silences in order; together they hold every phone once.

        Raises:
            DataError: The phones are no pronunciation of these words.
        """
        ids = [segment.phone for segment in phones]
        cuts, ambiguous = self._cut(words, ids, {})
        if ambiguous and self._fst_file.exists():
            cuts, _ = self._cut(words, ids, self._costs)
        segments = []
        end = len(ids)
        for word, start in reversed(cuts):
            segments.append(WordSegment(word, tuple(phones[start:end])))
            end = start
        return segments[::-1]

    def _cut(
        self, words: Sequence[int], phones: list[int], costs: _LexiconCosts
    ) -> tuple[list[tuple[int, int]], bool]:
        """Find the cheapest way through words and phones at once.

        Returns:
            (word, index of its first phone) in order, and whether there were other ways.
        """
        search = _Search(phones, costs)
        after_word: _Reached = {0: _Way(0.0, SILENCE_WORD, 0, None)}
        for number in range(len(words) + 1):
            after_silence = search.extend(SILENCE_WORD, self._fillers, after_word)
            self._repeat_silence(search, after_silence)
            if number == len(words):
                break
            pronunciations = self._pronunciations.get(words[number], [])
            following = search.extend(words[number], pronunciations, after_word, after_silence)
            if not following:
                furthest = max(after_word | after_silence)
                raise self._mismatch(words, number, phones, furthest)
            after_word = following
        ends: _Reached = {}
        for reached in (after_word, after_silence):
            if len(phones) in reached:
                search.note(ends, len(phones), reached[len(phones)])
        if not ends:
            raise self._mismatch(words, len(words), phones, max(after_word | after_silence))
        cuts, way = [], ends[len(phones)]
        while way.before is not None:
            cuts.append((way.word, way.start))
            way = way.before
        return cuts[::-1], search.ambiguous

    def _repeat_silence(self, search: "_Search", after_silence: "_Reached") -> None:
        """Allow further silences after the first; none is said by L, but other programs do it."""
        places = sorted(after_silence)
        for at in places:
            again = search.extend(
                SILENCE_WORD, self._fillers, {at: after_silence[at]}, extra=_REPEATED_SILENCE
            )
            for to, way in again.items():
                if to not in after_silence:
                    insort(places, to)
                search.note(after_silence, to, way)

    @cached_property
    def _costs(self) -> _LexiconCosts:
        return _lexicon_costs(self._fst_file, self._lang.optional_silence)

    def _mismatch(self, words: Sequence[int], number: int, phones: list[int], at: int) -> DataError:
        names = {n: symbol for symbol, n in self._lang.phones.items()}
        vocabulary = {n: symbol for symbol, n in self._lang.words.items()}
        what = "the alignment's phones are not those of its transcript: "
        if number == len(words):
            what += "after the last word"
        else:
            word = vocabulary.get(words[number], str(words[number]))
            what += f"where word {number + 1}, {word}, should be"
        following = " ".join(names.get(phone, str(phone)) for phone in phones[at : at + 6])
        return DataError(
            f"{what}, there is {following or 'nothing left'}",
            remedy="Use the transcripts and the lang directory that the alignment was made with",
        )


class _Way(NamedTuple):
    """The cheapest way to a place among the phones, and the word (or silence) that led there."""

    cost: float
    word: int
    start: int
    before: "_Way | None"


_Reached = dict[int, _Way]
"""Number of phones taken to the cheapest way of taking them."""


class _Search:
    """Steps of the search for words among phones."""

    def __init__(self, phones: list[int], costs: _LexiconCosts) -> None:
        self._phones = phones
        self._costs = costs
        self.ambiguous = False

    def extend(
        self,
        word: int,
        pronunciations: Iterable[_Pronunciation],
        *places: _Reached,
        extra: float = 0.0,
    ) -> _Reached:
        """Let a word follow wherever one of its pronunciations does."""
        reached: _Reached = {}
        for place in places:
            for at, way in place.items():
                for pronunciation in pronunciations:
                    to = at + len(pronunciation)
                    if tuple(self._phones[at:to]) == pronunciation:
                        cost = way.cost + self._costs.get((word, pronunciation), 0.0) + extra
                        self.note(reached, to, _Way(cost, word, at, way))
        return reached

    def note(self, reached: _Reached, to: int, way: _Way) -> None:
        """Keep the cheaper one of the ways to a place, and note where there are two."""
        known = reached.get(to)
        self.ambiguous |= known is not None
        if known is None or way.cost < known.cost:
            reached[to] = way


def _read_align_lexicon(path: Path) -> Iterable[tuple[int, _Pronunciation]]:
    """Read ``word word phone...`` lines of ids, each pronunciation once.

    Raises:
        FormatError: A line is not of that form.
    """
    entries: dict[tuple[int, _Pronunciation], None] = {}
    for number, row in enumerate(read_rows(path), 1):
        if len(row) < 3 or not all(field.isdecimal() for field in row):
            raise FormatError(
                f"expected 'word word phone...' as ids, found {' '.join(row)!r}",
                where=f"{path}:{number}",
            )
        entries[int(row[0]), tuple(map(int, row[2:]))] = None
    return entries


def _lexicon_costs(path: Path, silence_phone: int) -> _LexiconCosts:
    """Take the pronunciations out of ``L.fst``, each with its cost.

    In a lexicon as Kaldi's scripts make it, a word's label is on the arc of its first phone, and
    the other phones follow one by one; only the arcs of the last one lead to several states.

    Raises:
        FormatError: The file is missing or damaged.
    """
    arcs = from_fst(read_fst(path))
    inside = _states_inside_words(arcs, silence_phone)
    first = np.searchsorted(arcs.source, np.arange(arcs.num_states)).tolist()
    ilabel, target, weight = arcs.ilabel.tolist(), arcs.target.tolist(), arcs.weight.tolist()
    cheapest = np.full(arcs.num_states, np.inf)
    np.minimum.at(cheapest, arcs.source, arcs.weight)
    least = cheapest.tolist()
    costs: _LexiconCosts = {}
    for arc in np.flatnonzero(arcs.olabel):
        phones, cost, state = [ilabel[arc]], weight[arc], target[arc]
        while inside[state]:
            following = first[state]
            phones.append(ilabel[following])
            cost += least[state]
            state = target[following]
        key = int(arcs.olabel[arc]), tuple(phone for phone in phones if phone)
        costs[key] = min(cost, costs.get(key, np.inf))
    return costs


def _states_inside_words(arcs: FstArrays, silence_phone: int) -> list[bool]:
    """Tell the states in the middle of a pronunciation, shape (S,), from those between words."""
    size = arcs.num_states
    out_degree = np.bincount(arcs.source, minlength=size)
    in_degree = np.bincount(arcs.target, minlength=size)
    same = np.zeros(size, dtype=arcs.ilabel.dtype)
    same[arcs.source] = arcs.ilabel
    plain = (arcs.ilabel != 0) & (arcs.olabel == 0) & (arcs.ilabel == same[arcs.source])
    inside = np.bincount(arcs.source, plain, minlength=size) == out_degree
    inside &= (out_degree > 0) & ~np.isfinite(arcs.final)
    # All ways from a state before optional silence have one label, too; but many words lead there.
    silence = same == silence_phone
    entered_freely = np.bincount(arcs.target, arcs.ilabel == 0, minlength=size) > 0
    starts_word = np.bincount(arcs.source, arcs.olabel != 0, minlength=size) > 0
    leads_to_words = np.bincount(arcs.source, starts_word[arcs.target], minlength=size) > 0
    inside &= ~(silence & leads_to_words & ((in_degree > 1) | entered_freely))
    result: list[bool] = inside.tolist()
    return result
