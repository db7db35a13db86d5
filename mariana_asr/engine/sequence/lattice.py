"""A lattice as the criteria see it: weighted paths through the classes of an utterance's frames."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

NO_CLASS = -1
"""Class of an arc that takes no frame."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """The states of one level, with the arcs that they are worked out from."""

    states: slice
    """The states."""
    arcs: slice
    """The arcs, those of one state side by side."""
    starts: NDArray[np.int64]
    """Where the arcs of each state begin, counted from the first of these."""


@dataclass(frozen=True)
class SequenceLattice:
    """Which sequences of classes compete in an utterance, and how likely they are without sound.

    Acyclic; every arc is on a path from the first state, which is the start, to the last one, which
    is the end. Each path takes every frame of the utterance once, in order.

    States are sorted by their level, the length of the longest path to them, so that all states of
    a level can be worked out at once from the levels before.

    Attributes:
        levels: (levels + 1,) the first state of each level, then the number of states.
        source: (A,) source state of each arc.
        destination: (A,) destination of each arc, ascending.
        classes: (A,) class of each arc, NO_CLASS for one that takes no frame.
        frames: (A,) frame of each arc that takes one.
        scores: (A,) logarithm of each arc's weight, without the acoustic one.
    """

    levels: NDArray[np.int32]
    source: NDArray[np.int32]
    destination: NDArray[np.int32]
    classes: NDArray[np.int32]
    frames: NDArray[np.int32]
    scores: NDArray[np.float32]

    @property
    def num_states(self) -> int:
        """Number of states."""
        return int(self.levels[-1])

    @property
    def num_frames(self) -> int:
        """Number of frames of the utterance."""
        return int(self.frames[self.emitting].max(initial=-1)) + 1

    @cached_property
    def emitting(self) -> NDArray[np.int64]:
        """(E,) the arcs that take a frame."""
        return np.flatnonzero(self.classes != NO_CLASS)

    @cached_property
    def by_source(self) -> NDArray[np.int64]:
        """(A,) the arcs in the order of their source states."""
        return np.argsort(self.source, kind="stable")

    @cached_property
    def steps_in(self) -> list[Step]:
        """From the second level to the last, the arcs into each state."""
        return _steps(self.destination, self.levels[1:])

    @cached_property
    def steps_out(self) -> list[Step]:
        """From the last level but one to the first, the arcs out of each state, by source."""
        return _steps(self.source[self.by_source], self.levels[:-1])[::-1]

    def prepare(self) -> None:
        """Work out now what is needed each time, so that nobody waits for it then."""
        _ = self.emitting, self.steps_in, self.steps_out

    def sums_from_start(self, scores: Doubles) -> Doubles:
        """Logarithm of the sum over all ways from the start to each state: (S,).

        Args:
            scores: (A,) logarithm of each arc's whole weight.
        """
        sums, source = np.zeros(self.num_states), self.source
        for step in self.steps_in:
            ways = scores[step.arcs] + sums[source[step.arcs]]
            sums[step.states] = np.logaddexp.reduceat(ways, step.starts)
        return sums

    def sums_to_end(self, scores: Doubles) -> Doubles:
        """The same over all ways from each state to the end: (S,)."""
        sums, order = np.zeros(self.num_states), self.by_source
        scores, destination = scores[order], self.destination[order]
        for step in self.steps_out:
            ways = scores[step.arcs] + sums[destination[step.arcs]]
            sums[step.states] = np.logaddexp.reduceat(ways, step.starts)
        return sums

    def means_from_start(self, shares: Doubles, values: Doubles) -> Doubles:
        """Mean over all ways from the start to each state of the sum of values along them: (S,).

        Args:
            shares: (A,) of the ways to its destination, the share that comes over each arc.
            values: (A,) value of each arc.
        """
        means, source = np.zeros(self.num_states), self.source
        for step in self.steps_in:
            ways = shares[step.arcs] * (values[step.arcs] + means[source[step.arcs]])
            means[step.states] = np.add.reduceat(ways, step.starts)
        return means

    def means_to_end(self, shares: Doubles, values: Doubles) -> Doubles:
        """The same over all ways from each state to the end: (S,).

        Args:
            shares: (A,) of the ways from its source, the share that goes over each arc.
            values: (A,) value of each arc.
        """
        means, order = np.zeros(self.num_states), self.by_source
        shares, values, destination = shares[order], values[order], self.destination[order]
        for step in self.steps_out:
            ways = shares[step.arcs] * (values[step.arcs] + means[destination[step.arcs]])
            means[step.states] = np.add.reduceat(ways, step.starts)
        return means


def _steps(states: NDArray[np.int32], levels: NDArray[np.int32]) -> list[Step]:
    """Group arcs by level.

    Args:
        states: (A,) the state that each arc is an arc of, ascending.
        levels: The first state of each level, then the end of the last; each has arcs.
    """
    firsts = np.searchsorted(states, np.arange(levels[0], levels[-1] + 1))
    begins = firsts[levels - levels[0]].tolist()
    bounds = zip(pairwise(levels.tolist()), pairwise(begins), strict=True)
    return [
        Step(
            slice(low, high), slice(begin, end), firsts[low - levels[0] : high - levels[0]] - begin
        )
        for (low, high), (begin, end) in bounds
    ]
