"""Statistics for trees against a loop over frames, and phones against how they were spoken."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trees import SILENCE, made_topology, monophone_model, some_phones, speak
from plain_phones import alignment_to_phones

from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.align.tree.phones import PhoneTable, split_into_phones
from mariana_asr.align.tree.statistics import ABSENT, TreeStats, rank_rows

DIM = 2


@pytest.fixture(scope="module")
def model():
    return monophone_model(made_topology())[1]


def starts_of(alignments):
    return np.cumsum([0] + [len(tids) for tids in alignments])[:-1]


def speech(model, utterances, seed=0):
    random = np.random.default_rng(seed)
    spoken = [speak(model, some_phones(random, random.integers(1, 9)), random) for _ in utterances]
    feats = [random.normal(size=(len(s.tids), DIM)).astype(np.float32) for s in spoken]
    return spoken, feats


def accumulated(model, spoken, feats, width=3, central=1):
    stats = TreeStats.empty(DIM, width, central)
    tids = np.concatenate([s.tids for s in spoken])
    table = PhoneTable.of(model, [SILENCE])
    starts = starts_of([s.tids for s in spoken])
    assert stats.accumulate(np.concatenate(feats), tids, starts, table) == []
    return stats


@pytest.mark.parametrize(("width", "central"), [(1, 0), (2, 1), (3, 1), (5, 2), (4, 0)])
def test_statistics_equal_those_of_a_loop_over_frames(model, width, central):
    spoken, feats = speech(model, range(20))
    expected: dict[tuple, np.ndarray] = {}
    for utterance, own in zip(spoken, feats, strict=True):
        frame = 0
        for place, length in enumerate(utterance.lengths):
            window = [
                utterance.phones[place + offset]
                if 0 <= place + offset < len(utterance.phones)
                else 0
                for offset in range(-central, width - central)
            ]
            if utterance.phones[place] == SILENCE:
                window = [SILENCE if at == central else ABSENT for at in range(width)]
            for _ in range(length):
                x = own[frame].astype(np.float64)
                row = np.concatenate([[1.0], x, x * x])
                key = (utterance.pdf_classes[frame], *window)
                expected[key] = expected.get(key, 0) + row
                frame += 1
    stats = accumulated(model, spoken, feats, width, central)
    assert [tuple(row) for row in stats.contexts.tolist()] == sorted(expected)
    np.testing.assert_allclose(stats.sums, [expected[key] for key in sorted(expected)], rtol=1e-12)
    assert stats.frames == sum(len(own) for own in feats)
    assert (stats.context_width, stats.central_position, stats.dim) == (width, central, DIM)


def test_chunks_add_up_to_the_whole(model):
    spoken, feats = speech(model, range(24))
    whole = accumulated(model, spoken, feats)
    parts = TreeStats.empty(DIM)
    for start in range(0, 24, 5):
        some = slice(start, start + 5)
        parts.add(pickle.loads(pickle.dumps(accumulated(model, spoken[some], feats[some]))))
    assert np.array_equal(parts.contexts, whole.contexts)
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-12)
    twice = accumulated(model, spoken * 2, feats * 2)
    assert len(pickle.dumps(twice)) == len(pickle.dumps(whole))
    np.testing.assert_allclose(twice.sums, 2 * whole.sums, rtol=1e-12)


def test_alignments_that_are_no_whole_phones_are_left_out(model):
    spoken, feats = speech(model, range(6), seed=3)
    tids = [s.tids for s in spoken]
    tids[1] = tids[1][:-4]  # ends within a phone
    tids[3] = tids[3][4:]  # begins within a phone
    tids[4] = np.concatenate([tids[4][:2], tids[5][spoken[5].lengths[0] :]])  # one is never left
    feats = [np.resize(own, (len(t), DIM)) for own, t in zip(feats, tids, strict=True)]
    stats = TreeStats.empty(DIM)
    left_out = stats.accumulate(
        np.concatenate(feats), np.concatenate(tids), starts_of(tids), PhoneTable.of(model)
    )
    assert left_out == [1, 3, 4]
    good = [0, 2, 5]
    only_good = TreeStats.empty(DIM)
    good_tids = [tids[u] for u in good]
    only_good.accumulate(
        np.concatenate([feats[u] for u in good]),
        np.concatenate(good_tids),
        starts_of(good_tids),
        PhoneTable.of(model),
    )
    assert np.array_equal(stats.contexts, only_good.contexts)
    np.testing.assert_allclose(stats.sums, only_good.sums, rtol=1e-12)


def test_no_frames_give_no_statistics(model):
    stats = TreeStats.empty(DIM)
    none = np.zeros(0, dtype=np.int32)
    table = PhoneTable.of(model)
    assert stats.accumulate(np.zeros((0, DIM)), none, none, table) == []
    assert stats.accumulate(np.zeros((0, DIM)), none, np.zeros(2, np.int64), table) == []
    assert len(stats) == 0
    with pytest.raises(ValueError, match="dim 2"):
        stats.accumulate(np.zeros((3, 4)), np.ones(3, np.int32), np.zeros(1, np.int64), table)
    with pytest.raises(ValueError, match="another window"):
        stats.add(TreeStats.empty(DIM, 5, 2))
    with pytest.raises(ValueError, match="central position 3"):
        TreeStats.empty(DIM, 3, 3)


@pytest.mark.parametrize("states", [1, 3])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_phones_are_found_as_they_were_spoken(states, data):
    model = monophone_model(made_topology(states))[1]
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    orders = data.draw(st.lists(st.booleans(), min_size=1, max_size=4))
    spoken = [
        speak(model, some_phones(random, random.integers(2, 6)), random, reordered=order)
        for order in orders
    ]
    tids = np.concatenate([s.tids for s in spoken])
    table = PhoneTable.of(model)
    runs = split_into_phones(table, tids, starts_of([s.tids for s in spoken]))
    assert runs.whole.all()
    assert runs.phones.tolist() == [phone for s in spoken for phone in s.phones]
    assert runs.frames.tolist() == [length for s in spoken for length in s.lengths]
    assert runs.utterances.tolist() == [u for u, s in enumerate(spoken) for _ in s.phones]
    assert table.pdf_classes[tids].tolist() == [c for s in spoken for c in s.pdf_classes]
    loops = table.self_loops
    for order, own, found in zip(orders, spoken, runs.reordered, strict=True):
        assert found == order or not loops[own.tids].any()


def test_phones_of_kaldis_alignments_are_those_found_one_by_one(golden):
    model = read_transition_model(golden / "an4_kaldi/tri1/final.mdl")
    alignments = list(read_alignments(golden / "an4_kaldi/tri1/train_ali.ark").values())[:100]
    tids = np.concatenate(alignments)
    runs = split_into_phones(PhoneTable.of(model), tids, starts_of(alignments))
    assert runs.whole.all()
    expected = [pair for own in alignments for pair in alignment_to_phones(own, model)]
    assert list(zip(runs.phones.tolist(), runs.frames.tolist(), strict=True)) == expected


@given(
    st.lists(
        st.tuples(st.integers(-1, 3), st.integers(-(2**30), 2**30), st.integers(0, 2**31 - 1)),
        max_size=20,
    )
)
def test_rows_are_ranked_as_tuples_are(rows):
    first, ranks = rank_rows(np.array(rows, dtype=np.int64).reshape(len(rows), 3))
    distinct = sorted(set(rows))
    assert [rows[index] for index in first] == distinct
    assert [distinct[rank] for rank in ranks] == rows
