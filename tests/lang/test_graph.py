"""HCLG against Kaldi's, and the operations it is made with."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lang_examples import monophone_model, path_cost

from mariana_asr.errors import FormatError, StageError
from mariana_asr.kaldi import kaldifst
from mariana_asr.lang.fst_arrays import FstArrays, from_fst, read_fst, to_fst
from mariana_asr.lang.fst_operations import (
    connect,
    push_special,
    remove_epsilons_locally,
    remove_symbols,
)
from mariana_asr.lang.grammar import make_grammar
from mariana_asr.lang.graph import make_graph
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.options import GraphOptions, WordLoopLm


def random_path(fst: FstArrays, generator: random.Random) -> tuple[list[int], list[int]]:
    """Input and output labels along a random walk."""
    inputs, outputs, state = [], [], fst.start
    first = np.searchsorted(fst.source, np.arange(fst.num_states + 1))
    while True:
        arcs = range(first[state], first[state + 1])
        if np.isfinite(fst.final[state]) and (not arcs or generator.random() < 0.3):
            return inputs, outputs
        arc = generator.choice(arcs)
        inputs += [int(fst.ilabel[arc])] if fst.ilabel[arc] else []
        outputs += [int(fst.olabel[arc])] if fst.olabel[arc] else []
        state = int(fst.target[arc])


@pytest.mark.parametrize("name", ["mono", "tri1", "tri3"])
def test_hclg_of_an4_scores_paths_as_kaldis_does(golden: Path, tmp_path: Path, name: str) -> None:
    from mariana_asr.align.formats.model_io import read_transition_model, read_tree

    folder = golden / "an4_kaldi" / name
    make_graph(
        golden / "an4_kaldi" / "lang",
        read_tree(folder / "tree"),
        read_transition_model(folder / "final.mdl"),
        tmp_path,
    )
    ours, theirs = read_fst(tmp_path / "HCLG.fst"), read_fst(folder / "HCLG.fst")
    arrays = [from_fst(fst) for fst in (ours, theirs)]
    assert len(arrays[0].source) <= 1.01 * len(arrays[1].source)
    generator = random.Random(name)
    # Transition ids of random walks through either graph must be paths of the other one, with
    # the same words. Minimisation rounds each arc's cost to a multiple of 1/1024.
    for walked in arrays:
        for _ in range(15):
            inputs, outputs = random_path(walked, generator)
            costs = [path_cost(fst, inputs, outputs) for fst in (ours, theirs)]
            assert None not in costs
            assert costs[0] == pytest.approx(costs[1], abs=1e-3 + len(inputs) / 1024)
    # As words alone: the cheapest way to say each string.
    words = sorted(set(arrays[1].olabel.tolist()) - {0})
    for length in (1, 2, 4):
        string = generator.choices(words, k=length)
        costs = [path_cost(fst, outputs=string) for fst in (ours, theirs)]
        assert costs[0] == pytest.approx(costs[1], abs=2e-2)


def test_graph_directory_holds_what_decoders_read(toy_lang: Lang, tmp_path: Path) -> None:
    make_grammar(toy_lang.path, WordLoopLm())
    tree, model = monophone_model(toy_lang)
    make_graph(toy_lang.path, tree, model, tmp_path / "graph")
    names = {str(f.relative_to(tmp_path / "graph")) for f in (tmp_path / "graph").rglob("*.*")}
    assert names >= {
        "HCLG.fst",
        "words.txt",
        "phones.txt",
        "disambig_tid.int",
        "phones/word_boundary.int",
        "phones/align_lexicon.int",
        "phones/silence.csl",
        "phones/disambig.int",
    }
    assert (tmp_path / "graph/num_pdfs").read_text() == f"{model.num_pdfs}\n"  # type: ignore[attr-defined]
    fst = from_fst(read_fst(tmp_path / "graph/HCLG.fst"))
    assert fst.ilabel.max() <= model.num_transition_ids  # type: ignore[attr-defined]
    assert read_lang(toy_lang.path).words["one"] in fst.olabel


def test_best_path_of_a_word_has_the_costs_of_its_parts(toy_lang: Lang, tmp_path: Path) -> None:
    make_grammar(toy_lang.path, WordLoopLm(words=["one", "ton"]))
    tree, model = monophone_model(toy_lang)
    options = GraphOptions(transition_scale=1.0, self_loop_scale=0.0)
    make_graph(toy_lang.path, tree, model, tmp_path, options)
    cost = path_cost(read_fst(tmp_path / "HCLG.fst"), outputs=[toy_lang.words["one"]])
    # Grammar: 1/2 and the end 1/3; no silence before and after: 1/2 each; the only way through
    # a phone of three states costs nothing without self-loops.
    assert cost == pytest.approx(math.log(2) + math.log(3) + 2 * math.log(2), abs=2e-2)


def test_remove_oov_takes_the_unknown_word_out(toy_lang: Lang, tmp_path: Path) -> None:
    make_grammar(toy_lang.path, WordLoopLm(words=["one", "<UNK>"]))
    tree, model = monophone_model(toy_lang)
    make_graph(toy_lang.path, tree, model, tmp_path / "with")
    make_graph(toy_lang.path, tree, model, tmp_path / "without", GraphOptions(remove_oov=True))
    labels = [
        set(from_fst(read_fst(tmp_path / name / "HCLG.fst")).olabel.tolist())
        for name in ("with", "without")
    ]
    assert labels[0] - labels[1] == {toy_lang.oov}


def test_missing_or_unfit_parts_are_errors(toy_lang: Lang, an4_lang: Lang, tmp_path: Path) -> None:
    tree, model = monophone_model(toy_lang)
    with pytest.raises(FormatError, match=r"G.fst: no such file"):
        make_graph(toy_lang.path, tree, model, tmp_path / "graph")
    with pytest.raises(FormatError, match="the model has no HMM for the phones"):
        make_graph(an4_lang.path, tree, model, tmp_path / "graph")
    (toy_lang.path / "G.fst").write_bytes((an4_lang.path / "L.fst").read_bytes())
    with pytest.raises(FormatError, match=r"another words.txt"):
        make_graph(toy_lang.path, tree, model, tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_grammar_that_cannot_be_determinised_is_an_error(toy_lang: Lang, tmp_path: Path) -> None:
    word = toy_lang.words["one"]
    # Two ways to accept "one one ..." whose costs drift apart for ever.
    source, target, labels = ([0, 0, 1, 2], [1, 2, 1, 2], [word] * 4)
    columns = [np.array(column, dtype=np.int32) for column in (source, target, labels, labels)]
    weight = np.array([0, 0, 1, 2], dtype=np.float32)
    grammar = FstArrays(*columns, weight, np.array([np.inf, 0, 0], dtype=np.float32))
    to_fst(grammar).write(str(toy_lang.path / "G.fst"))
    tree, model = monophone_model(toy_lang)
    with pytest.raises(StageError, match="cannot be determinised"):
        make_graph(toy_lang.path, tree, model, tmp_path / "graph")


@st.composite
def transducers(draw: st.DrawFn) -> FstArrays:
    """Small transducers, trimmed, without cycles of epsilons."""
    states = draw(st.integers(2, 7))
    arcs = draw(
        st.lists(
            st.tuples(
                st.integers(0, states - 1),
                st.integers(0, states - 1),
                st.integers(0, 2),
                st.integers(0, 2),
                st.floats(0.125, 3.0, width=32),
            ),
            min_size=1,
            max_size=14,
        )
    )
    # Arcs that go back read something, so that every input string has finitely many paths.
    arcs = [(s, t, i or (1 if t <= s else 0), o, w) for s, t, i, o, w in arcs]
    columns = list(zip(*arcs, strict=True))
    final = np.full(states, np.inf, dtype=np.float32)
    final[draw(st.lists(st.integers(0, states - 1), min_size=1, max_size=3))] = 0.5
    integers = [np.array(column, dtype=np.int32) for column in columns[:4]]
    return connect(FstArrays(*integers, np.array(columns[4], dtype=np.float32), final))


def costs_of_strings(fst: FstArrays) -> dict[tuple[tuple[int, ...], tuple[int, ...]], float]:
    """Best cost of all label pairs that a path of at most seven arcs has, by brute force."""
    best: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    if not fst.num_states:
        return best
    paths = [(fst.start, (), (), 0.0)]
    for _ in range(8):
        following = []
        for state, inputs, outputs, cost in paths:
            if np.isfinite(fst.final[state]):
                key = (inputs, outputs)
                best[key] = min(best.get(key, math.inf), cost + float(fst.final[state]))
            for arc in np.flatnonzero(fst.source == state):
                i, o = int(fst.ilabel[arc]), int(fst.olabel[arc])
                following.append(
                    (
                        int(fst.target[arc]),
                        inputs + ((i,) if i else ()),
                        outputs + ((o,) if o else ()),
                        cost + float(fst.weight[arc]),
                    )
                )
        paths = following[:2000]
    return best


@settings(max_examples=60, deadline=None)
@given(transducers())
def test_epsilon_removal_keeps_costs_of_paths_and_adds_no_arcs(fst: FstArrays) -> None:
    if not fst.num_states:
        return
    smaller = connect(remove_epsilons_locally(fst))
    assert len(smaller.source) <= len(fst.source)
    built = [to_fst(fst), to_fst(smaller)]
    for (inputs, outputs), _ in list(costs_of_strings(fst).items())[:12]:
        costs = [path_cost(f, inputs, outputs) for f in built]
        assert costs[1] == pytest.approx(costs[0], abs=1e-4)
    for (inputs, outputs), _ in list(costs_of_strings(smaller).items())[:12]:
        assert path_cost(built[0], inputs, outputs) is not None


def test_epsilon_removal_joins_chains_and_keeps_back_off() -> None:
    # 0 -1:0-> 1 -0:5-> 2 -0:0-> 3, and a back-off state 4 that two arcs enter and two leave.
    arcs = [(0, 1, 1, 0), (1, 2, 0, 5), (2, 3, 0, 0), (0, 4, 0, 0), (5, 4, 0, 0)]
    arcs += [(4, 5, 2, 0), (4, 5, 3, 0), (3, 5, 4, 0)]
    columns = [np.array(column, dtype=np.int32) for column in zip(*arcs, strict=True)]
    final = np.full(6, np.inf, dtype=np.float32)
    final[[3, 5]] = 0.0
    fst = FstArrays(*columns, np.full(len(arcs), 0.5, dtype=np.float32), final)
    smaller = connect(remove_epsilons_locally(fst))
    found = sorted(zip(smaller.ilabel, smaller.olabel, smaller.weight.round(3), strict=True))
    assert found == [(0, 0, 0.5), (0, 0, 0.5), (1, 5, 1.5), (2, 0, 0.5), (3, 0, 0.5), (4, 0, 0.5)]


@settings(max_examples=25, deadline=None)
@given(transducers())
def test_pushing_keeps_costs_of_paths_and_evens_out_states(fst: FstArrays) -> None:
    if not len(fst.source):
        return
    pushed = push_special(fst, delta=1e-4)
    before, after = costs_of_strings(fst), costs_of_strings(pushed)
    assert before.keys() == after.keys()
    for key, cost in before.items():
        assert after[key] == pytest.approx(cost, abs=1e-3)


def test_pushing_makes_all_states_of_a_lexicon_sum_to_one_value(toy_lang: Lang) -> None:
    make_grammar(toy_lang.path, WordLoopLm())
    lexicon, grammar = (read_fst(toy_lang.path / n) for n in ("L_disambig.fst", "G.fst"))
    kaldifst.arcsort(lexicon, sort_type="olabel")
    pushed = push_special(from_fst(kaldifst.compose(lexicon, grammar)))
    sums = np.exp(-pushed.final.astype(float))
    sums += np.bincount(pushed.source, np.exp(-pushed.weight), pushed.num_states)
    assert np.log(sums.max() / sums.min()) < 2e-3


def test_removed_symbols_become_epsilon() -> None:
    columns = [np.array(c, dtype=np.int32) for c in ([0, 0, 0], [0, 0, 0], [1, 3, 4], [1, 2, 3])]
    fst = FstArrays(*columns, np.zeros(3, dtype=np.float32), np.zeros(1, dtype=np.float32))
    assert remove_symbols(fst, [3, 4]).ilabel.tolist() == [1, 0, 0]
