"""Training n-gram language models on transcripts."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mariana_asr.errors import DataError, StageError, summarise
from mariana_asr.files import atomic_file

logger = logging.getLogger(__name__)

BOS, EOS = "<s>", "</s>"
_NEVER = -99.0

History = tuple[str, ...]


class WittenBell:
    """An n-gram model with interpolated Witten-Bell smoothing.

    With c(h) the count of a history, T(h) the number of different words seen after it and h'
    the history without its first word::

        p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h))

    The model below the unigrams gives the end of sentence the share of one word, and is uniform
    over the vocabulary unless there are counts of its words in another text: then it has their
    relative frequencies, one added to each. So every word has some probability.

    Sources: Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information
    Theory 1991; Chen and Goodman, "An empirical study of smoothing techniques for language
    modeling", 1998, section 2.4.

    It holds up on corpora of a few sentences, where the counts of counts that Kneser-Ney's
    discounts rest on are missing.
    """

    def __init__(
        self,
        vocabulary: Iterable[str],
        order: int,
        background: Mapping[str, int] | None = None,
    ) -> None:
        """Make a model that has seen nothing yet.

        Args:
            vocabulary: The words that can be predicted, without ``<s>`` and ``</s>``.
            order: Longest n-gram.
            background: Counts of words in another text.
        """
        self.vocabulary = sorted(set(vocabulary) - {BOS, EOS})
        self.order = order
        self.counts: list[dict[History, dict[str, int]]] = [{} for _ in range(order)]
        self._known = {*self.vocabulary, EOS}
        self._totals: dict[History, int] = defaultdict(int)
        self._background = background or {}
        self._background_total = sum(self._background.get(w, 0) + 1 for w in self.vocabulary)

    def add(self, words: Iterable[str]) -> int:
        """Count the n-grams of a sentence.

        An unknown word is neither predicted nor part of a history: the words after it start
        with an empty one.

        Returns:
            The number of unknown words.
        """
        history: History = (BOS,)
        unknown = 0
        for word in (*words, EOS):
            if word not in self._known:
                history = ()
                unknown += 1
                continue
            for length in range(min(len(history), self.order - 1) + 1):
                context = history[len(history) - length :]
                followers = self.counts[length].setdefault(context, defaultdict(int))
                followers[word] += 1
                self._totals[context] += 1
            history = (*history, word)[-self.order :]
        return unknown

    def backoff(self, history: History) -> float:
        """Share T(h) / (c(h) + T(h)) of the shorter history; 1 for a history never seen."""
        followers = self.counts[len(history)].get(history)
        if followers is None:
            return 1.0
        return len(followers) / (self._totals[history] + len(followers))

    def probability(self, word: str, history: History) -> float:
        """p(word | history); the history has fewer words than the order."""
        lower = self.probability(word, history[1:]) if history else self._lowest(word)
        followers = self.counts[len(history)].get(history)
        if followers is None:
            return lower
        types, total = len(followers), self._totals[history]
        return (followers.get(word, 0) + types * lower) / (total + types)

    def _lowest(self, word: str) -> float:
        """The model below the unigrams."""
        size = len(self.vocabulary)
        if word == EOS or not self._background:
            return 1.0 / (size + 1)
        share = (self._background.get(word, 0) + 1) / self._background_total
        return share * size / (size + 1)

    def arpa_lines(self) -> Iterator[str]:
        """Write the model in ARPA form, n-grams in alphabetical order."""
        sections = [self._unigrams(), *(self._section(n) for n in range(1, self.order))]
        while not sections[-1]:
            sections.pop()
        yield "\\data\\"
        for order, section in enumerate(sections, 1):
            yield f"ngram {order}={len(section)}"
        for order, section in enumerate(sections, 1):
            yield ""
            yield f"\\{order}-grams:"
            for ngram, log_probability in section:
                line = f"{log_probability:.7f}\t{' '.join(ngram)}"
                # Entries of the highest order carry no back-off weight.
                if order < len(sections) and ngram in self.counts[order]:
                    line += f"\t{math.log10(self.backoff(ngram)):.7f}"
                yield line
        yield ""
        yield "\\end\\"

    def _unigrams(self) -> list[tuple[History, float]]:
        entries = [((word,), math.log10(self.probability(word, ()))) for word in self.vocabulary]
        entries.append(((EOS,), math.log10(self.probability(EOS, ()))))
        entries.append(((BOS,), _NEVER))
        return sorted(entries)

    def _section(self, length: int) -> list[tuple[History, float]]:
        return [
            ((*history, word), math.log10(self.probability(word, history)))
            for history, followers in sorted(self.counts[length].items())
            for word in sorted(followers)
        ]


def train_ngram(
    sentences: Iterable[str],
    vocabulary: Iterable[str],
    order: int,
    out_arpa: str | Path,
    background: Mapping[str, int] | None = None,
) -> None:
    """Train an n-gram model and write it in ARPA form.

    Args:
        sentences: Transcripts, words parted by blanks; empty ones are passed over.
        vocabulary: All words that the model can predict. Words of it that no transcript has get
            their share of Witten-Bell's smoothing; words of transcripts that it lacks are left
            out and counted in the log.
        order: Longest n-gram, at least 1.
        out_arpa: The file to write.
        background: Counts of words in another text, which tell how likely those words are that
            the sentences lack; without them all those are alike.

    Raises:
        DataError: The order is below 1, or a word of the vocabulary cannot stand in an ARPA file.
        StageError: No sentence has a word of the vocabulary.
    """
    if order < 1:
        raise DataError(f"an n-gram model of order {order}", remedy="Use an order of 1 or more")
    model = WittenBell(vocabulary, order, background)
    bad = [word for word in model.vocabulary if not word or word.split() != [word]]
    if bad:
        raise DataError(f"words with white space in the vocabulary: {summarise(bad)}")
    words = unknown = used = 0
    for sentence in sentences:
        tokens = sentence.split()
        missing = model.add(tokens) if tokens else 0
        words += len(tokens)
        unknown += missing
        used += missing < len(tokens)
    if not used:
        raise StageError(
            "no transcript has a word of the vocabulary, so there is nothing to train on",
            where=out_arpa,
            remedy="Do transcripts and dictionary write words alike (upper or lower case)?",
        )
    with atomic_file(out_arpa) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in model.arpa_lines())
    logger.info(
        "%s: %d-gram model of %d sentences, %d words (%d of them outside of the vocabulary)",
        out_arpa,
        order,
        used,
        words,
        unknown,
    )
