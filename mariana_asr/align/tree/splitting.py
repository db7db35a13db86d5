"""Splitting the leaves of a tree by the questions that gain most likelihood."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.tree.clustering import VAR_FLOOR, objective
from mariana_asr.align.tree.event_map import EventNode
from mariana_asr.align.tree.kmeans import refine_split
from mariana_asr.align.tree.questions import Questions
from mariana_asr.align.tree.statistics import TreeStats

Rows = NDArray[np.int64]

_AHEAD = 16
"""Leaves split on trial at a time: most of the best ones come up for splitting later anyway."""


@dataclass(frozen=True)
class Split:
    """The best question at a leaf.

    Attributes:
        gain: Likelihood gained; 0 where no question gains any.
        key: What the question asks about.
        members: Values for which the answer is yes, in rising order.
    """

    gain: np.float32 = field(default_factory=np.float32)
    key: int = 0
    members: tuple[int, ...] = ()


class SplitFinder:
    """Finds best questions: statistics of the answers' sides are matrix products."""

    def __init__(
        self,
        stats: TreeStats,
        questions: Questions,
        *,
        num_iters_refine: int = 0,
        var_floor: float = VAR_FLOOR,
    ) -> None:
        self._contexts = stats.contexts
        self._sums = stats.sums
        self._questions = questions
        self._answers = questions.answers(stats.contexts)
        self._num_iters_refine = num_iters_refine
        self._var_floor = var_floor

    def find(self, leaves: Sequence[Rows]) -> list[Split]:
        """The best question for each set of contexts (Kaldi: FindBestSplit).

        Of equally good questions the first one is taken.
        """
        asked = [self._useful(rows) for rows in leaves]
        counts = [len(columns) for columns in asked]
        totals = np.stack([self._sums[rows].sum(axis=0) for rows in leaves])
        yes = np.empty((sum(counts), self._sums.shape[1]))
        ends = np.cumsum(counts).tolist()
        for rows, columns, end in zip(leaves, asked, ends, strict=True):
            if len(columns):
                answers = self._answers[rows[:, None], columns].astype(np.float64)
                np.matmul(answers.T, self._sums[rows], out=yes[end - len(columns) : end])
        gains = self._gains(yes, totals, np.array(counts))
        return [
            self._best(rows, columns, gains[end - len(columns) : end])
            for rows, columns, end in zip(leaves, asked, ends, strict=True)
        ]

    def is_yes(self, rows: Rows, split: Split) -> NDArray[np.bool_]:
        """Which of some contexts answer a question with yes."""
        return np.isin(self._contexts[rows, 1 + split.key], split.members)

    def _useful(self, rows: Rows) -> NDArray[np.int64]:
        """Questions that all contexts of a leaf may be asked and not all answer alike."""
        if len(rows) < 2:
            return np.zeros(0, dtype=np.int64)
        yes = self._answers[rows].sum(axis=0, dtype=np.int64)
        askable = self._askable(rows)[1 + self._questions.keys]
        return np.flatnonzero((yes > 0) & (yes < len(rows)) & askable)

    def _askable(self, rows: Rows) -> NDArray[np.bool_]:
        """Which keys, the pdf class first, every context has; shape (1 + N,)."""
        return self._contexts[rows].min(axis=0) >= 0

    def _gains(
        self, yes: NDArray[np.float64], totals: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        unsplit = np.repeat(objective(totals, self._var_floor), counts)
        split = objective(yes, self._var_floor)
        np.subtract(np.repeat(totals, counts, axis=0), yes, out=yes)
        split += objective(yes, self._var_floor)
        return split - unsplit

    def _best(self, rows: Rows, columns: NDArray[np.int64], gains: NDArray[np.float32]) -> Split:
        if self._num_iters_refine and len(rows) > 1:
            return self._best_refined(rows, columns, gains)
        best = int(gains.argmax()) if len(gains) else -1
        if best < 0 or gains[best] <= 0:
            return Split()
        return self._split(columns[best], gains[best])

    def _split(self, column: int, gain: np.float32) -> Split:
        return Split(gain, int(self._questions.keys[column]), self._questions.members[column])

    def _best_refined(
        self, rows: Rows, columns: NDArray[np.int64], gains: NDArray[np.float32]
    ) -> Split:
        """Each key's best question, improved by moving values between yes and no."""
        keys = self._questions.keys
        best = Split()
        for key in (np.flatnonzero(self._askable(rows)) - 1).tolist():
            if key not in keys:
                continue
            own = keys[columns] == key
            start = Split()
            if own.any() and gains[own].max() > 0:
                start = self._split(columns[own][gains[own].argmax()], gains[own].max())
            values = self._contexts[rows, 1 + key]
            points = np.zeros((int(values.max()) + 1, self._sums.shape[1]))
            np.add.at(points, values, self._sums[rows])
            assignments = np.isin(np.arange(len(points)), start.members).astype(np.int64)
            gain = start.gain + refine_split(
                points, assignments, self._num_iters_refine, self._var_floor
            )
            if gain > best.gain:
                best = Split(gain, key, tuple(np.flatnonzero(assignments).tolist()))
        return best


@dataclass
class _Leaf:
    """A leaf that may be split: its node, its contexts, and its best question.

    ``path`` leads to it from a leaf of the tree before splitting, 0 for yes and 1 for no.
    """

    node: EventNode
    rows: Rows
    root: int
    path: tuple[int, ...]
    split: Split
    children: list["_Leaf"] = field(default_factory=list)

    def entry(self) -> "_Entry":
        """Its place in a queue: greatest gain first; of equal ones the last root, then yes."""
        return -float(self.split.gain), -self.root, self.path, self


_Entry = tuple[float, int, tuple[int, ...], _Leaf]


@dataclass(frozen=True)
class Splits:
    """What splitting a tree gave.

    Attributes:
        leaf_of_row: Number of each context's leaf, shape (C,).
        num_leaves: One more than the highest number of a leaf.
        gain: Likelihood gained by all splits.
        smallest: Likelihood gained by the least of them; infinite where there was none.
    """

    leaf_of_row: NDArray[np.int64]
    num_leaves: int
    gain: float
    smallest: float


def split_leaves(
    root: EventNode,
    leaf_of_row: NDArray[np.int64],
    finder: SplitFinder,
    *,
    splittable: NDArray[np.bool_],
    num_leaves: int,
    max_leaves: int,
    thresh: float,
) -> Splits:
    """Split the leaf that gains most, again and again (Kaldi: SplitDecisionTree).

    Args:
        root: The tree, which is changed; its leaves have different numbers.
        leaf_of_row: Number of each context's leaf, shape (C,).
        finder: Finds the best question of a leaf.
        splittable: Which contexts are under roots that may be split, shape (C,).
        num_leaves: Number of leaves of the tree.
        max_leaves: Number of leaves at which to stop; 0 for no limit.
        thresh: Stop when no split gains more likelihood than this.
    """
    leaf_of_row = leaf_of_row.copy()
    nodes = {node.leaf: node for node in root.leaves()}
    usable = np.flatnonzero(splittable)
    starts = [
        (leaf, usable[leaf_of_row[usable] == leaf])
        for leaf in np.unique(leaf_of_row[usable]).tolist()
    ]
    found = finder.find([rows for _, rows in starts]) if starts else []
    queue = [
        _Leaf(nodes[leaf], rows, leaf, (), split).entry()
        for (leaf, rows), split in zip(starts, found, strict=True)
    ]
    heapq.heapify(queue)
    total, smallest = 0.0, np.inf
    while queue and -queue[0][0] > thresh and (not max_leaves or num_leaves < max_leaves):
        if not queue[0][-1].children:
            best = [entry[-1] for entry in heapq.nsmallest(_AHEAD, queue)]
            _split_on_trial(best, finder, thresh)
        *_, leaf = heapq.heappop(queue)
        split = leaf.split
        total += float(split.gain)
        smallest = min(smallest, float(split.gain))
        children = leaf.node.split(split.key, split.members, num_leaves)
        for child, node in zip(leaf.children, children, strict=True):
            child.node = node
            heapq.heappush(queue, child.entry())
        leaf_of_row[leaf.children[1].rows] = num_leaves
        num_leaves += 1
    return Splits(leaf_of_row, num_leaves, total, smallest)


def _split_on_trial(leaves: list[_Leaf], finder: SplitFinder, thresh: float) -> None:
    """Give leaves the children that splitting them will make."""
    fresh = [leaf for leaf in leaves if not leaf.children and leaf.split.gain > thresh]
    for leaf in fresh:
        yes = finder.is_yes(leaf.rows, leaf.split)
        leaf.children = [
            _Leaf(leaf.node, leaf.rows[side], leaf.root, (*leaf.path, place), Split())
            for place, side in enumerate((yes, ~yes))
        ]
    children = [child for leaf in fresh for child in leaf.children]
    for child, split in zip(children, finder.find([c.rows for c in children]), strict=True):
        child.split = split
