"""Small lattices made at random, and all of their paths."""

import math

import numpy as np

from mariana_asr.engine.sequence.lattice import NO_CLASS, SequenceLattice


def lattice_of(num_states, arcs):
    """From arcs (source, destination, class, frame, score), each on a path from 0 to the last.

    States have to be numbered so that arcs lead upwards; they are sorted by level here.
    """
    level = [0] * num_states
    for source, destination, *_ in sorted(arcs):
        level[destination] = max(level[destination], level[source] + 1)
    order = sorted(range(num_states), key=lambda state: (level[state], state))
    rank = {state: place for place, state in enumerate(order)}
    arcs = sorted(((rank[a[0]], rank[a[1]], *a[2:]) for a in arcs), key=lambda arc: arc[1])
    levels = [level[state] for state in order]
    source, destination, classes, frames, scores = zip(*arcs, strict=True)
    return SequenceLattice(
        levels=np.searchsorted(levels, np.arange(levels[-1] + 2)).astype(np.int32),
        source=np.array(source, dtype=np.int32),
        destination=np.array(destination, dtype=np.int32),
        classes=np.array(classes, dtype=np.int32),
        frames=np.array(frames, dtype=np.int32),
        scores=np.array(scores, dtype=np.float32),
    )


def random_sequence_lattice(rng, frames, classes, width=3, empty_arcs=True):
    """Between frames up to ``width`` states, some with an arc that takes no frame between them."""
    arcs, states, count = [], [0], 1
    for frame in range(frames):
        last = frame == frames - 1
        nodes = list(range(count, count + int(rng.integers(1, width + 1))))
        count += len(nodes)
        # Every state has a way on and a way back.
        pairs = {(state, int(rng.choice(nodes))) for state in states}
        pairs |= {(int(rng.choice(states)), node) for node in nodes}
        for source, destination in sorted(pairs):
            for _ in range(int(rng.integers(1, 3))):
                label = int(rng.integers(classes))
                arcs.append((source, destination, label, frame, rng.normal()))
        if empty_arcs and rng.random() < 0.6:
            arcs += [(node, count, NO_CLASS, 0, rng.normal()) for node in nodes]
            nodes = [count] if last or rng.random() < 0.5 else [*nodes, count]
            count += 1
        states = nodes
    if len(states) > 1:
        arcs += [(state, count, NO_CLASS, 0, rng.normal()) for state in states]
        count += 1
    return lattice_of(count, arcs)


def paths_of(lattice):
    """Every path: (score without the acoustic one, class of each frame)."""
    leaving = {}
    for arc, source in enumerate(lattice.source.tolist()):
        leaving.setdefault(source, []).append(arc)
    waiting = [(0, 0.0, ())]
    while waiting:
        state, score, classes = waiting.pop()
        if state == lattice.num_states - 1:
            yield score, classes
        for arc in leaving.get(state, ()):
            label = int(lattice.classes[arc])
            if label != NO_CLASS:
                assert lattice.frames[arc] == len(classes)
            taken = classes if label == NO_CLASS else (*classes, label)
            waiting.append(
                (int(lattice.destination[arc]), score + float(lattice.scores[arc]), taken)
            )


def plain_losses(lattice, scores, targets, groups, boost=0.0):
    """(expected right frames, MMI) by writing out every path; ``scores`` are scaled, (T, P)."""
    weights, right = [], []
    for score, classes in paths_of(lattice):
        correct = [groups[c] == groups[t] for c, t in zip(classes, targets, strict=True)]
        acoustic = sum(scores[frame][c] for frame, c in enumerate(classes))
        weights.append(score + acoustic + boost * (len(classes) - sum(correct)))
        right.append(sum(correct))
    highest = max(weights)
    shares = [math.exp(weight - highest) for weight in weights]
    total = sum(shares)
    expected = sum(share * value for share, value in zip(shares, right, strict=True)) / total
    reference = sum(scores[frame][target] for frame, target in enumerate(targets))
    return expected, reference - (highest + math.log(total))
