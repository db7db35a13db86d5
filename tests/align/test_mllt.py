"""MLLT against sums over frames and Gaussians, Kaldi's row update written plainly, and its aim."""

import logging

import numpy as np
import pytest
from small_gmms import COUNTS, log_likelihood, random_gmms, sample, slow_posteriors

from mariana_asr.align.formats.model_io import read_gmm_model, transition_id_to_pdf
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.transforms.mllt import MlltStats, estimate_mllt, transform_means
from mariana_asr.align.transforms.second_moments import unpack_symmetric, weighted_second_moments
from mariana_asr.archives import iterate_matrices, read_int_vectors
from mariana_asr.errors import StageError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.linear import read_matrix_file

DIM = 5


@pytest.fixture
def gmms() -> DiagGmms:
    return random_gmms(DIM)


def correlated(gmms: DiagGmms, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose covariances are not diagonal."""
    feats, pdfs = sample(gmms, count)
    mixing = np.eye(DIM) + 0.3 * np.random.default_rng(3).normal(size=(DIM, DIM))
    return (feats @ mixing.T).astype(np.float32), pdfs


def slow_statistics(gmms: DiagGmms, feats: np.ndarray, pdfs: np.ndarray) -> np.ndarray:
    scatter = np.zeros((gmms.dim, gmms.dim, gmms.dim))
    for frame, pdf in zip(feats, pdfs, strict=True):
        for g, posterior in enumerate(slow_posteriors(gmms, frame, pdf), gmms.offsets[pdf]):
            offset = frame.astype(np.float64) - gmms.means[g]
            for d in range(gmms.dim):
                scatter[d] += posterior * gmms.inv_vars[g, d] * np.outer(offset, offset)
    return scatter


def slow_update(count: float, scatter: np.ndarray, iterations: int = 200):
    """MlltAccs::Update, with an inverse of the whole matrix for each row."""
    dim = len(scatter)
    matrix = np.eye(dim)

    def objective() -> float:
        rows = sum(matrix[d] @ scatter[d] @ matrix[d] for d in range(dim))
        return count * np.linalg.slogdet(matrix)[1] - 0.5 * rows

    before = objective()
    for _ in range(iterations):
        for d in range(dim):
            cofactor = np.linalg.inv(matrix).T[d]
            solved = np.linalg.solve(scatter[d], cofactor)
            matrix[d] = solved * np.sqrt(count / (cofactor @ solved))
    return matrix, (objective() - before) / count


def test_weighted_second_moments_equal_a_loop(monkeypatch):
    monkeypatch.setattr("mariana_asr.align.transforms.second_moments.BLOCK", 7)
    random = np.random.default_rng(0)
    weights, vectors = random.normal(size=(30, 3)), random.normal(size=(30, 4))
    sums = unpack_symmetric(weighted_second_moments(weights, vectors), 4)
    for a in range(3):
        expected = sum(w * np.outer(x, x) for w, x in zip(weights[:, a], vectors, strict=True))
        np.testing.assert_allclose(sums[a], expected, atol=1e-12)


def test_second_moments_of_no_vectors_are_zero():
    sums = weighted_second_moments(np.zeros((0, 2)), np.zeros((0, 3)))
    assert (sums == np.zeros((2, 6))).all()


def test_statistics_equal_a_loop_over_frames_and_gaussians(gmms):
    feats, pdfs = correlated(gmms, 250)
    stats, rest = MlltStats.empty(DIM), MlltStats.empty(DIM)
    stats.accumulate(gmms, feats[:90], pdfs[:90])
    rest.accumulate(gmms, feats[90:], pdfs[90:])
    rest.accumulate(gmms, feats[:0], pdfs[:0])
    stats.add(rest)
    expected = slow_statistics(gmms, feats, pdfs)
    np.testing.assert_allclose(unpack_symmetric(stats.scatter, DIM), expected, rtol=1e-4, atol=1e-2)
    assert stats.count == pytest.approx(250)


def test_the_estimate_equals_kaldis_update(gmms):
    feats, pdfs = correlated(gmms, 400)
    stats = MlltStats.empty(DIM)
    stats.accumulate(gmms, feats, pdfs)
    matrix, gain = estimate_mllt(stats)
    expected, expected_gain = slow_update(stats.count, unpack_symmetric(stats.scatter, DIM))
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)
    assert gain == pytest.approx(expected_gain, rel=1e-9)
    assert gain > 0.1


def test_likelihood_rises_by_no_less_than_the_objective(gmms):
    feats, pdfs = correlated(gmms, 400)
    stats = MlltStats.empty(DIM)
    stats.accumulate(gmms, feats, pdfs)
    matrix, gain = estimate_mllt(stats)
    before = log_likelihood(gmms, feats, pdfs) / len(feats)
    after = log_likelihood(transform_means(gmms, matrix), feats @ matrix.T, pdfs) / len(feats)
    assert after + np.linalg.slogdet(matrix.astype(np.float64))[1] - before > gain - 1e-4


def test_covariances_that_are_diagonal_need_no_transform(gmms):
    feats, pdfs = sample(gmms, 20000)
    stats = MlltStats.empty(DIM)
    stats.accumulate(gmms, feats, pdfs)
    matrix, gain = estimate_mllt(stats)
    np.testing.assert_allclose(matrix, np.eye(DIM), atol=0.04)
    assert 0 <= gain < 2e-3


def test_few_frames_are_warned_of_and_too_few_refused(gmms, caplog):
    feats, pdfs = correlated(gmms, 40)
    stats = MlltStats.empty(DIM)
    stats.accumulate(gmms, feats, pdfs)
    with caplog.at_level(logging.WARNING):
        estimate_mllt(stats)
    assert "40 frames only" in caplog.text
    with pytest.raises(StageError, match="singular"):
        estimate_mllt(MlltStats.empty(DIM))


@pytest.mark.parametrize("affine", [False, True])
def test_means_move_and_nothing_else(gmms, affine):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(DIM, DIM + affine))
    moved = transform_means(gmms, matrix)
    for old, new in zip(gmms.means, moved.means, strict=True):
        expected = matrix @ np.append(old, 1) if affine else matrix @ old
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-5)
    for name in ("weights", "inv_vars", "offsets"):
        assert (getattr(moved, name) == getattr(gmms, name)).all()
    untouched = transform_means(gmms, np.eye(DIM))
    np.testing.assert_allclose(untouched.gconsts, gmms.gconsts, rtol=1e-5)


def test_a_transform_of_another_dimension_is_refused(gmms):
    with pytest.raises(ValueError, match="dim 5"):
        transform_means(gmms, np.eye(DIM + 1))


@pytest.mark.parametrize(
    ("feats", "pdfs", "message"),
    [
        (np.zeros((2, DIM + 1)), np.zeros(2, dtype=int), "dim 5"),
        (np.zeros((2, DIM)), np.zeros(3, dtype=int), "dim 5"),
        (np.zeros((2, DIM)), np.array([0, len(COUNTS)]), "4 pdfs"),
    ],
)
def test_frames_that_do_not_fit_are_refused(gmms, feats, pdfs, message):
    with pytest.raises(ValueError, match=message):
        MlltStats.empty(feats.shape[1]).accumulate(gmms, feats, pdfs)


def test_little_is_left_to_gain_on_kaldis_matrix(golden, an4):
    """Its features, adapted to the speakers, are near the optimum that Kaldi found before SAT."""
    folder = golden / "an4_kaldi/tri3"
    model = read_gmm_model(folder / "final.mdl")
    pdfs = transition_id_to_pdf(model.transition_model)
    transform = TransformOptions(splice_left=4, splice_right=4)
    front_end = FrontEnd.of(an4, transform).with_matrix(read_matrix_file(folder / "final.mat"))
    alignments = read_int_vectors(folder / "train_ali.ark")
    speakers = dict(iterate_matrices(folder / "trans.1"))
    speakers.update(iterate_matrices(folder / "trans.2"))
    utterances = list(front_end.iterate(an4, speakers=speakers))
    stats = MlltStats.empty(front_end.dim)
    stats.accumulate(
        model.gmm,
        np.concatenate([feats for _, feats in utterances]),
        np.concatenate([pdfs[alignments[utterance]] for utterance, _ in utterances]),
    )
    matrix, gain = estimate_mllt(stats)
    assert 0 < gain < 0.15  # without the adaptation, 0.55 on these few speakers
    np.testing.assert_allclose(matrix, np.eye(front_end.dim), atol=0.12)
