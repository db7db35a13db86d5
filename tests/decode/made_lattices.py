"""Lattices made by hand or at random."""

import numpy as np

from mariana_asr.decode.lattice_file import RawLattice


def raw_lattice(num_states, arcs, final, start=0):
    """From arcs (source, transition id, word, next state, graph cost, acoustic cost)."""
    arcs = sorted(arcs, key=lambda arc: arc[0])
    final_costs = np.full((num_states, 2), np.inf, dtype=np.float32)
    for state, cost in final.items():
        final_costs[state] = cost
    return RawLattice(
        start=start,
        final=final_costs,
        source=np.array([arc[0] for arc in arcs], dtype=np.int32),
        labels=np.array([arc[1:4] for arc in arcs], dtype=np.int32).reshape(-1, 3),
        costs=np.array([arc[4:6] for arc in arcs], dtype=np.float32).reshape(-1, 2),
    )


def all_paths(raw):
    """Every path from the start to a final state: (words, graph cost, acoustic cost)."""
    waiting = [(raw.start, (), 0.0, 0.0)]
    while waiting:
        state, words, graph, acoustic = waiting.pop()
        if np.isfinite(raw.final[state]).all():
            yield words, graph + raw.final[state, 0], acoustic + raw.final[state, 1]
        for arc in np.flatnonzero(raw.source == state):
            _, word, target = raw.labels[arc].tolist()
            waiting.append(
                (
                    target,
                    words + (word,) * (word != 0),
                    graph + float(raw.costs[arc, 0]),
                    acoustic + float(raw.costs[arc, 1]),
                )
            )


def random_lattice(frames=40, width=6, seed=0):
    """A lattice such as a decoder makes: every state of a frame to some of the next frame."""
    rng = np.random.default_rng(seed)
    arcs = []
    for frame in range(frames):
        for source in range(width if frame else 1):
            tail = 1 + (frame - 1) * width + source if frame else 0
            for target in rng.choice(width, 3, replace=False):
                word = int(rng.integers(1, 9)) if rng.random() < 0.3 else 0
                costs = rng.uniform(0, 5), rng.uniform(20, 80)
                arcs.append(
                    (tail, int(rng.integers(1, 30)), word, 1 + frame * width + target, *costs)
                )
    last = 1 + (frames - 1) * width
    final = {last + i: (float(rng.uniform(0, 2)), 0.0) for i in range(width)}
    return raw_lattice(last + width, arcs, final)
