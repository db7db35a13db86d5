"""Lattices as arrays, and the best paths through one under many score weights at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mariana_asr.decode.lattice_file import RawLattice
from mariana_asr.errors import DataError

_CELLS_A_PASS = 8_000_000
"""Arcs times settings handled at once (8 bytes each), so that long utterances fit in memory."""


@dataclass(frozen=True)
class Lattice:
    """An acyclic state-level lattice with its states in topological order.

    A state's level is the length of the longest path to it, so that every state of a level can
    be worked out at once from the levels before.

    Attributes:
        start: The start state.
        final: Final costs (states, 2), graph and acoustic; infinite where not final.
        levels: The first state of each level, then the number of states.
        source: Source state of each arc, arcs sorted by destination.
        destination: Destination of each arc.
        transition_ids: Input label of each arc, 0 for none.
        words: Output label of each arc, 0 for none.
        costs: Graph cost and unscaled acoustic cost of each arc, (arcs, 2).
    """

    start: int
    final: NDArray[np.float64]
    levels: NDArray[np.int64]
    source: NDArray[np.int64]
    destination: NDArray[np.int64]
    transition_ids: NDArray[np.int32]
    words: NDArray[np.int32]
    costs: NDArray[np.float64]

    @classmethod
    def from_raw(cls, raw: RawLattice) -> "Lattice":
        """Sort a raw lattice topologically.

        Raises:
            DataError: It has a cycle (a graph with a loop of empty labels).
        """
        next_state = raw.labels[:, 2].astype(np.int64)
        level = _levels(raw.source, next_state, len(raw.final))
        order = np.argsort(level, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        destination = rank[next_state]
        arcs = np.argsort(destination, kind="stable")
        return cls(
            start=int(rank[raw.start]),
            final=raw.final[order].astype(np.float64),
            levels=np.searchsorted(level[order], np.arange(level.max(initial=0) + 2)),
            source=rank[raw.source[arcs]],
            destination=destination[arcs],
            transition_ids=raw.labels[arcs, 0],
            words=raw.labels[arcs, 1],
            costs=raw.costs[arcs].astype(np.float64),
        )

    def to_raw(self) -> RawLattice:
        """The lattice as a decoder would give it, its states in topological order."""
        arcs = np.argsort(self.source, kind="stable")
        return RawLattice(
            start=self.start,
            final=self.final.astype(np.float32),
            source=self.source[arcs].astype(np.int32),
            labels=np.stack(
                [self.transition_ids, self.words, self.destination.astype(np.int32)], axis=1
            )[arcs],
            costs=self.costs[arcs].astype(np.float32),
        )

    @cached_property
    def first_arc_in(self) -> NDArray[np.int64]:
        """The first of the arcs into each state, then the number of arcs; (states + 1,)."""
        return np.searchsorted(self.destination, np.arange(len(self.final) + 1))

    @cached_property
    def state_frames(self) -> NDArray[np.int64]:
        """Frames consumed on the way to each state; in a decoder's lattice on every way."""
        frames = np.zeros(len(self.final), dtype=np.int64)
        emits = (self.transition_ids != 0).astype(np.int64)
        first_arc = self.first_arc_in
        for low, high in zip(self.levels[1:-1], self.levels[2:], strict=True):
            arcs = slice(first_arc[low], first_arc[high])
            starts = first_arc[low:high] - first_arc[low]
            longest = frames[self.source[arcs]] + emits[arcs]
            np.maximum.reduceat(longest, starts, out=frames[low:high])
        return frames

    def rescored(
        self, log_likelihoods: NDArray[np.float32], pdf_of_transition_id: NDArray[np.integer]
    ) -> "Lattice":
        """Replace the acoustic costs by those of other scores (Kaldi: gmm-rescore-lattice).

        Args:
            log_likelihoods: Log-likelihoods of pdfs for the same frames, (T, P).
            pdf_of_transition_id: It begins with the pdf of transition id 1.

        Raises:
            DataError: The lattice has other frames than the scores.
        """
        frames = int(self.state_frames.max())
        if frames != len(log_likelihoods):
            raise DataError(f"scores of {len(log_likelihoods)} frames, a lattice of {frames}")
        emitting = self.transition_ids != 0
        pdfs = pdf_of_transition_id[self.transition_ids[emitting] - 1]
        costs, final = self.costs.copy(), self.final.copy()
        costs[:, 1] = 0.0
        costs[emitting, 1] = -log_likelihoods[self.state_frames[self.source[emitting]], pdfs]
        final[np.isfinite(final[:, 1]), 1] = 0.0
        return replace(self, final=final, costs=costs)


