"""Posteriors of transition ids in a lattice: which HMM state a frame belongs to, how surely."""

import logging
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mariana_asr.decode.lattice import Lattice
from mariana_asr.decode.word_lattice import (
    PrunedLattice,
    TooManyStatesError,
    WordNode,
    arc_posteriors,
    determinise,
)
from mariana_asr.errors import DataError

logger = logging.getLogger(__name__)

Doubles = NDArray[np.float64]

MAX_STATES = 300_000
"""States that a determinised lattice may reach; about 100 MB."""

_LEAST_BEAM = 0.01
"""From here on the number of states is not limited: little more than the best path is left."""


@dataclass(frozen=True)
class Posteriors:
    """Weighted labels of frames, such as Kaldi's ``Posterior`` holds.

    Attributes:
        frames: Frame of each entry, ascending; a frame may have several entries, or none.
        labels: Transition id (or pdf) of each entry, ascending within a frame.
        weights: Its posterior, times whatever it counts for.
    """

    frames: NDArray[np.int64]
    labels: NDArray[np.int32]
    weights: Doubles

    @classmethod
    def summed(
        cls, frames: NDArray[np.integer], labels: NDArray[np.integer], weights: Doubles
    ) -> "Posteriors":
        """Sort entries, add up those of the same frame and label, and drop those of weight 0."""
        size = int(labels.max(initial=0)) + 1
        keys, entry = np.unique(frames.astype(np.int64) * size + labels, return_inverse=True)
        sums = np.bincount(entry, weights, minlength=len(keys))
        kept = sums != 0.0
        keys = keys[kept]
        return cls(keys // size, (keys % size).astype(np.int32), sums[kept])

    def weighted(self, factors: NDArray[np.floating]) -> "Posteriors":
        """Multiply each entry by the factor of its label (Kaldi: weight-silence-post)."""
        return Posteriors.summed(self.frames, self.labels, self.weights * factors[self.labels])

    def relabelled(self, labels: NDArray[np.integer]) -> "Posteriors":
        """Replace each label by ``labels[label]``, such as transition ids by their pdfs."""
        return Posteriors.summed(self.frames, labels[self.labels], self.weights)


def lattice_posteriors(
    lattice: Lattice, *, acoustic_scale: float, beam: float, max_states: int = MAX_STATES
) -> Posteriors:
    """Posteriors of the transition ids of each frame.

    The same as Kaldi's lattice-determinize-pruned --beam=BEAM and lattice-to-post, both with
    --acoustic-scale=SCALE: every word sequence within the beam has the score of its best
    alignment, and probability is shared out among the word sequences.

    Args:
        lattice: With unscaled acoustic costs.
        acoustic_scale: What acoustic costs are multiplied by.
        beam: Word sequences worse than the best one by more than this are left out.
        max_states: Where there are so many word sequences that the determinised lattice would
            reach more states than this, the beam is halved until it does not.

    Returns:
        Entries labelled with transition ids; those of one frame add up to 1.

    Raises:
        DataError: No final state can be reached.
    """
    nodes = word_nodes(lattice, acoustic_scale=acoustic_scale, beam=beam, max_states=max_states)
    weights = arc_posteriors(nodes, lattice.source)
    emitting = np.flatnonzero((lattice.transition_ids != 0) & (weights > 0.0))
    return Posteriors.summed(
        lattice.state_frames[lattice.source[emitting]],
        lattice.transition_ids[emitting],
        weights[emitting],
    )


def word_nodes(
    lattice: Lattice, *, acoustic_scale: float, beam: float, max_states: int = MAX_STATES
) -> list[WordNode]:
    """Determinise a lattice on its words, keeping the best alignment of each word sequence.

    Arguments and errors are those of :func:`lattice_posteriors`.

    Returns:
        The nodes in topological order, the start first.
    """
    scales = np.array([1.0, acoustic_scale])
    scores = -(lattice.costs @ scales)
    with np.errstate(invalid="ignore"):
        final = -(lattice.final @ scales)
    final[np.isnan(final)] = -np.inf
    remaining = _best_to_end(lattice, scores, final)
    best = remaining[lattice.start]
    if not np.isfinite(best):
        raise DataError("no path through the lattice reaches a final state")
    through = _best_from_start(lattice, scores)[lattice.source]
    through += scores + remaining[lattice.destination]
    nodes = None
    while nodes is None:
        pruned = _pruned(lattice, through >= best - beam, scores, final, remaining)
        try:
            nodes = determinise(pruned, beam, max_states if beam > _LEAST_BEAM else None)
        except TooManyStatesError:
            beam /= 2.0
            logger.debug("a lattice with very many word sequences is pruned to %g", beam)
    return nodes


def _pruned(
    lattice: Lattice,
    kept: NDArray[np.bool_],
    scores: Doubles,
    final: Doubles,
    remaining: Doubles,
) -> PrunedLattice:
    leaving: dict[int, list[tuple[int, int, float, int]]] = defaultdict(list)
    arcs = np.flatnonzero(kept)
    columns = (lattice.source, lattice.destination, lattice.words, scores)
    for source, *rest in zip(*(c[arcs].tolist() for c in columns), arcs.tolist(), strict=True):
        leaving[source].append(tuple(rest))
    return PrunedLattice(lattice.start, dict(leaving), final.tolist(), remaining.tolist())


def _best_from_start(lattice: Lattice, scores: Doubles) -> Doubles:
    """Score of the best path from the start to each state."""
    found = np.full(len(lattice.final), -np.inf)
    found[lattice.start] = 0.0
    first_arc = lattice.first_arc_in
    for low, high in zip(lattice.levels[1:-1], lattice.levels[2:], strict=True):
        arcs = slice(first_arc[low], first_arc[high])
        starts = first_arc[low:high] - first_arc[low]
        ways = scores[arcs] + found[lattice.source[arcs]]
        np.maximum.reduceat(ways, starts, out=found[low:high])
    return found


def _best_to_end(lattice: Lattice, scores: Doubles, final: Doubles) -> Doubles:
    """Score of the best path from each state to the end."""
    found = final.copy()
    order = np.argsort(lattice.source, kind="stable")
    destination, scores = lattice.destination[order], scores[order]
    # Runs of arcs that leave the same state, and between which runs each level lies.
    states, first_arc = np.unique(lattice.source[order], return_index=True)
    first_arc = np.append(first_arc, len(order))
    runs = np.searchsorted(states, lattice.levels)
    for low, high in zip(runs[-2::-1], runs[:0:-1], strict=True):
        if low == high:
            continue
        arcs = slice(first_arc[low], first_arc[high])
        starts = first_arc[low:high] - first_arc[low]
        following = np.maximum.reduceat(scores[arcs] + found[destination[arcs]], starts)
        found[states[low:high]] = np.maximum(found[states[low:high]], following)
    return found
