"""The array form of the GMMs against Kaldi's own classes, wrapped by kaldi-hmm-gmm."""

from itertools import pairwise

import numpy as np
import pytest
from plain_statistics import plain_statistics
from small_gmms import random_gmms

from mariana_asr.align.gmm import estimation as gmm_estimation
from mariana_asr.align.gmm.estimation import (
    GmmStats,
    MleOptions,
    mle_update,
    split_by_count,
    split_targets,
)
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.kaldi import kaldi_hmm_gmm as khg

COUNTS = [1, 4, 2, 7, 1]
DIM = 6


@pytest.fixture
def gmms() -> DiagGmms:
    return random_gmms(DIM, counts=COUNTS, spread=3)


def frames(count: int, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    feats = (random.normal(size=(count, DIM)) * 4).astype(np.float32)
    return feats, random.integers(len(COUNTS), size=count)


def to_kaldi(gmms: DiagGmms) -> "khg.AmDiagGmm":
    model = khg.AmDiagGmm()
    for start, end in zip(gmms.offsets[:-1], gmms.offsets[1:], strict=True):
        pdf = khg.DiagGmm(nmix=int(end - start), dim=gmms.dim)
        pdf.set_weights(gmms.weights[start:end])
        pdf.set_invvars_and_means(
            gmms.inv_vars[start:end], gmms.means[start:end].astype(np.float32)
        )
        pdf.compute_gconsts()
        model.add_pdf(pdf)
    return model


def kaldi_stats(model, feats, pdfs):
    stats = khg.AccumAmDiagGmm()
    stats.init(model, khg.str_to_gmm_flags("mvwt"))
    for frame, pdf in zip(feats, pdfs, strict=True):
        stats.accumulate_for_gmm(model, frame, int(pdf), 1.0)
    return stats


def rows(model, name: str) -> np.ndarray:
    pdfs = [model.get_pdf(i) for i in range(model.num_pdfs)]
    return np.concatenate([np.atleast_1d(np.array(getattr(pdf, name))) for pdf in pdfs])


def test_log_likelihoods_equal_kaldis(gmms):
    feats, _ = frames(40)
    model = to_kaldi(gmms)
    expected = [[model.log_likelihood(pdf, x) for pdf in range(len(COUNTS))] for x in feats]
    np.testing.assert_allclose(gmms.log_likelihoods(feats), expected, atol=2e-4, rtol=1e-5)


def test_log_likelihoods_equal_a_plain_computation_in_double(gmms):
    feats, _ = frames(5)
    log_likes = gmms.log_likelihoods(feats)
    for t, x in enumerate(feats.astype(np.float64)):
        for pdf in range(gmms.num_pdfs):
            own = slice(gmms.offsets[pdf], gmms.offsets[pdf + 1])
            densities = gmms.weights[own] * np.prod(
                np.exp(-0.5 * (x - gmms.means[own]) ** 2 / gmms.variances[own])
                / np.sqrt(2 * np.pi * gmms.variances[own]),
                axis=1,
            )
            assert log_likes[t, pdf] == pytest.approx(np.log(densities.sum()), abs=1e-3)


def test_frames_far_from_every_gaussian_stay_finite(gmms):
    assert np.isfinite(gmms.log_likelihoods(np.full((1, DIM), 1e4, dtype=np.float32))).all()


def test_selected_pdfs_score_as_in_the_whole_model(gmms):
    feats, _ = frames(7)
    pdfs = [3, 0, 2]
    whole = gmms.log_likelihoods(feats)
    np.testing.assert_allclose(gmms.select(pdfs).log_likelihoods(feats), whole[:, pdfs], rtol=1e-5)
    np.testing.assert_allclose(gmms.log_likelihoods(feats, pdfs), whole[:, pdfs], rtol=1e-5)
    assert gmms.log_likelihoods(feats, []).shape == (7, 0)


def test_features_of_another_dimension_are_refused(gmms):
    with pytest.raises(ValueError, match="dim 6"):
        gmms.log_likelihoods(np.zeros((3, DIM + 1), dtype=np.float32))


def test_statistics_equal_kaldis(gmms):
    feats, pdfs = frames(300)
    model = to_kaldi(gmms)
    expected = kaldi_stats(model, feats, pdfs)
    stats = GmmStats.empty(gmms)
    stats.accumulate(gmms, feats[:170], pdfs[:170])
    stats.accumulate(gmms, feats[170:], pdfs[170:])
    accumulators = [expected.get_acc(i) for i in range(len(COUNTS))]
    np.testing.assert_allclose(
        stats.occupancy, np.concatenate([a.occupancy for a in accumulators]), atol=1e-4
    )
    moments = [np.hstack([a.mean_accumulator, a.variance_accumulator]) for a in accumulators]
    np.testing.assert_allclose(stats.moments, np.concatenate(moments), rtol=1e-4, atol=1e-3)
    assert stats.log_like == pytest.approx(expected.tot_log_like, rel=1e-5)
    assert stats.frames == expected.tot_count == 300


@pytest.mark.parametrize("block_frames", [1, 7, 2048])
def test_statistics_equal_a_plain_computation_in_double(monkeypatch, block_frames):
    monkeypatch.setattr(gmm_estimation, "BLOCK_FRAMES", block_frames)
    gmms = random_gmms(DIM, counts=[3, 1, 5, 3, 1, 9, 2, 3])
    random = np.random.default_rng(3)
    feats = (random.normal(size=(500, DIM)) * 3).astype(np.float32)
    pdfs = random.choice([0, 1, 3, 4, 5, 7], size=500, p=[0.1, 0.1, 0.05, 0.05, 0.5, 0.2])
    stats = GmmStats.empty(gmms)
    stats.accumulate(gmms, feats, pdfs)
    sums, log_like = plain_statistics(gmms, feats, pdfs)
    np.testing.assert_allclose(stats.sums, sums, rtol=1e-5, atol=1e-4)
    assert stats.log_like == pytest.approx(log_like, rel=1e-6)
    np.testing.assert_allclose(stats.pdf_occupancy(gmms), np.bincount(pdfs, minlength=8), rtol=1e-6)


def test_other_features_can_be_summed_than_those_that_are_scored(gmms):
    feats, pdfs = frames(200)
    others, _ = frames(200, seed=5)
    stats = GmmStats.empty(gmms)
    stats.accumulate(gmms, feats, pdfs, summed=others)
    sums, log_like = plain_statistics(gmms, feats, pdfs, others)
    np.testing.assert_allclose(stats.sums, sums, rtol=1e-5, atol=1e-3)
    assert stats.log_like == pytest.approx(log_like, rel=1e-6)


def test_sums_over_many_frames_of_a_pdf_stay_exact():
    gmms = random_gmms(DIM, counts=[1])
    feats = (np.random.default_rng(3).normal(size=(60_000, DIM)) + 5).astype(np.float32)
    stats = GmmStats.empty(gmms)
    stats.accumulate(gmms, feats, np.zeros(len(feats), dtype=np.int32))
    double = feats.astype(np.float64)
    expected = np.concatenate([double.sum(axis=0), np.square(double).sum(axis=0)])
    assert stats.occupancy.tolist() == [60_000]
    np.testing.assert_allclose(stats.moments[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("pdfs", "message"),
    [([0, 1], "with pdfs"), ([0, 1, 5], "0 to 5"), ([0, -1, 2], "-1 to 2")],
)
def test_alignments_that_do_not_fit_are_refused(gmms, pdfs, message):
    feats = np.zeros((3, DIM), dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        GmmStats.empty(gmms).accumulate(gmms, feats, np.array(pdfs))


def test_no_frames_change_nothing(gmms):
    stats = GmmStats.empty(gmms)
    stats.accumulate(gmms, np.zeros((0, DIM), dtype=np.float32), np.zeros(0, dtype=int))
    assert not stats.sums.any()
    assert stats.log_like == stats.frames == 0


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("minimum", [0.0, 10.0, 45.0, 1e9])
def test_the_update_equals_kaldis_whatever_it_removes(gmms, minimum, remove):
    feats, pdfs = frames(400)
    model = to_kaldi(gmms)
    options = khg.MleDiagGmmOptions()
    options.min_gaussian_occupancy = minimum
    options.remove_low_count_gaussians = remove
    khg.mle_am_diag_gmm_update(
        options, kaldi_stats(model, feats, pdfs), khg.str_to_gmm_flags("mvwt"), model
    )
    stats = GmmStats.empty(gmms)
    stats.accumulate(gmms, feats, pdfs)
    updated, summary = mle_update(
        gmms,
        stats,
        MleOptions(min_gaussian_occupancy=minimum, remove_low_count_gaussians=remove),
    )
    assert updated.num_gaussians == model.num_gauss == sum(COUNTS) - summary.removed
    assert updated.counts.tolist() == [model.num_gauss_in_pdf(i) for i in range(len(COUNTS))]
    np.testing.assert_allclose(updated.weights, rows(model, "weights"), atol=1e-5)
    np.testing.assert_allclose(updated.means, rows(model, "means"), atol=1e-3, rtol=1e-4)
    np.testing.assert_allclose(updated.variances, rows(model, "vars"), atol=2e-3, rtol=1e-3)


def test_variances_are_floored(gmms):
    feats, pdfs = np.ones((50, DIM), dtype=np.float32), np.zeros(50, dtype=int)
    stats = GmmStats.empty(gmms)
    stats.accumulate(gmms, feats, pdfs)
    updated, summary = mle_update(gmms, stats, MleOptions(min_variance=0.25))
    np.testing.assert_allclose(updated.variances[0], 0.25)
    assert summary.floored == 1


def test_an_update_never_lowers_the_likelihood(gmms):
    feats, pdfs = frames(500)
    likelihoods = []
    for _ in range(5):
        stats = GmmStats.empty(gmms)
        stats.accumulate(gmms, feats, pdfs)
        likelihoods.append(stats.log_like)
        gmms, _ = mle_update(gmms, stats, MleOptions(min_gaussian_occupancy=0))
    assert all(b > a - 0.1 for a, b in pairwise(likelihoods))


@pytest.mark.parametrize(
    ("target", "power", "min_count"), [(40, 0.25, 20), (25, 1.0, 5), (9, 0, 0)]
)
def test_gaussians_are_dealt_out_as_kaldi_does(gmms, target, power, min_count):
    occupancy = np.array([123.0, 2000.5, 17.0, 801.0, 55.0], dtype=np.float32)
    model = to_kaldi(gmms.select(range(5)))
    model.split_by_count(occupancy, target, 0.01, power, min_count)
    expected = [model.num_gauss_in_pdf(i) for i in range(5)]
    targets = split_targets(occupancy, target, power=power, min_count=min_count)
    if power:  # else all pdfs tie, and Kaldi's queue breaks ties in no order
        assert np.maximum(targets, COUNTS).tolist() == expected
    assert targets.sum() <= target
    split = split_by_count(
        gmms, occupancy, target, power=power, min_count=min_count,
        random=np.random.default_rng(0),
    )  # fmt: skip
    assert split.counts.tolist() == np.maximum(targets, COUNTS).tolist()


def test_pdfs_without_frames_are_not_split():
    assert split_targets(np.zeros(3), 10, power=0.25, min_count=20).tolist() == [1, 1, 1]


def test_splitting_keeps_the_weights_sum_and_moves_the_halves_apart(gmms):
    before = gmms.means_inv_vars.copy()
    split = split_by_count(
        gmms, np.full(5, 1e6), 60, power=0.5, random=np.random.default_rng(0), perturb_factor=0.1
    )
    sums = np.add.reduceat(split.weights, split.offsets[:-1])
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    # The first pdf had one Gaussian: its halves lie around the old mean.
    own = slice(0, split.offsets[1])
    mean = split.weights[own] @ split.means[own]
    np.testing.assert_allclose(mean, gmms.means[0], atol=1e-4)
    distance = np.abs(split.means[own] - gmms.means[0]) / np.sqrt(gmms.variances[0])
    assert 0 < distance.max() < 1.5
    np.testing.assert_allclose(split.variances[own], np.tile(gmms.variances[0], (12, 1)), rtol=1e-5)
    assert (gmms.means_inv_vars == before).all()


def test_pdfs_that_get_no_more_gaussians_stay_as_they_are(gmms):
    occupancy = np.array([1e4, 0, 0, 0, 0])
    split = split_by_count(gmms, occupancy, 8, power=1, random=np.random.default_rng(0))
    assert split.counts.tolist() == [4, *COUNTS[1:]]
    for name in ("weights", "means_inv_vars", "inv_vars"):
        np.testing.assert_array_equal(getattr(split, name)[4:], getattr(gmms, name)[1:])


def test_the_heaviest_gaussian_is_split(gmms):
    gmms = gmms.select([2])
    heavy, light = np.argsort(gmms.weights)[::-1]
    split = split_by_count(gmms, np.full(1, 1e4), 3, power=1, random=np.random.default_rng(0))
    np.testing.assert_array_equal(split.weights[[heavy, 2]], gmms.weights[heavy] / 2)
    np.testing.assert_array_equal(split.means_inv_vars[light], gmms.means_inv_vars[light])
    np.testing.assert_allclose(
        split.means_inv_vars[[heavy, 2]].mean(axis=0), gmms.means_inv_vars[heavy], rtol=1e-5
    )
    assert (split.means_inv_vars[heavy] != split.means_inv_vars[2]).all()


def test_splitting_repeats_with_the_same_seed(gmms):
    first, second = (
        split_by_count(gmms, np.full(5, 1e3), 30, power=0.5, random=np.random.default_rng(7))
        for _ in range(2)
    )
    assert (first.means_inv_vars == second.means_inv_vars).all()


def test_arrays_that_do_not_fit_are_refused():
    ones = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        DiagGmms(np.ones(3, dtype=np.float32), ones, ones, np.array([0, 2]))
