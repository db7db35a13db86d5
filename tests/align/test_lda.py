"""LDA against a plain computation of the covariances, its defining properties, and Kaldi's."""

import logging

import numpy as np
import pytest

from mariana_asr.align.formats.model_io import read_gmm_model, transition_id_to_pdf
from mariana_asr.align.transforms.lda import LdaStats, estimate_lda
from mariana_asr.archives import read_int_vectors
from mariana_asr.errors import StageError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.linear import read_matrix_file

CLASSES, DIM = 9, 6


def made_classes(count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    classes = random.integers(CLASSES - 1, size=count)  # the last class has no frames
    means = random.normal(size=(CLASSES, DIM)) * [4, 3, 2, 1, 0.5, 0.1]
    mixing = random.normal(size=(DIM, DIM))
    feats = (means[classes] + random.normal(size=(count, DIM))) @ mixing + 2
    return feats.astype(np.float32), classes


def covariances(feats: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Within and between classes, by plain loops."""
    feats = feats.astype(np.float64)
    mean = feats.mean(axis=0)
    within = between = np.zeros((feats.shape[1], feats.shape[1]))
    for c in np.unique(classes):
        own = feats[classes == c]
        centre = own.mean(axis=0)
        between = between + len(own) / len(feats) * np.outer(centre - mean, centre - mean)
        within = within + (own - centre).T @ (own - centre) / len(feats)
    return within, between


@pytest.fixture
def stats() -> LdaStats:
    stats = LdaStats.empty(CLASSES, DIM)
    stats.accumulate(*made_classes())
    return stats


def test_statistics_equal_sums_over_frames(stats):
    feats, classes = made_classes()
    second = np.zeros((DIM, DIM))
    sums = np.zeros((CLASSES, DIM))
    for frame, c in zip(feats.astype(np.float64), classes, strict=True):
        second += np.outer(frame, frame)
        sums[c] += frame
    np.testing.assert_allclose(stats.second, second, rtol=1e-10)
    np.testing.assert_allclose(stats.sums, sums, rtol=1e-10, atol=1e-9)
    assert stats.counts.tolist() == np.bincount(classes, minlength=CLASSES).tolist()


def test_statistics_of_parts_add_up_whatever_the_size_of_blocks(stats, monkeypatch):
    monkeypatch.setattr("mariana_asr.align.transforms.lda.BLOCK", 100)
    feats, classes = made_classes()
    first, second = LdaStats.empty(CLASSES, DIM), LdaStats.empty(CLASSES, DIM)
    first.accumulate(feats[:1234], classes[:1234])
    second.accumulate(feats[1234:], classes[1234:])
    second.accumulate(feats[:0], classes[:0])
    first.add(second)
    for name in ("counts", "sums", "second"):
        np.testing.assert_allclose(getattr(first, name), getattr(stats, name), rtol=1e-10)


def test_classes_have_unit_covariance_and_the_variance_between_them_falls(stats):
    within, between = covariances(*made_classes())
    lda, full = estimate_lda(stats, 4)
    assert lda.shape == (4, DIM)
    assert (lda == full[:4]).all()
    full = full.astype(np.float64)
    np.testing.assert_allclose(full @ within @ full.T, np.eye(DIM), atol=1e-5)
    projected = full @ between @ full.T
    variances = np.diag(projected)
    np.testing.assert_allclose(projected, np.diag(variances), atol=1e-4)
    assert (np.diff(variances) < 1e-6).all()
    expected = np.sort(np.linalg.eigvals(np.linalg.solve(within, between)).real)[::-1]
    np.testing.assert_allclose(variances, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_feature_is_smoothed_over(caplog):
    feats, classes = made_classes()
    feats[:, 2] = 0
    stats = LdaStats.empty(CLASSES, DIM)
    stats.accumulate(feats, classes)
    with caplog.at_level(logging.WARNING):
        lda, _ = estimate_lda(stats, 3)
    assert np.isfinite(lda).all()
    assert "singular" in caplog.text


@pytest.mark.parametrize(("dim", "message"), [(7, "7 dimensions"), (0, "0 dimensions")])
def test_impossible_dimensions_are_refused(stats, dim, message):
    with pytest.raises(StageError, match=message):
        estimate_lda(stats, dim)


def test_as_many_dimensions_as_classes_are_refused():
    with pytest.raises(StageError, match="4 classes"):
        estimate_lda(LdaStats.empty(4, DIM), 4)


def test_statistics_without_frames_are_refused():
    with pytest.raises(StageError, match="without any frames"):
        estimate_lda(LdaStats.empty(CLASSES, DIM), 3)


def test_features_that_never_vary_are_refused():
    stats = LdaStats.empty(CLASSES, DIM)
    stats.accumulate(np.zeros((50, DIM), dtype=np.float32), np.arange(50) % CLASSES)
    with pytest.raises(StageError, match="singular"):
        estimate_lda(stats, 3)


@pytest.mark.parametrize("classes", [np.array([0, CLASSES]), np.array([-1, 0]), np.array([0])])
def test_classes_that_do_not_fit_are_refused(stats, classes):
    with pytest.raises(ValueError, match="classes"):
        stats.accumulate(np.zeros((2, DIM), dtype=np.float32), classes)


def test_the_projection_keeps_what_kaldis_keeps(golden, an4):
    """On part of Kaldi's training data, its matrix must be about as good, and ours better.

    Kaldi's comes from all the data; its rows are mixed by MLLT, which moves no subspace.
    """
    folder = golden / "an4_kaldi"
    model = read_gmm_model(folder / "tri1/final.mdl")
    pdfs = transition_id_to_pdf(model.transition_model)
    silence = {int(p) for p in (folder / "lang/phones/silence.int").read_text().split()}
    ids = range(1, model.transition_model.num_transition_ids + 1)
    phones = [0, *(model.transition_model.transition_id_to_phone(i) for i in ids)]
    speech = np.array([phone not in silence for phone in phones])
    front_end = FrontEnd.of(an4, TransformOptions(splice_left=4, splice_right=4))
    stats = LdaStats.empty(model.gmm.num_pdfs, front_end.dim)
    alignments = dict(read_int_vectors(folder / "tri1/train_ali.ark"))
    for utterance, feats in front_end.iterate(an4):
        kept = speech[alignments[utterance]]
        stats.accumulate(feats[kept], pdfs[alignments[utterance]][kept])
    mean = stats.sums.sum(axis=0) / stats.counts.sum()
    seen = stats.counts > 0
    centres = stats.sums[seen] / stats.counts[seen, None] - mean
    between = (centres.T * stats.counts[seen]) @ centres / stats.counts.sum()
    within = stats.second / stats.counts.sum() - np.outer(mean, mean) - between

    def kept_variance(matrix: np.ndarray) -> float:
        matrix = matrix.astype(np.float64)
        return np.trace(np.linalg.solve(matrix @ within @ matrix.T, matrix @ between @ matrix.T))

    ours, _ = estimate_lda(stats)
    kaldis = kept_variance(read_matrix_file(folder / "tri3/final.mat"))
    assert 1 > kaldis / kept_variance(ours) > 0.97
