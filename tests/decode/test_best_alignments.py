"""One path for each word sequence, against every path written out."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_posteriors import EVERYTHING, SCALE, frame_lattices
from test_posteriors import best_alignments as plain_best_alignments

from mariana_asr.decode import word_lattice
from mariana_asr.decode.best_alignments import best_alignments
from mariana_asr.decode.lattice import Lattice
from mariana_asr.errors import DataError


def paths_of(raw):
    """Every path to a final state: (words, transition ids, cost)."""
    waiting = [(raw.start, (), (), 0.0)]
    while waiting:
        state, words, tids, cost = waiting.pop()
        if np.isfinite(raw.final[state]).all():
            end = float(raw.final[state, 0]) + SCALE * float(raw.final[state, 1])
            yield words, tids, cost + end
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


@given(frame_lattices(), st.sampled_from([EVERYTHING, 3.0]))
@settings(max_examples=150, deadline=None)
def test_each_word_sequence_has_its_best_alignment_once(raw, beam):
    expected = plain_best_alignments(raw)
    lattice = Lattice.from_raw(raw)
    if not expected:
        with pytest.raises(DataError, match="no path"):
            best_alignments(lattice, acoustic_scale=SCALE, beam=beam)
        return
    # Fine enough that only equal residual scores count as equal.
    with mock.patch.object(word_lattice, "RESIDUALS_A_UNIT", 2**30):
        found = list(paths_of(best_alignments(lattice, acoustic_scale=SCALE, beam=beam)))
    lowest = min(cost for cost, _ in expected.values())
    sequences = [words for words, _, _ in found]
    assert len(sequences) == len(set(sequences))
    within = {words for words, (cost, _) in expected.items() if cost < lowest + beam - 1e-3}
    assert within <= set(sequences) <= expected.keys()
    for words, tids, cost in found:
        assert (cost, tids) == (pytest.approx(expected[words][0], abs=1e-4), expected[words][1])