@dataclass(frozen=True)
class BestPath:
    """The best path of a lattice under one setting of the weights.

    Attributes:
        arcs: Indices of its arcs, in order.
        words: Word ids along it.
        cost: Its cost: graph + acoustic / LM weight + penalty a word.
    """

    arcs: NDArray[np.int64]
    words: NDArray[np.int32]
    cost: float


def best_paths(lattice: Lattice, settings: Sequence[tuple[float, float]]) -> list[BestPath]:
    """Find the best path for each (language-model weight, word insertion penalty).

    The same as Kaldi's lattice-scale --inv-acoustic-scale=WEIGHT, lattice-add-penalty
    --word-ins-penalty=PENALTY and lattice-best-path, but in one Viterbi pass with a cost for
    every setting at each state, in double precision.

    Raises:
        DataError: No final state can be reached.
    """
    settings_a_pass = max(1, _CELLS_A_PASS // max(1, len(lattice.source)))
    paths: list[BestPath] = []
    for first in range(0, len(settings), settings_a_pass):
        paths += _best_paths(lattice, settings[first : first + settings_a_pass])
    return paths


def _best_paths(lattice: Lattice, settings: Sequence[tuple[float, float]]) -> list[BestPath]:
    weights, penalties = np.array(settings, dtype=np.float64).T
    scales = np.stack([np.ones_like(weights), 1.0 / weights])
    arc_costs = lattice.costs @ scales + (lattice.words != 0)[:, np.newaxis] * penalties

    first_arc = lattice.first_arc_in
    best = np.full((len(lattice.final), len(settings)), np.inf)
    best[lattice.start] = 0.0
    for low, high in zip(lattice.levels[1:-1], lattice.levels[2:], strict=True):
        arcs = slice(first_arc[low], first_arc[high])
        # From here on a row holds the cost of the best path that ends with this arc.
        arc_costs[arcs] += best[lattice.source[arcs]]
        starts = first_arc[low:high] - first_arc[low]
        np.minimum.reduceat(arc_costs[arcs], starts, axis=0, out=best[low:high])

    with np.errstate(invalid="ignore"):
        totals = best + lattice.final @ scales
    ends = np.nanargmin(np.where(np.isnan(totals), np.inf, totals), axis=0)
    costs = totals[ends, np.arange(len(settings))]
    if not np.isfinite(costs).all():
        raise DataError("no path through the lattice reaches a final state")
    arcs_back = _trace_back(lattice, arc_costs, best, first_arc, ends)
    return [
        BestPath(path, lattice.words[path][lattice.words[path] != 0], float(cost))
        for path, cost in zip(arcs_back, costs, strict=True)
    ]


def _trace_back(
    lattice: Lattice,
    arc_costs: NDArray[np.float64],
    best: NDArray[np.float64],
    first_arc: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> list[NDArray[np.int64]]:
    """Follow the best arcs backwards from the final states, for all settings at once."""
    columns = np.arange(len(ends))
    entered = np.flatnonzero(np.diff(first_arc))
    arc_numbers = np.arange(len(lattice.source))[:, np.newaxis]
    winners = np.where(arc_costs == best[lattice.destination], arc_numbers, -1)
    best_arc = np.full(best.shape, -1, dtype=np.int64)
    if len(entered):
        best_arc[entered] = np.maximum.reduceat(winners, first_arc[entered], axis=0)
    # At the start the path stays where it is, until the longest one has got there too.
    best_arc[lattice.start] = -1
    source = np.append(lattice.source, lattice.start)
    states, steps = ends, []
    while (states != lattice.start).any():
        steps.append(best_arc[states, columns])
        states = source[steps[-1]]
    if not steps:
        return [np.empty(0, dtype=np.int64) for _ in columns]
    traced = np.array(steps[::-1])
    return [column[column >= 0] for column in traced.T]


def _levels(
    source: NDArray[np.int32], destination: NDArray[np.int64], num_states: int
) -> NDArray[np.int64]:
    """The length of the longest path to each state (Kahn's algorithm)."""
    following: list[list[int]] = [[] for _ in range(num_states)]
    for tail, head in zip(source.tolist(), destination.tolist(), strict=True):
        following[tail].append(head)
    waiting_for = np.bincount(destination, minlength=num_states).tolist()
    level = [0] * num_states
    ready = [state for state in range(num_states) if not waiting_for[state]]
    done = 0
    while ready:
        state = ready.pop()
        done += 1
        above = level[state] + 1
        for head in following[state]:
            if level[head] < above:
                level[head] = above
            waiting_for[head] -= 1
            if not waiting_for[head]:
                ready.append(head)
    if done < num_states:
        raise DataError("the lattice has a cycle: the graph has a loop of empty labels")
    return np.array(level, dtype=np.int64)
