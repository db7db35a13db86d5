"""Statistics of the frames of every phone in context, from which a tree is built."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.tree.phones import PhoneTable, split_into_phones

ABSENT = -1
"""Stands in a context for a neighbour that may not be asked about."""

PDF_CLASS = -1
"""The key of questions about the pdf class; other keys are positions (Kaldi: kPdfClass)."""


@dataclass
class TreeStats:
    """Gaussian statistics of each distinct context, in double precision (Kaldi: acc-tree-stats).

    A context is a pdf class with a window of phones. Its size depends on how many contexts occur
    and not on the number of frames.

    Attributes:
        contexts: Pdf class, then the phones of the window, sorted; shape (C, 1 + N). 0 stands
            outside of the utterance. Around a context-independent phone all are `ABSENT`.
        sums: Number of frames, sums of features and sums of their squares, shape (C, 1 + 2 D).
        central_position: Where in the window the phone itself stands, from 0.
    """

    contexts: NDArray[np.int32]
    sums: NDArray[np.float64]
    central_position: int = 1

    @classmethod
    def empty(cls, dim: int, width: int = 3, central: int = 1) -> "TreeStats":
        """Statistics of no frames of ``dim`` values, with windows of ``width`` phones."""
        if not 0 <= central < width:
            raise ValueError(f"central position {central} in a window of {width} phones")
        return cls(np.zeros((0, 1 + width), np.int32), np.zeros((0, 1 + 2 * dim)), central)

    def __len__(self) -> int:
        return len(self.contexts)

    @property
    def dim(self) -> int:
        """Dimension of the features."""
        return (self.sums.shape[1] - 1) // 2

    @property
    def context_width(self) -> int:
        """Number of phones in a window."""
        return self.contexts.shape[1] - 1

    @property
    def frames(self) -> float:
        """Number of frames."""
        return float(self.sums[:, 0].sum())

    @property
    def pdf_classes(self) -> NDArray[np.int32]:
        """Pdf class of each context, shape (C,)."""
        return self.contexts[:, 0]

    @property
    def phones(self) -> NDArray[np.int32]:
        """The phone itself of each context, shape (C,)."""
        return self.contexts[:, 1 + self.central_position]

    def values(self, key: int) -> NDArray[np.int32]:
        """What the contexts hold at a position of the window, or their `PDF_CLASS`; (C,)."""
        return self.contexts[:, 1 + key]

    def accumulate(
        self,
        feats: NDArray[np.floating],
        tids: NDArray[np.integer],
        starts: NDArray[np.integer],
        table: PhoneTable,
    ) -> list[int]:
        """Add the frames of some utterances.

        Args:
            feats: Features of all frames, shape (T, D).
            tids: Their transition ids, shape (T,).
            starts: First frame of each utterance, in rising order, shape (U,).
            table: The model that the alignments were made with, and the phones without context.

        Returns:
            Indices of the utterances left out because their alignment is not a sequence of whole
            phones.
        """
        if feats.shape != (len(tids), self.dim):
            raise ValueError(
                f"features of shape {feats.shape} with {len(tids)} transition ids, "
                f"for statistics of dim {self.dim}"
            )
        runs = split_into_phones(table, tids, starts)
        windows = runs.windows(self.context_width, self.central_position)
        alone = np.isin(runs.phones, table.context_indep_phones)
        others = np.arange(self.context_width) != self.central_position
        windows[np.ix_(alone, others)] = ABSENT
        first, window_of_run = rank_rows(windows)
        keys = table.pdf_classes[tids].astype(np.int64) * len(first)
        keys += np.repeat(window_of_run, runs.frames)
        if not runs.whole.all():
            used = np.repeat(runs.whole[runs.utterances], runs.frames)
            keys, feats = keys[used], feats[used]

        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        begins = np.flatnonzero(np.diff(keys, prepend=-1))
        if len(begins):
            pdf_classes, window = np.divmod(keys[begins], len(first))
            contexts = np.column_stack([pdf_classes, windows[first[window]]]).astype(np.int32)
            counts = np.diff(np.append(begins, len(keys)))
            ordered = feats[order].astype(np.float64)
            totals = np.add.reduceat(ordered, begins)
            squares = np.add.reduceat(np.square(ordered, out=ordered), begins)
            sums = np.concatenate([counts[:, None], totals, squares], axis=1)
            self.add(TreeStats(contexts, sums, self.central_position))
        return np.flatnonzero(~runs.whole).tolist()

    def add(self, other: "TreeStats") -> None:
        """Add the statistics of other frames (Kaldi: sum-tree-stats)."""
        if (self.contexts.shape[1:], self.sums.shape[1:], self.central_position) != (
            other.contexts.shape[1:],
            other.sums.shape[1:],
            other.central_position,
        ):
            raise ValueError("statistics of other features or of another window")
        contexts = np.concatenate([self.contexts, other.contexts])
        first, place = rank_rows(contexts)
        sums = np.zeros((len(first), self.sums.shape[1]))
        sums[place[: len(self)]] = self.sums
        sums[place[len(self) :]] += other.sums
        self.contexts, self.sums = contexts[first], sums


def rank_rows(rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort the distinct rows of a matrix (n, k) of integers.

    Returns:
        An index of each distinct row, in the rows' order, shape (m,); and for each row which of
        them it equals, shape (n,).
    """
    ranks = np.zeros(len(rows), dtype=np.int64)
    first = np.zeros(min(1, len(rows)), dtype=np.int64)
    for column in rows.T:
        if len(rows):
            lowest = int(column.min())
            ranks = ranks * (int(column.max()) - lowest + 1) + (column - lowest)
        _, first, ranks = np.unique(ranks, return_index=True, return_inverse=True)
    return first, ranks
