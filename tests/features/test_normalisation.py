"""CMVN, deltas and splicing against Kaldi's own output and against plain slow versions."""

from pathlib import Path

import kaldiio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mariana_asr.archives import iterate_matrices
from mariana_asr.errors import DataError
from mariana_asr.features.cmvn import accumulate_cmvn_stats, apply_cmvn, apply_sliding_cmvn
from mariana_asr.features.deltas import add_deltas
from mariana_asr.features.splice import splice


@pytest.fixture(scope="module")
def mfcc(golden: Path) -> dict[str, NDArray[np.float32]]:
    return dict(iterate_matrices(golden / "features" / "mfcc13_16k.ark"))


def kaldis(golden: Path, name: str) -> dict[str, NDArray[np.float32]]:
    return dict(kaldiio.load_ark(str(golden / "features" / f"{name}.ark")))


def speaker_stats(
    golden: Path, mfcc: dict[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float64]]:
    lines = (golden / "features" / "spk2utt").read_text().splitlines()
    members = {line.split()[0]: line.split()[1:] for line in lines}
    return {s: sum(accumulate_cmvn_stats(mfcc[u]) for u in us) for s, us in members.items()}


def test_speaker_statistics_equal_kaldis(golden: Path, mfcc: dict[str, NDArray]) -> None:
    expected = kaldis(golden, "cmvn_stats_16k")
    stats = speaker_stats(golden, mfcc)
    assert stats.keys() == expected.keys()
    for speaker, matrix in stats.items():
        assert matrix.shape == expected[speaker].shape == (2, 14)
        assert np.abs(matrix - expected[speaker]).max() < 1e-4


def test_cmvn_then_deltas_or_splicing_equal_kaldis(golden: Path, mfcc: dict[str, NDArray]) -> None:
    stats = speaker_stats(golden, mfcc)
    utt2spk = dict(
        line.split() for line in (golden / "features" / "utt2spk").read_text().splitlines()
    )
    normalised, with_deltas, spliced = (
        kaldis(golden, f"mfcc13_16k_cmvn{suffix}") for suffix in ("", "_deltas", "_splice3")
    )
    for utterance, feats in mfcc.items():
        ours = apply_cmvn(feats, stats[utt2spk[utterance]], norm_vars=True)
        for result, expected in (
            (ours, normalised[utterance]),
            (add_deltas(ours), with_deltas[utterance]),
            (splice(ours, 3, 3), spliced[utterance]),
        ):
            assert result.dtype == np.float32
            assert result.shape == expected.shape
            assert np.abs(result - expected).max() < 1e-4


def test_sliding_cmn_equals_kaldis(golden: Path, mfcc: dict[str, NDArray]) -> None:
    expected = kaldis(golden, "mfcc13_16k_sliding_cmn100")
    for utterance, feats in mfcc.items():
        ours = apply_sliding_cmvn(feats, cmn_window=100, center=True)
        assert ours.dtype == np.float32
        assert np.abs(ours - expected[utterance]).max() < 1e-4


