"""fMLLR against sums over frames, Kaldi's row update written plainly, and Kaldi's transforms."""

import numpy as np
import pytest
from small_gmms import log_likelihood, random_gmms, sample, slow_posteriors

from mariana_asr.align.formats.model_io import read_gmm_model, transition_id_to_pdf
from mariana_asr.align.gmm.estimation import GmmStats
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.transforms.fmllr import (
    FmllrOptions,
    FmllrStats,
    accumulate_speakers,
    estimate_fmllr,
)
from mariana_asr.align.transforms.second_moments import unpack_symmetric
from mariana_asr.archives import iterate_matrices, read_int_vectors
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.linear import apply_linear, compose_affine, read_matrix_file

DIM = 5
UNIT = np.eye(DIM, DIM + 1)


@pytest.fixture
def gmms() -> DiagGmms:
    return random_gmms(DIM)


def distorted(feats: np.ndarray, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """What another speaker's features look like, and the transform that undoes it."""
    random = np.random.default_rng(seed)
    matrix = np.eye(DIM) + 0.15 * random.normal(size=(DIM, DIM))
    offset = random.normal(size=DIM)
    given = (feats - offset) @ np.linalg.inv(matrix).T
    return given.astype(np.float32), np.column_stack([matrix, offset])


def slow_statistics(gmms, feats, pdfs, weights, posterior_gmms=None, posterior_feats=None):
    """AffineXformStats by plain loops: count, K and G."""
    posterior_gmms = gmms if posterior_gmms is None else posterior_gmms
    posterior_feats = feats if posterior_feats is None else posterior_feats
    count = 0.0
    linear = np.zeros((gmms.dim, gmms.dim + 1))
    quadratic = np.zeros((gmms.dim, gmms.dim + 1, gmms.dim + 1))
    for frame, chosen_by, pdf, weight in zip(feats, posterior_feats, pdfs, weights, strict=True):
        extended = np.append(frame.astype(np.float64), 1)
        posteriors = weight * slow_posteriors(posterior_gmms, chosen_by, pdf)
        count += posteriors.sum()
        for g, posterior in enumerate(posteriors, gmms.offsets[pdf]):
            linear += posterior * np.outer(gmms.means[g] / gmms.variances[g], extended)
            for d in range(gmms.dim):
                quadratic[d] += posterior / gmms.variances[g, d] * np.outer(extended, extended)
    return count, linear, quadratic


def check(stats: FmllrStats, expected) -> None:
    count, linear, quadratic = expected
    assert stats.count == pytest.approx(count)
    np.testing.assert_allclose(stats.linear, linear, rtol=1e-4, atol=1e-2)
    ours = unpack_symmetric(stats.quadratic, stats.dim + 1)
    np.testing.assert_allclose(ours, quadratic, rtol=1e-4, atol=1e-2)


def collected(gmms: DiagGmms, feats: np.ndarray, pdfs: np.ndarray, **options) -> FmllrStats:
    stats = FmllrStats.empty(DIM)
    stats.accumulate(gmms, feats, pdfs, **options)
    return stats


def objective(stats: FmllrStats, transform: np.ndarray) -> float:
    """FmllrAuxFuncDiagGmm, a frame."""
    quadratic = unpack_symmetric(stats.quadratic, stats.dim + 1)
    value = stats.count * np.linalg.slogdet(transform[:, :-1])[1] + (transform * stats.linear).sum()
    value -= 0.5 * sum(row @ g @ row for row, g in zip(transform, quadratic, strict=True))
    return value / stats.count


def slow_update(stats: FmllrStats, iterations: int) -> np.ndarray:
    """FmllrInnerUpdate for each row, with an inverse of the whole matrix each time."""
    dim = stats.dim
    quadratic = unpack_symmetric(stats.quadratic, dim + 1)
    transform = np.eye(dim, dim + 1)
    for _ in range(iterations):
        for d in range(dim):
            cofactor = np.append(np.linalg.inv(transform[:, :dim]).T[d], 0)
            solved = np.linalg.solve(quadratic[d], cofactor)
            square, cross = solved @ cofactor, solved @ stats.linear[d]
            discriminant = np.sqrt(cross**2 + 4 * square * stats.count)
            alpha = max(
                ((-cross + sign * discriminant) / (2 * square) for sign in (1, -1)),
                key=lambda a: stats.count * np.log(abs(a * square + cross)) - 0.5 * a * a * square,
            )
            transform[d] = np.linalg.solve(quadratic[d], alpha * cofactor + stats.linear[d])
    return transform


def test_statistics_equal_a_loop_over_frames_and_gaussians(gmms):
    feats, pdfs = sample(gmms, 200)
    weights = np.random.default_rng(0).choice([0, 0.25, 1], size=200)
    stats, rest = FmllrStats.empty(DIM), FmllrStats.empty(DIM)
    stats.accumulate(gmms, feats[:70], pdfs[:70], weights[:70])
    rest.accumulate(gmms, feats[70:], pdfs[70:], weights[70:])
    rest.accumulate(gmms, feats[:20], pdfs[:20], np.zeros(20))
    rest.accumulate(gmms, feats[:0], pdfs[:0])
    stats.add(rest)
    check(stats, slow_statistics(gmms, feats, pdfs, weights))


def test_posteriors_of_another_model_on_other_features(gmms):
    other = random_gmms(DIM, seed=9)
    feats, pdfs = sample(gmms, 150)
    other_feats, _ = sample(gmms, 150, seed=8)
    stats = collected(gmms, feats, pdfs, posterior_gmms=other, posterior_feats=other_feats)
    check(stats, slow_statistics(gmms, feats, pdfs, np.ones(150), other, other_feats))


def test_several_pdfs_a_frame_with_weights(gmms):
    random = np.random.default_rng(0)
    feats, _ = sample(gmms, 60)
    repeats = random.integers(1, 4, size=60)
    rows = np.repeat(feats, repeats, axis=0)
    pdfs = random.integers(gmms.num_pdfs, size=len(rows))
    weights = random.uniform(size=len(rows))
    check(collected(gmms, rows, pdfs, weights=weights), slow_statistics(gmms, rows, pdfs, weights))


def test_many_speakers_at_once_are_as_one_by_one(gmms):
    feats, pdfs = sample(gmms, 300)
    feats[150] = feats[149]  # the last frame of one speaker is the first of the next
    speakers = np.repeat([2, 0, 2, 3], [100, 50, 50, 100])
    weights = np.random.default_rng(0).uniform(size=300)
    together = [FmllrStats.empty(DIM) for _ in range(4)]
    accumulate_speakers(together, speakers, gmms, feats, pdfs, weights)
    for number in (0, 2, 3):
        own = speakers == number
        check(together[number], slow_statistics(gmms, feats[own], pdfs[own], weights[own]))
    assert together[1].count == 0


def test_a_full_transform_equals_kaldis_row_updates(gmms, monkeypatch):
    monkeypatch.setattr("mariana_asr.align.transforms.fmllr.REFRESH", 1000)
    feats, pdfs = sample(gmms, 600)
    stats = collected(gmms, distorted(feats)[0], pdfs)
    for iterations in (1, 3, 40):
        (result,) = estimate_fmllr([stats], FmllrOptions(num_iters=iterations))
        expected = slow_update(stats, iterations)
        np.testing.assert_allclose(result.matrix, expected, rtol=1e-5, atol=1e-5)
        gain = objective(stats, expected) - objective(stats, UNIT)
        assert result.improvement == pytest.approx(gain, rel=1e-6)
        assert (result.adapted, result.reason) == (True, "")


@pytest.mark.parametrize("update_type", ["full", "diag", "offset"])
def test_no_step_within_the_kind_of_transform_helps(gmms, update_type):
    feats, pdfs = sample(gmms, 800)
    stats = collected(gmms, distorted(feats)[0], pdfs)
    (result,) = estimate_fmllr([stats], FmllrOptions(update_type=update_type))
    best = result.matrix.astype(np.float64)
    value = objective(stats, best)
    assert value - objective(stats, UNIT) == pytest.approx(result.improvement, rel=1e-4)
    free = {"full": np.ones_like(UNIT), "diag": UNIT.copy(), "offset": np.zeros_like(UNIT)}
    free[update_type][:, -1] = 1
    assert (best[free[update_type] == 0] == UNIT[free[update_type] == 0]).all()
    for place in np.argwhere(free[update_type]):
        for step in (1e-2, -1e-2):
            moved = best.copy()
            moved[tuple(place)] += step
            assert objective(stats, moved) < value


@pytest.mark.parametrize("update_type", ["full", "diag", "offset"])
def test_likelihood_rises_by_no_less_than_the_improvement(gmms, update_type):
    feats, pdfs = sample(gmms, 600)
    given, _ = distorted(feats)
    stats = collected(gmms, given, pdfs)
    (result,) = estimate_fmllr([stats], FmllrOptions(update_type=update_type))
    matrix = result.matrix.astype(np.float64)
    adapted = given @ matrix[:, :-1].T + matrix[:, -1]
    rise = log_likelihood(gmms, adapted, pdfs) - log_likelihood(gmms, given, pdfs)
    rise = rise / len(feats) + np.linalg.slogdet(matrix[:, :-1])[1]
    assert rise > result.improvement - 1e-4 > 0


def test_a_known_distortion_is_undone(gmms):
    feats, pdfs = sample(gmms, 20000)
    given, expected = distorted(feats)
    stats = collected(gmms, given, pdfs, posterior_feats=feats)
    (result,) = estimate_fmllr([stats], FmllrOptions())
    np.testing.assert_allclose(result.matrix, expected, atol=0.06)


@pytest.mark.parametrize("update_type", ["full", "diag", "offset"])
def test_speakers_in_batches_are_as_one_by_one(gmms, monkeypatch, update_type):
    monkeypatch.setattr("mariana_asr.align.transforms.fmllr.BATCH", 3)
    feats, pdfs = sample(gmms, 600)
    stats = [collected(gmms, distorted(feats, seed)[0], pdfs) for seed in range(7)]
    options = FmllrOptions(update_type=update_type)
    together = estimate_fmllr(stats, options)
    assert len(together) == 7
    for speaker, result in zip(stats, together, strict=True):
        (alone,) = estimate_fmllr([speaker], options)
        np.testing.assert_allclose(result.matrix, alone.matrix, rtol=1e-5, atol=1e-6)
        assert result.improvement == pytest.approx(alone.improvement)


def test_a_speaker_with_few_frames_keeps_the_unit_transform(gmms):
    feats, pdfs = sample(gmms, 501)
    given, _ = distorted(feats)
    few, enough = collected(gmms, given[:500], pdfs[:500]), collected(gmms, given, pdfs)
    results = estimate_fmllr([few, enough, FmllrStats.empty(DIM)], FmllrOptions())
    assert [result.adapted for result in results] == [False, True, False]
    assert (results[0].matrix == UNIT).all()
    assert results[0].count == pytest.approx(500)
    assert results[0].improvement == 0
    assert "500 frames" in results[0].reason
    assert results[2].count == 0


@pytest.mark.parametrize("update_type", ["full", "diag"])
def test_features_that_never_vary_spoil_no_other_speaker(gmms, update_type):
    feats, pdfs = sample(gmms, 600)
    constant = feats.copy()
    constant[:, 2] = 0.1
    stats = [collected(gmms, constant, pdfs), collected(gmms, distorted(feats)[0], pdfs)]
    broken, sound = estimate_fmllr(stats, FmllrOptions(update_type=update_type))
    assert (broken.matrix == UNIT).all()
    assert not broken.adapted
    assert "too few directions" in broken.reason
    assert sound.adapted
    (alone,) = estimate_fmllr(stats[1:], FmllrOptions(update_type=update_type))
    np.testing.assert_allclose(sound.matrix, alone.matrix, rtol=1e-5, atol=1e-6)


def test_no_update_is_the_unit_transform(gmms):
    stats = collected(gmms, *sample(gmms, 600))
    (result,) = estimate_fmllr([stats], FmllrOptions(update_type="none"))
    assert (result.matrix == UNIT).all()
    assert not result.adapted


def test_no_speakers_have_no_transforms():
    assert estimate_fmllr([], FmllrOptions()) == []


def test_models_of_different_sizes_are_refused(gmms):
    feats, pdfs = sample(gmms, 10)
    other = random_gmms(DIM, counts=[1, 2, 4, 3])
    with pytest.raises(ValueError, match="numbers of Gaussians"):
        collected(gmms, feats, pdfs, posterior_gmms=other)


def test_rows_that_do_not_fit_are_refused(gmms):
    feats, pdfs = sample(gmms, 10)
    with pytest.raises(ValueError, match="9 pdfs"):
        collected(gmms, feats, pdfs[:9])


def distances(ours: list[np.ndarray], theirs: list[np.ndarray]) -> np.ndarray:
    pairs = zip(ours, theirs, strict=True)
    return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs])


