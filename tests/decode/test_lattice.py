"""Best paths through lattices, against enumeration of all paths and against kaldifst."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mariana_asr.decode import lattice as lattice_module
from mariana_asr.decode.lattice import Lattice, best_paths
from mariana_asr.decode.lattice_file import RawLattice, lattice_from_bytes, lattice_to_bytes
from mariana_asr.errors import DataError, FormatError
from mariana_asr.kaldi import kaldifst

SETTINGS = [(7.0, 0.0), (7.0, 1.0), (12.5, -0.5), (17.0, 0.5)]


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
