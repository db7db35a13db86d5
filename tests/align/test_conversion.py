"""Alignments converted to another tree, against the same speech aligned with that tree."""

import numpy as np
import pytest
from made_trees import (
    SILENCE,
    SPEECH,
    made_stats,
    made_topology,
    monophone_model,
    some_phones,
    speak,
)

from mariana_asr.align.training.conversion import AlignmentConverter
from mariana_asr.align.tree.building import TreeOptions, build_tree
from mariana_asr.errors import DataError, FormatError
from mariana_asr.kaldi import kaldi_hmm_gmm as khg
from mariana_asr.lang.langdir import Root


@pytest.fixture(scope="module")
def mono():
    return monophone_model(made_topology())


@pytest.fixture(scope="module")
def triphones():
    """A tree with context, and a transition model of it."""
    roots = [Root(True, True, [SILENCE]), Root(True, True, [2, 3]), Root(False, True, [4, 5, 6])]
    questions = [[phone] for phone in (SILENCE, *SPEECH)]
    stats = made_stats(np.random.default_rng(0), contexts=300)
    topology = made_topology()
    tree = build_tree(stats, roots, questions, topology, TreeOptions(num_leaves=64, thresh=1))
    assert tree.num_pdfs > 24
    return tree, khg.TransitionModel(tree, topology)


def expected_tids(spoken, old, tree, new, *, reordered=True):
    """Each transition id one by one, by the state and the way out of it."""
    states = {state.__getstate__(): number for number, state in enumerate(new.tuples, 1)}
    old_tuples = [state.__getstate__() for state in old.tuples]
    padded = [0, *spoken.phones, 0]
    tids, begin = [], 0
    for place, length in enumerate(spoken.lengths):
        for frame in range(begin, begin + length):
            tid = int(spoken.tids[frame])
            number = old.id2state[tid]
            phone, hmm_state, _, _ = old_tuples[number - 1]
            known, pdf = tree.compute(padded[place : place + 3], hmm_state)
            assert known
            first = new.state2id[states[phone, hmm_state, pdf, pdf]]
            tids.append(first + tid - old.state2id[number])
        begin += length
    return tids


def test_alignments_keep_phones_states_and_transitions(mono, triphones):
    _, old = mono
    tree, new = triphones
    converter = AlignmentConverter(old, new, tree)
    random = np.random.default_rng(1)
    pdfs = set()
    for _ in range(40):
        spoken = speak(old, some_phones(random, random.integers(1, 9)), random)
        converted = converter.convert(spoken.tids)
        assert converted.tolist() == expected_tids(spoken, old, tree, new)
        pdfs |= {new.transition_id_to_pdf(tid) for tid in converted.tolist()}
    assert len(pdfs) > 20
    assert converter.convert(np.zeros(0, dtype=np.int32)).tolist() == []


def test_there_and_back_is_the_same_alignment(mono, triphones):
    (mono_tree, old), (tree, new) = mono, triphones
    there, back = AlignmentConverter(old, new, tree), AlignmentConverter(new, old, mono_tree)
    random = np.random.default_rng(2)
    for _ in range(20):
        tids = speak(old, some_phones(random, random.integers(1, 9)), random).tids
        assert back.convert(there.convert(tids)).tolist() == tids.tolist()


def test_self_loops_come_last_in_converted_alignments(mono, triphones):
    """Kaldi: convert-ali's default of --reorder=true."""
    _, old = mono
    tree, new = triphones
    converter = AlignmentConverter(old, new, tree)
    for seed in range(20):
        phones = some_phones(np.random.default_rng(seed), 5)
        first, last = (
            speak(old, phones, np.random.default_rng(seed), reordered=reordered)
            for reordered in (False, True)
        )
        assert converter.convert(first.tids).tolist() == converter.convert(last.tids).tolist()
        assert sorted(first.tids) == sorted(last.tids)


def test_alignments_that_break_off_are_refused(mono, triphones):
    _, old = mono
    tree, new = triphones
    converter = AlignmentConverter(old, new, tree)
    spoken = speak(old, [1, 2, 3], np.random.default_rng(0))
    for broken in (spoken.tids[: spoken.lengths[0] + 1], spoken.tids[spoken.lengths[0] + 3 :]):
        with pytest.raises(DataError, match="breaks off inside a phone"):
            converter.convert(broken)
    for bad in (0, old.num_transition_ids + 1):
        with pytest.raises(FormatError, match=f"{bad} is no transition id"):
            converter.convert(np.array([bad]))


def test_models_that_do_not_fit_are_refused(mono, triphones):
    mono_tree, old = mono
    _, new = triphones
    _, short = monophone_model(made_topology(states=2))
    with pytest.raises(FormatError, match="phones 2, 3, 4, 5, 6 have another topology"):
        AlignmentConverter(old, short, mono_tree)
    spoken = speak(old, [1, 2, 3], np.random.default_rng(0))
    with pytest.raises(FormatError, match="no state 1 of phone 1 with the pdf 1 of its tree"):
        AlignmentConverter(old, new, mono_tree).convert(spoken.tids)