def test_transforms_of_an4_speakers_are_close_to_kaldis(golden, an4):
    """With the final model and alignments, ours are near Kaldi's and no less likely.

    Kaldi made its transforms on the way, with the models and alignments of four iterations.
    """
    folder = golden / "an4_kaldi/tri3"
    model = read_gmm_model(folder / "final.mdl")
    first_pass = read_gmm_model(folder / "final.alimdl").gmm
    kaldis = dict(iterate_matrices(folder / "trans.1"))
    kaldis.update(iterate_matrices(folder / "trans.2"))
    ids = range(1, model.transition_model.num_transition_ids + 1)
    phones = [0, *(model.transition_model.transition_id_to_phone(i) for i in ids)]
    silence = (golden / "an4_kaldi/lang/phones/silence.int").read_text().split()
    speech = ~np.isin(phones, [int(phone) for phone in silence])
    transform = TransformOptions(splice_left=4, splice_right=4)
    front_end = FrontEnd.of(an4, transform).with_matrix(read_matrix_file(folder / "final.mat"))
    alignments = read_int_vectors(folder / "train_ali.ark")
    names = sorted(set(an4.utt2spk.values()))[:-1]  # of the last one, some utterances are missing
    frames, tids, owners = [], [], []
    for utterance, feats in front_end.iterate(an4):
        if an4.utt2spk[utterance] in names:
            kept = speech[alignments[utterance]]
            frames.append(feats[kept])
            tids.append(alignments[utterance][kept])
            owners.append(np.full(kept.sum(), names.index(an4.utt2spk[utterance])))
    feats, speakers = np.concatenate(frames), np.concatenate(owners)
    pdfs = transition_id_to_pdf(model.transition_model)[np.concatenate(tids)]

    def adapted(transforms: list[np.ndarray]) -> np.ndarray:
        parts = [apply_linear(feats[speakers == i], t) for i, t in enumerate(transforms)]
        return np.concatenate(parts)  # speakers follow one another

    def likelihood(transforms: list[np.ndarray]) -> float:
        stats = GmmStats.empty(model.gmm)
        stats.accumulate(model.gmm, adapted(transforms), pdfs)
        volumes = [np.linalg.slogdet(t[:, :-1].astype(np.float64))[1] for t in transforms]
        return (stats.log_like + np.bincount(speakers) @ volumes) / len(feats)

    expected = [kaldis[name] for name in names]
    unit = [np.eye(*matrix.shape, dtype=np.float32) for matrix in expected]
    stats = [FmllrStats.empty(front_end.dim) for _ in names]
    accumulate_speakers(stats, speakers, model.gmm, feats, pdfs, posterior_gmms=first_pass)
    results = estimate_fmllr(stats, FmllrOptions())
    ours = [result.matrix for result in results]
    assert all(result.adapted for result in results)
    assert distances(unit, expected).min() > 0.35
    assert distances(ours, expected).max() < 0.05
    for own, matrix, theirs in zip(stats, ours, expected, strict=True):
        assert 0 < objective(own, matrix.astype(float)) - objective(own, theirs.astype(float)) < 0.2
    first, kaldi = likelihood(ours), likelihood(expected)
    assert kaldi < first < kaldi + 0.2
    assert likelihood(unit) < kaldi - 10
    # A second estimate on adapted features, composed with the first as SAT does.
    stats = [FmllrStats.empty(front_end.dim) for _ in names]
    accumulate_speakers(stats, speakers, model.gmm, adapted(ours), pdfs)
    changes = [result.matrix for result in estimate_fmllr(stats, FmllrOptions())]
    composed = [compose_affine(*pair) for pair in zip(changes, ours, strict=True)]
    assert first < likelihood(composed) < first + 0.2
    assert distances(composed, expected).max() < 0.1