def slow_sliding(
    feats: NDArray[np.float32], window: int, least: int, center: bool, norm_vars: bool
) -> NDArray[np.float64]:
    """A literal walk through the rules of apply-cmvn-sliding, one frame after the other."""
    result = []
    for t, row in enumerate(feats.astype(np.float64)):
        begin, end = (t - window // 2, t - window // 2 + window) if center else (t - window, t + 1)
        if begin < 0:
            begin, end = 0, end - begin
        if not center:
            end = max(t + 1, least)
        if end > len(feats):
            begin, end = max(0, begin - (end - len(feats))), len(feats)
        around = feats[begin:end].astype(np.float64)
        centred = row - around.mean(axis=0)
        if norm_vars:
            deviation = np.sqrt(np.maximum(around.var(axis=0), 1e-10))
            centred = centred / deviation if end - begin > 1 else centred * 0
        result.append(centred)
    return np.array(result)


@settings(deadline=None, max_examples=60)
@given(
    frames=st.integers(1, 60),
    window=st.integers(1, 80),
    least=st.integers(1, 80),
    center=st.booleans(),
    norm_vars=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sliding_cmvn_equals_a_walk_frame_by_frame(
    frames: int, window: int, least: int, center: bool, norm_vars: bool, seed: int
) -> None:
    feats = np.random.default_rng(seed).normal(5, 3, (frames, 2)).astype(np.float32)
    ours = apply_sliding_cmvn(
        feats, cmn_window=window, min_cmn_window=least, center=center, norm_vars=norm_vars
    )
    expected = slow_sliding(feats, window, least, center, norm_vars)
    assert np.allclose(ours, expected, atol=1e-4)


def test_mean_normalisation_alone_leaves_the_variance() -> None:
    feats = np.random.default_rng(0).normal(3, 2, (200, 4)).astype(np.float32)
    stats = accumulate_cmvn_stats(feats)
    centred = apply_cmvn(feats, stats)
    assert np.abs(centred.mean(axis=0)).max() < 1e-5
    assert np.allclose(centred.std(axis=0), feats.std(axis=0), atol=1e-5)
    assert np.allclose(apply_cmvn(feats, stats, norm_vars=True).std(axis=0), 1, atol=1e-4)


@pytest.mark.parametrize("norm_vars", [False, True])
def test_reverse_undoes_normalisation(norm_vars: bool) -> None:
    feats = np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32)
    stats = accumulate_cmvn_stats(feats)
    normalised = apply_cmvn(feats, stats, norm_vars=norm_vars)
    back = apply_cmvn(normalised, stats, norm_vars=norm_vars, reverse=True)
    assert np.allclose(back, feats, atol=1e-4)


def test_a_constant_feature_stays_finite() -> None:
    feats = np.full((30, 2), 7.0, dtype=np.float32)
    assert not apply_cmvn(feats, accumulate_cmvn_stats(feats), norm_vars=True).any()
    assert not apply_sliding_cmvn(feats, norm_vars=True).any()


def test_statistics_that_do_not_fit_are_an_error_with_both_dimensions() -> None:
    feats = np.ones((5, 13), dtype=np.float32)
    with pytest.raises(DataError, match=r"\(2, 41\).*13 dimensions.*\(2, 14\)"):
        apply_cmvn(feats, np.ones((2, 41)))
    with pytest.raises(DataError, match="0 frames"):
        apply_cmvn(feats, np.zeros((2, 14)))
    with pytest.raises(DataError, match=r"\(1, 14\)"):
        apply_cmvn(feats, np.ones((1, 14)), norm_vars=True)


@settings(deadline=None, max_examples=40)
@given(
    frames=st.integers(1, 20), order=st.integers(0, 3), window=st.integers(1, 4), seed=st.integers()
)
def test_deltas_are_the_slope_of_a_line_fitted_to_the_frames(
    frames: int, order: int, window: int, seed: int
) -> None:
    feats = np.random.default_rng(abs(seed)).normal(size=(frames, 2)).astype(np.float32)
    ours = add_deltas(feats, order, window)
    assert ours.shape == (frames, 2 * (order + 1))
    # Edge frames repeated for as far as all orders together look, then plain regressions.
    reach = order * window
    level = np.pad(feats.astype(np.float64), ((reach, reach), (0, 0)), mode="edge")
    positions = np.arange(-window, window + 1)
    for degree in range(order + 1):
        trim = reach - degree * window
        middle = level[trim : len(level) - trim] if trim else level
        assert np.allclose(ours[:, 2 * degree : 2 * degree + 2], middle, atol=1e-5)
        level = np.array(
            [
                np.polyfit(positions, level[t : t + 2 * window + 1], 1)[0]
                for t in range(len(level) - 2 * window)
            ]
        )


def test_splicing_repeats_the_edge_frames_and_keeps_the_order_of_time() -> None:
    feats = np.array([[1, 10], [2, 20], [3, 30]], dtype=np.float32)
    assert splice(feats, 2, 1).tolist() == [
        [1, 10, 1, 10, 1, 10, 2, 20],
        [1, 10, 1, 10, 2, 20, 3, 30],
        [1, 10, 2, 20, 3, 30, 3, 30],
    ]
    assert np.array_equal(splice(feats, 0, 0), feats)
    assert splice(feats[:1], 5, 5).shape == (1, 22)
