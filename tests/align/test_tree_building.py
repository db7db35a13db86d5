"""Decision trees against plain loops, against what a tree must be, and against Kaldi's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trees import SILENCE, SPEECH, made_stats, made_topology
from plain_trees import plain_bottom_up, plain_split
from pydantic import ValidationError

from mariana_asr.align.formats.model_io import transition_id_to_pdf
from mariana_asr.align.formats.tree_io import read_tree, write_tree
from mariana_asr.align.tree.building import TreeOptions, build_event_map, build_tree, stub_map
from mariana_asr.align.tree.event_map import EventNode
from mariana_asr.align.tree.initial_model import initial_gmms, pdfs_of_contexts
from mariana_asr.align.tree.questions import Questions, read_questions
from mariana_asr.align.tree.splitting import SplitFinder, split_leaves
from mariana_asr.align.tree.statistics import ABSENT, PDF_CLASS, TreeStats
from mariana_asr.errors import DataError, FormatError
from mariana_asr.kaldi import kaldi_hmm_gmm as khg
from mariana_asr.lang.langdir import Root

ASKED = [[2, 3], [4, 5, 6], [1], [2], [3, 6], [5], [4], [1, 2]]
ROOTS = [
    Root(True, True, [SILENCE]),
    Root(True, True, [2, 3]),
    Root(False, True, [4, 5]),
    Root(True, False, [6]),
]


@pytest.fixture(scope="module")
def topology():
    return made_topology()


def plain_questions(width=3):
    """Keys in their order with their questions: pdf classes below a threshold, then phones."""
    sets = sorted({tuple(sorted(phones)) for phones in ASKED})
    return [(PDF_CLASS, [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)])] + [
        (position, sets) for position in range(width)
    ]


def build(stats, topology, roots=ROOTS, **options):
    questions = Questions.compile(ASKED, topology, stats.context_width)
    options = TreeOptions(**{"num_leaves": 100, "thresh": 1.0, **options})
    return build_event_map(stats, roots, questions, topology, options)


@pytest.mark.parametrize("num_iters_refine", [0, 3])
@pytest.mark.parametrize("seed", range(4))
def test_splits_equal_those_of_a_plain_loop(topology, seed, num_iters_refine):
    stats = made_stats(np.random.default_rng(seed))
    root, stubs = stub_map(ROOTS, topology, 1)
    stub_of = root.map(stats.contexts)
    finder = SplitFinder(
        stats, Questions.compile(ASKED, topology, 3), num_iters_refine=num_iters_refine
    )
    splits = split_leaves(
        root,
        stub_of,
        finder,
        splittable=stats.phones != 6,
        num_leaves=stubs,
        max_leaves=45,
        thresh=20.0,
    )
    used = stats.phones != 6
    contexts = [tuple(row) for row in stats.contexts[used].tolist()]
    leaves, count, gains = plain_split(
        stub_of[used].tolist(),
        contexts,
        list(stats.sums[used]),
        plain_questions(),
        thresh=20.0,
        max_leaves=45 - (stubs - (stub_of[used].max() + 1)),
        num_iters_refine=num_iters_refine,
    )
    # The root of phone 6 has the last number before the splits.
    shifted = [leaf + (leaf >= stubs - 1) for leaf in leaves]
    assert splits.leaf_of_row[used].tolist() == shifted
    assert splits.num_leaves == count + 1 > stubs + 8
    assert splits.gain == pytest.approx(sum(map(float, gains)), rel=1e-5)
    assert splits.smallest == pytest.approx(min(gains), rel=1e-4)
    assert root.map(stats.contexts).tolist() == splits.leaf_of_row.tolist()


@pytest.mark.parametrize("thresh", [40.0, 150.0])
def test_leaves_of_one_root_are_merged_as_in_a_plain_loop(topology, thresh):
    stats = made_stats(np.random.default_rng(1))
    off = {"cluster_thresh": 0, "round_num_leaves": False}
    plain = build(stats, topology, **off).map(stats.contexts)
    merged = build(stats, topology, **off | {"cluster_thresh": thresh}).map(stats.contexts)
    stub_of = stub_map(ROOTS, topology, 1)[0].map(stats.contexts)
    expected = set()
    for stub in range(stub_of.max() + 1):
        own = np.unique(plain[stub_of == stub])
        points = [stats.sums[plain == leaf].sum(axis=0) for leaf in own]
        expected |= {tuple(own[cluster]) for cluster in plain_bottom_up(points, thresh)}
    found = {tuple(np.unique(plain[merged == leaf])) for leaf in range(merged.max() + 1)}
    assert found == expected
    assert len(found) < plain.max() + 1


def test_the_default_threshold_of_merging_is_the_gain_of_the_least_split(topology):
    stats = made_stats(np.random.default_rng(2))
    root, stubs = stub_map(ROOTS, topology, 1)
    finder = SplitFinder(stats, Questions.compile(ASKED, topology, 3))
    smallest = split_leaves(
        root,
        root.map(stats.contexts),
        finder,
        splittable=stats.phones != 6,
        num_leaves=stubs,
        max_leaves=30,
        thresh=1.0,
    ).smallest
    trees = [
        build(stats, topology, num_leaves=30, cluster_thresh=t, round_num_leaves=False)
        for t in (-1, smallest, 0)
    ]
    ours, explicit, unmerged = (tree.map(stats.contexts) for tree in trees)
    assert ours.tolist() == explicit.tolist()
    assert ours.max() < unmerged.max()


def test_the_number_of_leaves_is_rounded_down_to_a_multiple_of_eight(topology):
    stats = made_stats(np.random.default_rng(2))
    for num_leaves in (17, 24, 31):
        some = build(stats, topology, num_leaves=num_leaves, cluster_thresh=0)
        exact = build(
            stats, topology, num_leaves=num_leaves, cluster_thresh=0, round_num_leaves=False
        )
        leaves, all_leaves = ({leaf.leaf for leaf in tree.leaves()} for tree in (some, exact))
        assert all_leaves == set(range(num_leaves))
        assert leaves == set(range(num_leaves // 8 * 8))
    few = [Root(True, True, [phone]) for phone in range(1, 7)]
    tree = build(stats, topology, few, num_leaves=7, cluster_thresh=0)
    assert {leaf.leaf for leaf in tree.leaves()} == set(range(7))  # as in Kaldi


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    contexts=st.integers(1, 60),
    num_leaves=st.integers(1, 60),
    refine=st.integers(0, 2),
)
def test_every_tree_is_a_tree(topology, seed, contexts, num_leaves, refine):
    random = np.random.default_rng(seed)
    stats = made_stats(random, contexts=contexts)
    stubs = stub_map(ROOTS, topology, 1)[1]
    tree = build_tree(
        stats,
        ROOTS,
        ASKED,
        topology,
        TreeOptions(num_leaves=num_leaves, thresh=0.0, num_iters_refine=refine),
    )
    own = build(stats, topology, num_leaves=num_leaves, thresh=0.0, num_iters_refine=refine)
    assert tree.num_pdfs <= max(num_leaves, stubs)
    answers = own.map(stats.contexts)
    assert answers.min() >= 0
    assert pdfs_of_contexts(stats, tree).tolist() == answers.tolist()
    # Also phones in contexts never seen have a pdf, and Kaldi's code finds the same one.
    for phone in (SILENCE, *SPEECH):
        for _ in range(10):
            window = [int(random.integers(0, 7)), phone, int(random.integers(0, 7))]
            for pdf_class in range(topology.num_pdf_classes(phone)):
                answer = own.map(np.array([[pdf_class, *window]]))
                assert tree.compute(window, pdf_class) == (True, answer[0])
    shared = {tree.compute([0, 6, 0], pdf_class)[1] for pdf_class in range(3)}
    assert len(shared) == 1  # the states of phone 6 share a root that is not split
    left = {tree.compute([left, SILENCE, 0], 1)[1] for left in range(7)}
    assert len(left) == 1  # silence is not asked about its neighbours
    khg.TransitionModel(tree, topology)


def test_states_share_a_root_or_have_their_own(topology):
    """Kaldi: shared means one root for all states of the phones of a line."""
    stats = made_stats(np.random.default_rng(4))
    kinds = [(shared, split) for shared in (True, False) for split in (True, False)]
    for shared, split in kinds:
        roots = [Root(True, True, [SILENCE]), Root(shared, split, SPEECH)]
        tree = build(stats, topology, roots, cluster_thresh=0, round_num_leaves=False)
        speech = stats.phones != SILENCE
        leaves = tree.map(stats.contexts)[speech]
        groups = {
            pdf_class: set(leaves[stats.pdf_classes[speech] == pdf_class]) for pdf_class in range(3)
        }
        if not split:
            assert len(set(leaves)) == (1 if shared else 3)
        else:
            assert len(set(leaves)) > 10
        if not shared:
            assert not any(groups[a] & groups[b] for a, b in ((0, 1), (0, 2), (1, 2)))


def test_a_table_of_phones_stands_in_for_questions_where_each_root_is_one_phone(topology):
    roots = [Root(True, True, [phone]) for phone in (SILENCE, *SPEECH)]
    root, count = stub_map(roots, topology, 1)
    assert (root.members, len(root.children), count) == (None, 7, 6)
    assert root.map(np.array([[0, 0, 4, 0], [0, 0, 0, 0], [0, 0, 9, 0]])).tolist() == [3, -1, -1]
    stats = made_stats(np.random.default_rng(0))
    options = TreeOptions(num_leaves=40, thresh=1)
    tree = build_tree(stats, roots, ASKED, topology, options)
    expected = build(stats, topology, roots, num_leaves=40).map(stats.contexts)
    assert pdfs_of_contexts(stats, tree).tolist() == expected.tolist()


def test_trees_are_written_and_read_back(topology, tmp_path):
    stats = made_stats(np.random.default_rng(0))
    tree = build_tree(stats, ROOTS, ASKED, topology, TreeOptions(num_leaves=40, thresh=1))
    write_tree(tmp_path / "tree", tree)
    again = read_tree(tmp_path / "tree")
    assert pdfs_of_contexts(stats, again).tolist() == pdfs_of_contexts(stats, tree).tolist()
    assert (again.context_width, again.central_position) == (3, 1)


def test_trees_deeper_than_pythons_stack_are_handled():
    root = EventNode(0)
    node = root
    for number in range(1, 3000):
        node, _ = node.split(0, (number,), number)
    root.renumber(np.arange(3000)[::-1])
    assert sorted(leaf.leaf for leaf in root.leaves()) == list(range(3000))
    assert root.map(np.array([[0, 7, 1, 1]]))[0] == 2999 - 1
    assert root.to_context_dependency(3, 1).num_pdfs == 3000


def test_wide_windows_ask_about_all_their_positions(topology):
    random = np.random.default_rng(0)
    rows = {}
    for _ in range(300):
        window = [int(phone) for phone in random.integers(2, 7, size=5)]
        feats = random.normal(size=(40, 1)) + 3 * window[0] + (window[4] in (2, 3)) * 19
        row = [40, feats.sum(), np.square(feats).sum()]
        key = (int(random.integers(0, 3)), *window)
        rows[key] = rows.get(key, 0) + np.array(row)
    keys = sorted(rows)
    stats = TreeStats(np.array(keys, dtype=np.int32), np.array([rows[key] for key in keys]), 2)
    roots = [Root(True, True, [SILENCE, *SPEECH])]
    options = TreeOptions(
        num_leaves=16,
        context_width=5,
        central_position=2,
        cluster_thresh=0,
        round_num_leaves=False,
    )
    tree = build_tree(stats, roots, ASKED, topology, options)
    pdfs = {tree.compute([left, 4, 4, 4, right], 0)[1] for left in SPEECH for right in (3, 4)}
    assert len(pdfs) == 10


def test_the_first_model_has_each_leafs_mean_and_variance(topology, caplog):
    stats = made_stats(np.random.default_rng(0), contexts=40)
    unseen = stats.phones != 4
    stats = TreeStats(stats.contexts[unseen], stats.sums[unseen], 1)
    roots = [Root(True, True, [phone]) for phone in (SILENCE, *SPEECH)]
    tree = build_tree(stats, roots, ASKED, topology, TreeOptions(num_leaves=24, thresh=1))
    assert "no statistics for the phones 4" in caplog.text
    model, occupancy = initial_gmms(stats, tree, topology, var_floor=0.3)
    pdfs = pdfs_of_contexts(stats, tree)
    empty = tree.compute([0, 4, 0], 0)[1]
    assert f"no data for the pdfs {empty}" in caplog.text
    assert model.gmm.num_pdfs == model.gmm.num_gaussians == tree.num_pdfs == len(occupancy)
    for pdf in range(tree.num_pdfs):
        rows = stats.sums if pdf == empty else stats.sums[pdfs == pdf]
        count, *moments = rows.sum(axis=0)
        assert occupancy[pdf] == (0 if pdf == empty else count)
        mean, square = np.array(moments[:3]) / count, np.array(moments[3:]) / count
        np.testing.assert_allclose(model.gmm.means[pdf], mean, rtol=1e-5)
        variance = np.maximum(square - mean**2, 0.3)
        np.testing.assert_allclose(model.gmm.variances[pdf], variance, rtol=1e-4)
    assert set(transition_id_to_pdf(model.transition_model)[1:]) == set(range(tree.num_pdfs))


def test_roots_must_cover_the_phones_once(topology):
    stats = made_stats(np.random.default_rng(0))
    options = TreeOptions(num_leaves=40)
    everything = [SILENCE, *SPEECH]
    for phones, message in (
        ([[1, 2, 3], [3, 4, 5, 6]], "phones 3 are under two roots"),
        ([[1, 2, 3, 4, 5]], "phones 6 have a topology but no root"),
        ([[*everything, 7]], "phones 7 have a root but no topology"),
        ([everything, []], "a root without phones"),
    ):
        roots = [Root(True, True, own) for own in phones]
        with pytest.raises(FormatError, match=message):
            build_tree(stats, roots, ASKED, topology, options)
    strange = TreeStats(np.array([[0, 0, 9, 0]], np.int32), np.ones((1, 7)), 1)
    with pytest.raises(FormatError, match="phones 9 were seen but have no root"):
        build_tree(strange, ROOTS, ASKED, topology, options)
    with pytest.raises(DataError, match="no statistics"):
        build_tree(TreeStats.empty(3), ROOTS, ASKED, topology, options)
    with pytest.raises(ValueError, match="another window"):
        build_tree(TreeStats.empty(3, 5, 2), ROOTS, ASKED, topology, options)
    with pytest.raises(DataError, match="no statistics"):
        initial_gmms(TreeStats.empty(3), None, topology)
    with pytest.raises(ValidationError, match="central_position 3 lies outside"):
        TreeOptions(num_leaves=5, central_position=3)


def test_questions_must_ask_about_known_phones(topology, tmp_path):
    for question, message in (([2, 2], "has a phone twice"), ([2, 77], "the phone 77, which has")):
        with pytest.raises(FormatError, match=message):
            Questions.compile([[1], question], topology, 3)
    (tmp_path / "questions").write_text("3 1\n\n2\n")
    assert read_questions(tmp_path / "questions") == [[3, 1], [2]]
    (tmp_path / "questions").write_text("3 AH\n")
    with pytest.raises(FormatError, match="questions: 'AH' is no phone id"):
        read_questions(tmp_path / "questions")
    with pytest.raises(FormatError, match="no such file"):
        read_questions(tmp_path / "none")


def test_questions_are_answered_for_contexts(topology):
    questions = Questions.compile([[3, 2], [2, 3], [5]], topology, 3)
    assert questions.keys.tolist() == [PDF_CLASS] * 4 + [0, 0, 1, 1, 2, 2]
    assert questions.members[:5] == [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (2, 3)]
    contexts = np.array([[1, 2, 5, 0], [0, ABSENT, 1, ABSENT]])
    assert questions.answers(contexts).tolist() == [
        [0, 1, 1, 1, 1, 0, 0, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
    ]
