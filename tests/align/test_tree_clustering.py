"""Clustering of Gaussian statistics against plain loops."""

import ctypes
import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trees import (
    plain_bottom_up,
    plain_cluster_phones,
    plain_objective,
    plain_refine,
    plain_two_means,
)

from mariana_asr.align.tree.clustering import cluster_bottom_up, cluster_to_number, objective
from mariana_asr.align.tree.kmeans import CRandom, refine_split, split_in_two
from mariana_asr.align.tree.questions import cluster_phones
from mariana_asr.align.tree.statistics import TreeStats
from mariana_asr.errors import FormatError


def made_points(seed, count, dim=2, spread=3.0):
    """Statistics of a few frames each, some of none."""
    random = np.random.default_rng(seed)
    points = []
    for _ in range(count):
        feats = random.normal(size=(random.integers(0, 30), dim)) + random.normal(size=dim) * spread
        points.append([len(feats), *feats.sum(axis=0), *np.square(feats).sum(axis=0)])
    return np.array(points)


@pytest.mark.parametrize("dim", [1, 2, 13, 14, 39])
def test_objectives_equal_sums_over_dimensions(dim):
    points = made_points(0, 60, dim)
    single = np.array([[1.0, *[2.0] * dim, *[4.0] * dim]])  # a variance of 0, floored
    points = np.concatenate([points, single, np.zeros((1, 1 + 2 * dim))])
    for var_floor in (0.01, 0.5):
        expected = [plain_objective(point, var_floor) for point in points]
        np.testing.assert_allclose(objective(points, var_floor), expected, rtol=2e-7)


def test_the_objective_is_the_likelihood_of_the_frames():
    random = np.random.default_rng(1)
    feats = random.normal(size=(50, 3)) * 2 + 1
    row = np.concatenate([[50.0], feats.sum(axis=0), np.square(feats).sum(axis=0)])
    mean, variance = feats.mean(axis=0), feats.var(axis=0)
    densities = -0.5 * (np.log(2 * np.pi * variance) + np.square(feats - mean) / variance)
    assert objective(row[None])[0] == pytest.approx(densities.sum(), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 14), thresh=st.floats(0, 200))
def test_bottom_up_clusters_equal_those_of_a_search_over_all_pairs(seed, count, thresh):
    points = made_points(seed, count)
    assignments = cluster_bottom_up(points, thresh)
    clusters = [np.flatnonzero(assignments == c).tolist() for c in range(assignments.max() + 1)]
    assert clusters == plain_bottom_up(points, thresh)


def test_compartments_are_never_merged_and_the_cheapest_merges_are_taken():
    compartments = [made_points(seed, count) for seed, count in ((1, 5), (2, 7), (3, 1))]
    total = sum(map(len, compartments))
    losses = []
    for number in range(total, 2, -1):
        merged = cluster_to_number(compartments, number)
        assert sum(m.max() + 1 for m in merged) == number
        losses.append(
            sum(
                float(objective(points).sum())
                - sum(
                    float(plain_objective(points[m == c].sum(axis=0))) for c in range(m.max() + 1)
                )
                for points, m in zip(compartments, merged, strict=True)
            )
        )
    assert losses[0] == pytest.approx(0, abs=1e-3)
    assert (np.diff(losses) > -1e-3).all()
    # Within one compartment it is the plain clustering down to that number.
    (one,) = cluster_to_number([compartments[1]], 3)
    clusters = [np.flatnonzero(one == c).tolist() for c in range(3)]
    assert clusters == plain_bottom_up(compartments[1], np.inf, least=3)


def test_more_clusters_than_points_change_nothing():
    (assignments,) = cluster_to_number([made_points(0, 4)], 9)
    assert assignments.tolist() == [0, 1, 2, 3]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 12), num_iters=st.integers(0, 6))
def test_points_move_between_two_clusters_as_in_a_plain_loop(seed, count, num_iters):
    points = made_points(seed, count)
    start = np.random.default_rng(seed).integers(0, 2, size=count)
    ours, theirs = start.copy(), start.tolist()
    gained = refine_split(points, ours, num_iters)
    expected = plain_refine(list(points), theirs, num_iters)
    assert ours.tolist() == theirs
    assert gained == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_splits_in_two_equal_those_of_a_plain_loop():
    for seed in range(6):
        points = made_points(seed, 3 + seed)
        points[1] = 0
        gain, assignments = split_in_two(points, CRandom(), num_tries=4)
        expected_gain, expected = plain_two_means(list(points), CRandom(), num_tries=4)
        assert assignments.tolist() == expected
        assert gain == pytest.approx(expected_gain, rel=1e-4)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not the GNU C library")
def test_random_numbers_are_those_of_the_c_library():
    library = ctypes.CDLL(None)
    library.srand(1)  # what a process begins with
    random = CRandom()
    assert [random() for _ in range(1000)] == [library.rand() for _ in range(1000)]


def phone_stats(points, pdf_class=1):
    """Statistics of phones 1, 2, ... without context; half of the frames in another state."""
    phones = np.arange(1, len(points) + 1)
    contexts = [(c, 0, phone, 0) for c in (0, pdf_class) for phone in phones]
    return TreeStats(np.array(contexts, np.int32), np.concatenate([points[::-1] * 2, points]), 1)


def test_clustered_questions_equal_those_of_a_plain_loop():
    sets = [[1], [4, 2], [3], [5, 6, 7], [8], [9], [10]]
    for seed in range(2):
        points = made_points(seed, 10)
        questions = cluster_phones(phone_stats(points), sets)
        own = [sum(points[phone - 1] for phone in phones) for phones in sets]
        assert {tuple(question) for question in questions} == plain_cluster_phones(
            own, sets, CRandom()
        )
        assert len({tuple(question) for question in questions}) == len(questions)
        assert all(question == sorted(question) for question in questions)


def test_phones_are_clustered_by_the_wanted_states_only(caplog):
    points = made_points(5, 10)
    sets = [[phone] for phone in range(1, 11)]
    stats = phone_stats(points)
    other = phone_stats(points[::-1] * 2)
    assert cluster_phones(stats, sets, pdf_class_list=[0]) == cluster_phones(other, sets)
    assert cluster_phones(stats, sets, pdf_class_list=[0]) != cluster_phones(stats, sets)
    assert not caplog.records
    # With no data at all, the sets themselves remain.
    assert cluster_phones(stats, sets, pdf_class_list=[2]) == sets
    assert "only 0 of 20 contexts" in caplog.text


def test_bad_phone_sets_are_refused():
    stats = phone_stats(made_points(5, 3))
    for sets in ([[1], []], [[1, 2], [2, 3]], []):
        with pytest.raises(FormatError, match="empty set of phones"):
            cluster_phones(stats, sets)
