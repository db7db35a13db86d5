"""Of a lattice the best alignment of each word sequence, and nothing else."""

import numpy as np

from mariana_asr.decode.lattice import Lattice
from mariana_asr.decode.lattice_file import RawLattice
from mariana_asr.decode.posteriors import word_nodes


def best_alignments(lattice: Lattice, *, acoustic_scale: float, beam: float) -> RawLattice:
    """Determinise a lattice on its words.

    As Kaldi's lattice-determinize-pruned and lattice-copy from its compact lattice do: each word
    sequence within the beam has one path, the best of those that it had.

    Args:
        lattice: With unscaled acoustic costs.
        acoustic_scale: What acoustic costs are multiplied by.
        beam: Word sequences worse than the best one by more than this are left out.

    Returns:
        A lattice as a decoder would give it; it may have ways that lead nowhere.

    Raises:
        DataError: No final state can be reached.
    """
    nodes = word_nodes(lattice, acoustic_scale=acoustic_scale, beam=beam)
    # A state for each state of the lattice that a node reaches. Read from the end, what came
    # before it is one arc within its node, or one arc from each node before.
    index = {id(node): place for place, node in enumerate(nodes)}
    states: dict[tuple[int, int], int] = {}
    for place, node in enumerate(nodes):
        for state in node.reached:
            states[place, state] = len(states)
    tails = lattice.source.tolist()
    source, destination, arcs = [], [], []
    for place, node in enumerate(nodes):
        within = ((place, state, arc) for state, arc in node.entered.items())
        onwards = (
            (index[id(word.target)], state, arc)
            for word in node.arcs
            for state, arc in word.entries.items()
            if state not in word.target.entered
        )
        for target, state, arc in (*within, *onwards):
            if (target, state) in states:
                source.append(states[place, tails[arc]])
                destination.append(states[target, state])
                arcs.append(arc)
    final = np.full((len(states), 2), np.inf, dtype=np.float32)
    for place, node in enumerate(nodes):
        if node.final_state >= 0:
            final[states[place, node.final_state]] = lattice.final[node.final_state]
    order = np.argsort(source, kind="stable")
    chosen = np.array(arcs, dtype=np.int64)[order]
    labels = np.stack(
        [lattice.transition_ids[chosen], lattice.words[chosen], np.array(destination)[order]],
        axis=1,
    )
    return RawLattice(
        start=states[0, lattice.start],
        final=final,
        source=np.array(source, dtype=np.int32)[order],
        labels=labels.astype(np.int32),
        costs=lattice.costs[chosen].astype(np.float32),
    )
