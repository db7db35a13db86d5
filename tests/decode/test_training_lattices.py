"""Lattices to train on are the decoder's, path by path."""

import numpy as np
import pytest
from hypothesis import given, settings
from made_lattices import raw_lattice
from test_posteriors import frame_lattices

from mariana_asr.decode.training_lattices import sequence_lattice
from mariana_asr.engine.sequence.lattice import NO_CLASS
from mariana_asr.errors import DataError

PDFS = np.array([4, 0, 2, 2, 7])
"""Pdfs of the transition ids 1 to 5."""


def paths_of_raw(raw):
    """Every path to a final state: (pdf of each frame, score of the graph), rounded."""
    waiting = [(raw.start, (), 0.0)]
    while waiting:
        state, pdfs, score = waiting.pop()
        if np.isfinite(raw.final[state]).all():
            yield pdfs, round(score - float(raw.final[state, 0]), 4)
        for arc in np.flatnonzero(raw.source == state):
            tid, _, target = raw.labels[arc].tolist()
            taken = (*pdfs, int(PDFS[tid - 1])) if tid else pdfs
            waiting.append((target, taken, score - float(raw.costs[arc, 0])))


def paths_of_made(lattice):
    waiting = [(0, (), 0.0)]
    while waiting:
        state, pdfs, score = waiting.pop()
        if state == lattice.num_states - 1:
            yield pdfs, round(score, 4)
        for arc in np.flatnonzero(lattice.source == state):
            label = int(lattice.classes[arc])
            if label != NO_CLASS:
                assert lattice.frames[arc] == len(pdfs)
            taken = pdfs if label == NO_CLASS else (*pdfs, label)
            waiting.append(
                (int(lattice.destination[arc]), taken, score + float(lattice.scores[arc]))
            )


@given(frame_lattices())
@settings(max_examples=150, deadline=None)
def test_every_path_of_the_decoders_lattice_is_there_with_its_graph_score(raw):
    expected = list(paths_of_raw(raw))
    if not expected:
        with pytest.raises(DataError, match="utt: no path through the lattice reaches a final"):
            sequence_lattice(raw, PDFS, "utt")
        return
    lattice = sequence_lattice(raw, PDFS, "utt")
    found = sorted(paths_of_made(lattice))
    assert [pdfs for pdfs, _ in found] == [pdfs for pdfs, _ in sorted(expected)]
    np.testing.assert_allclose(
        [score for _, score in found], [score for _, score in sorted(expected)], atol=2e-3
    )
    # No arc leads nowhere, and none comes from nowhere.
    inner = range(1, lattice.num_states - 1)
    assert set(inner) <= set(lattice.source.tolist()) & set(lattice.destination.tolist())
    assert (lattice.destination > lattice.source).all()
    assert (np.diff(lattice.destination) >= 0).all()
    levels = np.searchsorted(lattice.levels, np.arange(lattice.num_states), side="right")
    assert (levels[lattice.destination] > levels[lattice.source]).all()


def test_ends_keep_their_costs_and_dead_ends_go():
    arcs = [
        (0, 1, 5, 1, 1.0, 20.0),
        (0, 2, 6, 2, 2.0, 10.0),
        (0, 3, 0, 3, 0.5, 10.0),
    ]
    lattice = sequence_lattice(raw_lattice(4, arcs, {1: (0.25, 0.0), 2: (0.0, 0.0)}), PDFS, "utt")
    assert sorted(paths_of_made(lattice)) == [((0,), -2.0), ((4,), -1.25)]
    assert lattice.num_frames == 1
