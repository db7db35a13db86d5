"""Posteriors in lattices, against every path written out."""

import math
from collections import defaultdict
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_lattices import random_lattice, raw_lattice

from mariana_asr.decode import word_lattice
from mariana_asr.decode.lattice import Lattice
from mariana_asr.decode.posteriors import Posteriors, lattice_posteriors
from mariana_asr.errors import DataError

SCALE = 0.25
EVERYTHING = 1e6


@st.composite
def frame_lattices(draw):
    """Lattices whose states lie between frames, with empty arcs, dead ends and merging words."""
    frames, width = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arcs, states = [], [[0]]
    count = 1
    for _ in range(frames):
        nodes = list(range(count, count + width))
        count += width
        for source in states[-1]:
            for target in rng.choice(nodes, rng.integers(1, width + 1), replace=False).tolist():
                for _ in range(rng.integers(1, 3)):
                    word = int(rng.choice([0, 0, 1, 2]))
                    costs = rng.normal(scale=2.0), rng.normal(scale=4.0)
                    arcs.append((source, int(rng.integers(1, 6)), word, target, *costs))
        if rng.random() < 0.5:
            word = int(rng.choice([0, 3]))
            arcs.append((nodes[-1], 0, word, count, rng.normal(), 0.0))
            nodes.append(count)
            count += 1
        states.append(nodes)
    ends = rng.choice(states[-1], rng.integers(1, len(states[-1]) + 1), replace=False)
    return raw_lattice(count, arcs, {int(end): (rng.normal(), 0.0) for end in ends})


def best_alignments(raw):
    """The lowest cost of each word sequence, and the transition ids of that path."""
    best = {}
    waiting = [(raw.start, (), (), 0.0)]
    while waiting:
        state, words, tids, cost = waiting.pop()
        if np.isfinite(raw.final[state]).all():
            whole = cost + float(raw.final[state, 0]) + SCALE * float(raw.final[state, 1])
            if words not in best or whole < best[words][0]:
                best[words] = whole, tids
        for arc in np.flatnonzero(raw.source == state):
            tid, word, target = raw.labels[arc].tolist()
            graph, acoustic = raw.costs[arc].tolist()
            waiting.append(
                (
                    target,
                    words + (word,) * (word != 0),
                    tids + (tid,) * (tid != 0),
                    cost + graph + SCALE * acoustic,
                )
            )
    return best


def expected_posteriors(best, beam):
    lowest = min((cost for cost, _ in best.values()), default=0.0)
    kept = [(cost, tids) for cost, tids in best.values() if cost <= lowest + beam]
    total = sum(math.exp(lowest - cost) for cost, _ in kept)
    sums = defaultdict(float)
    for cost, tids in kept:
        for frame, tid in enumerate(tids):
            sums[frame, tid] += math.exp(lowest - cost) / total
    return sums


def as_dict(found):
    entries = zip(found.frames.tolist(), found.labels.tolist(), strict=True)
    return dict(zip(entries, found.weights.tolist(), strict=True))


@given(frame_lattices())
@settings(max_examples=150, deadline=None)
def test_probability_is_shared_out_among_the_best_alignments_of_word_sequences(raw):
    best = best_alignments(raw)
    if not best:
        with pytest.raises(DataError, match="no path"):
            lattice_posteriors(Lattice.from_raw(raw), acoustic_scale=SCALE, beam=EVERYTHING)
        return
    # Fine enough that only equal residual scores count as equal.
    with mock.patch.object(word_lattice, "RESIDUALS_A_UNIT", 2**30):
        found = lattice_posteriors(Lattice.from_raw(raw), acoustic_scale=SCALE, beam=EVERYTHING)
    expected = expected_posteriors(best, EVERYTHING)
    assert as_dict(found) == pytest.approx(
        {key: value for key, value in expected.items() if value > 1e-300}, abs=1e-6
    )
    assert (np.diff(found.frames * 10 + found.labels) > 0).all()


@given(frame_lattices(), st.floats(0.1, 6.0))
@settings(max_examples=100, deadline=None)
def test_a_beam_leaves_out_word_sequences_that_are_worse(raw, beam):
    best = best_alignments(raw)
    if not best:
        return
    found = as_dict(lattice_posteriors(Lattice.from_raw(raw), acoustic_scale=SCALE, beam=beam))
    frames = 1 + max(frame for frame, _ in found)
    sums = np.zeros(frames)
    for (frame, _), weight in found.items():
        sums[frame] += weight
    np.testing.assert_allclose(sums, 1.0, atol=1e-9)
    # Those within the beam are all there; others only where they share what follows.
    everything = expected_posteriors(best, EVERYTHING)
    assert expected_posteriors(best, beam - 0.01).keys() <= found.keys() <= everything.keys()


def two_words_a_place(places, difference):
    """Word 1 or, at a higher cost, word 2 in each of many frames: 2 ** places word sequences."""
    arcs = []
    for place in range(places):
        arcs.append((place, 1, 1, place + 1, 0.0, 0.0))
        arcs.append((place, 2, 2, place + 1, difference, 0.0))
    return Lattice.from_raw(raw_lattice(places + 1, arcs, {places: (0.0, 0.0)}))


def test_word_sequences_with_the_same_rest_are_taken_together():
    found = lattice_posteriors(two_words_a_place(40, 0.5), acoustic_scale=1.0, beam=100.0)
    share = 1 / (1 + math.exp(-0.5))
    expected = {
        (place, word): [share, 1 - share][word - 1] for place in range(40) for word in (1, 2)
    }
    assert as_dict(found) == pytest.approx(expected, rel=1e-9)


def test_where_a_lattice_determinises_to_too_much_the_beam_is_narrowed():
    lattice = Lattice.from_raw(random_lattice(frames=12, width=5))
    wide = lattice_posteriors(lattice, acoustic_scale=SCALE, beam=16.0)
    narrow = lattice_posteriors(lattice, acoustic_scale=SCALE, beam=2.0)
    cut = lattice_posteriors(lattice, acoustic_scale=SCALE, beam=16.0, max_states=200)
    single = lattice_posteriors(lattice, acoustic_scale=SCALE, beam=16.0, max_states=1)
    assert len(narrow.frames) < len(cut.frames) < len(wide.frames)
    assert single.frames.tolist() == list(range(12))
    np.testing.assert_allclose(single.weights, 1.0)


def test_entries_of_the_same_frame_and_label_are_added_up():
    frames, labels = np.array([1, 0, 1, 1]), np.array([4, 2, 4, 3])
    found = Posteriors.summed(frames, labels, np.array([0.25, 1.0, 0.5, 0.25]))
    assert as_dict(found) == {(0, 2): 1.0, (1, 3): 0.25, (1, 4): 0.75}


def test_weights_of_labels_multiply_and_zero_removes():
    found = Posteriors(np.array([0, 1, 1]), np.array([1, 1, 2]), np.array([1.0, 0.25, 0.75]))
    assert as_dict(found.weighted(np.array([9.0, 0.1, 2.0]))) == pytest.approx(
        {(0, 1): 0.1, (1, 1): 0.025, (1, 2): 1.5}
    )
    assert as_dict(found.weighted(np.array([9.0, 0.0, 1.0]))) == {(1, 2): 0.75}


def test_labels_that_become_the_same_are_added_up():
    found = Posteriors(np.array([0, 1, 1]), np.array([1, 1, 2]), np.array([1.0, 0.25, 0.75]))
    assert as_dict(found.relabelled(np.array([-1, 7, 7]))) == {(0, 7): 1.0, (1, 7): 1.0}
