"""Best paths through lattices, against enumeration of all paths and against kaldifst."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_lattices import all_paths, random_lattice, raw_lattice

from mariana_asr.decode import lattice as lattice_module
from mariana_asr.decode.lattice import Lattice, best_paths
from mariana_asr.decode.lattice_file import lattice_from_bytes, lattice_to_bytes
from mariana_asr.errors import DataError, FormatError
from mariana_asr.kaldi import kaldifst

SETTINGS = [(7.0, 0.0), (7.0, 1.0), (12.5, -0.5), (17.0, 0.5)]


@st.composite
def raw_lattices(draw):
    """Acyclic lattices with states in any order, dead ends and unreachable states among them."""
    num_states = draw(st.integers(1, 7))
    order = draw(st.permutations(range(num_states)))
    pairs = list(itertools.combinations(range(num_states), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=14)) if pairs else []
    costs = st.integers(-40, 40).map(lambda n: n / 8)
    arcs = [
        (
            order[a],
            draw(st.integers(0, 2)),
            draw(st.integers(0, 3)),
            order[b],
            draw(costs),
            draw(costs),
        )
        for a, b in chosen
    ]
    final = {
        state: (draw(costs), draw(costs))
        for state in draw(st.sets(st.sampled_from(range(num_states)), min_size=1))
    }
    return raw_lattice(num_states, arcs, final, start=order[0])


@given(raw_lattices())
@settings(max_examples=200, deadline=None)
def test_best_path_is_the_best_of_all_paths_for_every_setting(raw):
    paths = list(all_paths(raw))
    if not paths:
        with pytest.raises(DataError, match="no path"):
            best_paths(Lattice.from_raw(raw), SETTINGS)
        return
    for (weight, penalty), best in zip(
        SETTINGS, best_paths(Lattice.from_raw(raw), SETTINGS), strict=True
    ):
        costs = {}
        for words, graph, acoustic in paths:
            cost = graph + acoustic / weight + penalty * len(words)
            costs[words] = min(cost, costs.get(words, np.inf))
        assert best.cost == pytest.approx(min(costs.values()), abs=1e-6)
        assert costs[tuple(best.words.tolist())] == pytest.approx(best.cost, abs=1e-6)


@given(raw_lattices())
@settings(max_examples=50, deadline=None)
def test_arcs_of_a_best_path_join_start_and_cost(raw):
    lattice = Lattice.from_raw(raw)
    if not any(True for _ in all_paths(raw)):
        return
    for (weight, penalty), best in zip(SETTINGS, best_paths(lattice, SETTINGS), strict=True):
        state, cost = lattice.start, 0.0
        for arc in best.arcs.tolist():
            assert lattice.source[arc] == state
            state = lattice.destination[arc]
            cost += lattice.costs[arc, 0] + lattice.costs[arc, 1] / weight
            cost += penalty * (lattice.words[arc] != 0)
        cost += lattice.final[state, 0] + lattice.final[state, 1] / weight
        assert cost == pytest.approx(best.cost)


@pytest.mark.parametrize("weight", [7.0, 11.0, 17.0])
def test_best_path_is_that_of_kaldifst_on_the_scaled_lattice(tmp_path: Path, weight):
    raw = random_lattice()
    (tmp_path / "lat").write_bytes(lattice_to_bytes(raw))
    reference = kaldifst.Lattice.read(str(tmp_path / "lat"))
    kaldifst.scale_lattice(kaldifst.lattice_scale(1.0, 1.0 / weight), reference)
    linear = kaldifst.shortest_path(reference)
    _, transition_ids, words, cost = kaldifst.get_linear_symbol_sequence(linear)

    lattice = Lattice.from_raw(raw)
    (best,) = best_paths(lattice, [(weight, 0.0)])
    assert best.words.tolist() == words
    assert lattice.transition_ids[best.arcs].tolist() == transition_ids
    assert best.cost == pytest.approx(cost.value1 + cost.value2, rel=1e-5)


def test_long_utterances_are_handled_in_several_passes_with_equal_paths(monkeypatch):
    lattice = Lattice.from_raw(random_lattice())
    at_once = best_paths(lattice, SETTINGS)
    monkeypatch.setattr(lattice_module, "_CELLS_A_PASS", 1)
    for one, other in zip(at_once, best_paths(lattice, SETTINGS), strict=True):
        assert one.words.tolist() == other.words.tolist()
        assert one.cost == other.cost


def test_a_lattice_of_one_state_has_the_empty_path():
    lattice = Lattice.from_raw(raw_lattice(1, [], {0: (0.5, 0.0)}))
    for best in best_paths(lattice, SETTINGS):
        assert best.words.tolist() == []
        assert best.cost == 0.5


def test_a_lattice_with_a_cycle_is_refused():
    arcs = [(0, 1, 0, 1, 0.0, 1.0), (1, 0, 0, 2, 0.0, 0.0), (2, 0, 0, 1, 0.0, 0.0)]
    with pytest.raises(DataError, match="cycle"):
        Lattice.from_raw(raw_lattice(3, arcs, {2: (0.0, 0.0)}))


def test_lattices_written_here_are_read_by_openfst_and_back(tmp_path: Path):
    raw = random_lattice(frames=5)
    (tmp_path / "ours").write_bytes(lattice_to_bytes(raw))
    fst = kaldifst.Lattice.read(str(tmp_path / "ours"))
    assert fst.num_states == len(raw.final)
    fst.write(str(tmp_path / "theirs"))
    back = lattice_from_bytes((tmp_path / "theirs").read_bytes(), "utterance")
    assert back.start == raw.start
    for name in ("final", "source", "labels", "costs"):
        np.testing.assert_array_equal(getattr(back, name), getattr(raw, name))


@pytest.mark.parametrize("kept", [0, 3, 30, 60, 100, -1])
def test_a_lattice_cut_short_is_refused(kept):
    content = lattice_to_bytes(random_lattice(frames=3))
    with pytest.raises(FormatError, match=r"^utt-1: "):
        lattice_from_bytes(content[:kept], "utt-1")


def test_an_fst_that_is_no_lattice_is_refused(tmp_path: Path):
    fst = kaldifst.StdVectorFst()
    fst.add_state()
    fst.start = 0
    fst.write(str(tmp_path / "fst"))
    with pytest.raises(FormatError, match="not a state-level lattice"):
        lattice_from_bytes((tmp_path / "fst").read_bytes(), "utt-1")


def test_frames_of_states_count_the_emitting_arcs_on_the_way():
    arcs = [
        (0, 3, 0, 1, 0.0, 1.0),
        (0, 3, 7, 2, 0.0, 1.0),
        (1, 0, 7, 2, 0.5, 0.0),
        (2, 5, 0, 3, 0.0, 1.0),
        (3, 0, 0, 4, 0.0, 0.0),
    ]
    lattice = Lattice.from_raw(raw_lattice(5, arcs, {4: (0.0, 0.0)}))
    assert lattice.state_frames.tolist() == [0, 1, 1, 2, 2]


def test_rescored_paths_cost_their_new_scores_and_the_old_graph():
    raw = random_lattice(frames=6, width=3)
    lattice = Lattice.from_raw(raw)
    pdfs = np.arange(30) % 7
    scores = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)
    rescored = lattice.rescored(scores, pdfs)
    graph = [cost for cost, _ in lattice.costs.tolist()]
    for best in best_paths(rescored, SETTINGS):
        tids = lattice.transition_ids[best.arcs]
        acoustic = -sum(float(scores[t, pdfs[tid - 1]]) for t, tid in enumerate(tids.tolist()))
        np.testing.assert_allclose(rescored.costs[best.arcs, 1].sum(), acoustic, rtol=1e-6)
        assert rescored.costs[best.arcs, 0].sum() == sum(graph[arc] for arc in best.arcs)
    assert best_paths(rescored, SETTINGS)[0].cost != best_paths(lattice, SETTINGS)[0].cost


def test_rescoring_with_another_number_of_frames_is_refused():
    lattice = Lattice.from_raw(random_lattice(frames=6))
    with pytest.raises(DataError, match="scores of 5 frames, a lattice of 6"):
        lattice.rescored(np.zeros((5, 30), dtype=np.float32), np.arange(30))


@given(raw_lattices())
@settings(max_examples=50, deadline=None)
def test_sorting_a_lattice_and_back_keeps_its_paths(raw):
    back = Lattice.from_raw(raw).to_raw()
    assert (np.diff(back.source) >= 0).all()
    assert sorted(all_paths(back)) == sorted(all_paths(raw))
