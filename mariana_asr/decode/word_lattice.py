"""Determinisation of a lattice on its words, keeping the best alignment of each word sequence.

Subset construction over (state, residual score), as Kaldi's DeterminizeLatticePruned does it; but
where Kaldi carries the alignments along as strings, here each subset remembers how its states were
reached, and alignments are traced back. Scores are negated costs.
"""

import heapq
import itertools
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RESIDUALS_A_UNIT = 1024
"""Residual scores within one part of this many of each other are equal (Kaldi's kDelta)."""

NONE = -np.inf


@dataclass(eq=False)
class WordNode:
    """A state of the determinised lattice: what follows is the same after all ways here.

    Attributes:
        elements: Lattice states that words on the way here lead to, each with its score after the
            best of them.
        best: Score of the best way here.
        forward: Logarithm of the sum over word sequences of all ways here.
        entered: The best arc into each lattice state reached from the elements without a word; no
            entry where the state is itself the best beginning.
        reached: These states, ascending.
        final: Score of ending here; infinitely low where nothing ends.
        final_state: The lattice state of the best end.
        arcs: What follows, one for each word.
    """

    elements: dict[int, float]
    best: float = NONE
    forward: float = NONE
    entered: dict[int, int] = field(default_factory=dict)
    reached: list[int] = field(default_factory=list)
    final: float = NONE
    final_state: int = -1
    arcs: list["WordArc"] = field(default_factory=list)


@dataclass(eq=False)
class WordArc:
    """A word, leading from one node to another.

    Attributes:
        score: Of the best way from the node's first element over the word.
        target: Where it leads.
        entries: The lattice arc with the word by which each of the target's elements is reached.
    """

    score: float
    target: WordNode
    entries: dict[int, int]


@dataclass(frozen=True)
class PrunedLattice:
    """A lattice as the construction takes it.

    Attributes:
        start: The start state.
        leaving: Of each state the arcs out of it: (destination, word, score, number).
        final: Final score of each state.
        remaining: Score of the best way from each state to the end.
    """

    start: int
    leaving: dict[int, list[tuple[int, int, float, int]]]
    final: list[float]
    remaining: list[float]


class TooManyStatesError(Exception):
    """The determinised lattice would be too large."""


def determinise(lattice: PrunedLattice, beam: float, max_states: int | None) -> list[WordNode]:
    """Determinise a lattice whose states are in topological order.

    Args:
        lattice: It.
        beam: Ways that are worse than the best path by more are left out.
        max_states: How many lattice states all nodes together may reach; None for any number.

    Returns:
        The nodes in topological order, the start first.

    Raises:
        TooManyStatesError: They reach more.
    """
    threshold = lattice.remaining[lattice.start] - beam
    start = WordNode({lattice.start: 0.0}, best=0.0, forward=0.0)
    nodes: list[WordNode] = []
    known: dict[tuple[tuple[int, int], ...], WordNode] = {}
    number = itertools.count()
    states = 0
    # The lowest of a node's elements has come over an arc from a higher state than the lowest of
    # the node before. So whatever leads to a node is done before the node is.
    waiting = [(lattice.start, next(number), start)]
    while waiting:
        _, _, node = heapq.heappop(waiting)
        nodes.append(node)
        following = _expand(node, lattice, threshold)
        states += len(node.reached)
        if max_states is not None and states > max_states:
            raise TooManyStatesError
        for reached in following.values():
            score = max(score for score, _ in reached.values())
            elements = {state: found - score for state, (found, _) in reached.items()}
            key = tuple(
                sorted((state, round(left * RESIDUALS_A_UNIT)) for state, left in elements.items())
            )
            target = known.get(key)
            if target is None:
                target = known[key] = WordNode(elements)
                heapq.heappush(waiting, (key[0][0], next(number), target))
            target.best = max(target.best, node.best + score)
            target.forward = float(np.logaddexp(target.forward, node.forward + score))
            entries = {state: arc for state, (_, arc) in reached.items()}
            node.arcs.append(WordArc(score, target, entries))
    return nodes


def _expand(
    node: WordNode, lattice: PrunedLattice, threshold: float
) -> dict[int, dict[int, tuple[float, int]]]:
    """Follow arcs without words from a node's elements, as far as they go.

    Returns:
        For each word that comes next, the states after it with the score and the last arc of the
        best way there.
    """
    threshold -= node.best
    scores = dict(node.elements)
    waiting = sorted(scores)
    following: dict[int, dict[int, tuple[float, int]]] = defaultdict(dict)
    while waiting:
        state = heapq.heappop(waiting)
        node.reached.append(state)
        score = scores[state]
        end = score + lattice.final[state]
        if end >= threshold and end > node.final:
            node.final, node.final_state = end, state
        for destination, word, own, arc in lattice.leaving.get(state, ()):
            total = score + own
            if total + lattice.remaining[destination] < threshold:
                continue
            if word:
                known = following[word].get(destination)
                if known is None or total > known[0]:
                    following[word][destination] = total, arc
            else:
                before = scores.get(destination)
                if before is None:
                    heapq.heappush(waiting, destination)
                if before is None or total > before:
                    scores[destination] = total
                    node.entered[destination] = arc
    return following


def arc_posteriors(nodes: list[WordNode], source: NDArray[np.integer]) -> NDArray[np.float64]:
    """Posterior of each arc of the lattice, given its source states.

    A word sequence has the score of its best alignment, and all arcs of that share its posterior.
    """
    index = {id(node): place for place, node in enumerate(nodes)}
    backward = np.full(len(nodes), NONE)
    for place in range(len(nodes) - 1, -1, -1):
        ways = [arc.score + backward[index[id(arc.target)]] for arc in nodes[place].arcs]
        backward[place] = np.logaddexp.reduce([nodes[place].final, *ways])
    total = backward[0]

    posteriors = np.zeros(len(source))
    tails = source.tolist()
    # What each element of a node passes on; shared among the ways to the node by their weight.
    of_elements: dict[int, dict[int, float]] = {}
    for place in range(len(nodes) - 1, -1, -1):
        node = nodes[place]
        mass: dict[int, float] = defaultdict(float)
        if node.final_state >= 0:
            mass[node.final_state] += float(np.exp(node.forward + node.final - total))
        for word_arc in node.arcs:
            share = float(np.exp(node.forward + word_arc.score - word_arc.target.forward))
            passed = of_elements[id(word_arc.target)]
            for state, arc in word_arc.entries.items():
                if state in passed:
                    posteriors[arc] += passed[state] * share
                    mass[tails[arc]] += passed[state] * share
        for state in reversed(node.reached):
            if state in mass and state in node.entered:
                arc = node.entered[state]
                posteriors[arc] += mass[state]
                mass[tails[arc]] += mass.pop(state)
        of_elements[id(node)] = mass
    return posteriors
