"""Pitch features against Kaldi's, plain slow versions, and voices of a known pitch."""

import json
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from mariana_asr.archives import read_matrix
from mariana_asr.corpus.audio import read_audio
from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.errors import DataError, FormatError, RecipeError
from mariana_asr.features import pitch_tracking
from mariana_asr.features.compute import compute_features
from mariana_asr.features.extract import extract_features
from mariana_asr.features.frames import FrameOptions
from mariana_asr.features.front_end import FrontEnd, TransformOptions, compare_settings
from mariana_asr.features.options import feature_options
from mariana_asr.features.pitch import process_pitch
from mariana_asr.features.pitch_options import PitchOptions
from mariana_asr.features.pitch_tracking import best_path, select_lags, track_pitch
from mariana_asr.options import assignment_tree


def test_pitch_features_equal_kaldis(golden: Path, corpora: Path) -> None:
    expected = dict(kaldiio.load_ark(str(golden / "features" / "pitch_16k.ark")))
    script = golden / "features" / "wav16k.scp"
    locations = dict(line.split() for line in script.read_text().splitlines())
    assert locations.keys() == expected.keys()
    for utterance, location in locations.items():
        audio = read_audio(corpora.parent / location)
        mfcc = compute_features(*audio, feature_options({}))
        both = compute_features(*audio, feature_options({"pitch": {}}))
        pitch = expected[utterance]
        assert both.dtype == np.float32
        assert np.array_equal(both[:, :13], mfcc[: len(pitch)])
        # All 1583 frames are within 6e-5: where one frame's path went by another lag, the second
        # column would be off by 0.01 there and around it.
        assert np.abs(both[:, 13:] - pitch).max() < 1e-3


def voice(rate: int, last_samples: float = 0.0) -> NDArray[np.float32]:
    """Two syllables of 0.15 s that glide from 110 to 210 Hz, with noise."""
    time = np.arange(round(0.3 * rate)) / rate
    phase = 2 * np.pi * np.cumsum(110 + 100 * time / 0.3) / rate
    tone = sum(np.cos(k * phase) / k for k in range(1, 8))
    loud = np.maximum(0, np.sin(2 * np.pi * 2.5 * time / 0.3))
    # RandomState's numbers are promised to stay as they are.
    noise = np.random.RandomState(0).standard_normal(len(time))
    samples = (2000 * loud * tone + 50 * noise).astype(np.float32)
    samples[-4:] += np.float32(last_samples)
    return samples


@pytest.mark.parametrize(
    ("rate", "last_samples", "frames", "options", "pitch", "correlation"),
    [
        pytest.param(
            8000,
            0.0,
            {},
            {},
            "117.28 120.24 122.05 124.51 127.02 130.23 134.18 137.57 141.75 146.05 150.49 "
            "154.29 156.62 158.98 161.38 163.81 166.28 169.63 173.05 176.53 180.09 183.72 "
            "187.42 193.11 196.03 198.98 200.98 202.99",
            "0.934 0.962 0.964 0.941 0.907 0.774 0.017 0.012 0.008 -0.075 0.867 0.940 0.967 "
            "0.980 0.978 0.967 0.952 0.797 -0.279 -0.159 0.093 0.115 0.721 0.951 0.976 0.986 "
            "0.987 0.982",
            id="defaults at 8 kHz",
        ),
        pytest.param(
            8000,
            0.0,
            {"snip_edges": False},
            {},
            "114.39 113.82 117.86 120.24 122.05 124.51 127.02 130.23 134.18 138.26 142.46 "
            "146.78 151.24 155.06 157.40 159.77 162.99 164.63 167.94 172.19 175.65 179.19 "
            "182.81 186.49 191.20 195.05 197.01 199.98 201.98 204.01",
            "0.667 0.910 0.952 0.960 0.961 0.938 0.906 -0.079 -0.045 -0.008 -0.040 0.271 "
            "0.880 0.955 0.969 0.979 0.966 0.963 0.930 0.752 -0.304 -0.060 0.084 -0.024 0.876 "
            "0.965 0.983 0.987 0.988 0.977",
            id="a frame every shift",
        ),
        pytest.param(
            8000,
            3e5,
            {},
            {},
            "59.51 59.81 59.81 59.22 58.63 58.05 57.47 56.90 56.34 55.50 54.68 54.13 53.60 "
            "53.60 53.60 53.33 53.06 52.54 52.28 51.76 51.50 50.99 50.74 50.48 50.48 50.99 "
            "52.28 52.54",
            "0.803 0.837 0.734 0.431 0.061 0.010 0.156 0.012 0.039 0.109 -0.047 0.385 0.739 "
            "0.818 0.775 0.491 0.094 -0.246 -0.119 0.007 0.218 0.103 0.207 0.426 0.642 0.649 "
            "0.319 0.364",
            id="a loud end",
        ),
        pytest.param(
            8000,
            3e5,
            {"snip_edges": False},
            {},
            "59.22 59.22 59.51 59.81 59.81 59.22 58.63 57.76 57.19 56.62 56.06 55.22 54.40 "
            "53.86 53.60 53.60 53.86 53.60 53.06 52.80 52.54 52.02 51.50 50.99 50.48 50.23 "
            "50.23 50.99 52.28 52.54",
            "0.537 0.724 0.841 0.837 0.712 0.355 0.086 -0.009 0.050 -0.040 0.261 -0.023 0.230 "
            "0.526 0.757 0.831 0.736 0.490 0.028 -0.146 -0.112 -0.058 -0.043 0.103 0.225 "
            "0.586 0.772 0.714 0.332 0.423",
            id="a loud end and a frame every shift",
        ),
        pytest.param(
            11025,
            0.0,
            {},
            {},
            "117.28 120.24 122.05 124.51 127.02 130.23 134.18 138.26 142.46 146.05 150.49 "
            "154.29 156.62 158.98 161.38 163.81 166.28 169.63 173.05 176.53 180.09 183.72 "
            "187.42 193.11 196.03 198.98 200.98 202.99",
            "0.933 0.964 0.965 0.942 0.914 0.816 0.013 0.161 -0.057 0.113 0.892 0.947 0.967 "
            "0.980 0.979 0.968 0.956 0.873 0.043 -0.181 -0.238 -0.171 0.687 0.950 0.975 0.986 "
            "0.987 0.983",
            id="a rate that is resampled in phases",
        ),
        pytest.param(
            16000,
            0.0,
            {},
            {
                "lowpass_cutoff": 700,
                "lowpass_filter_width": 3,
                "resample_frequency": 3000,
                "upsample_filter_width": 7,
            },
            "117.28 119.64 122.05 124.51 127.02 130.23 134.18 137.57 141.75 146.05 150.49 "
            "154.29 156.62 158.98 161.38 163.81 166.28 170.48 173.91 177.42 180.99 184.64 "
            "188.36 193.11 196.03 198.98 200.98 202.99",
            "0.933 0.969 0.968 0.946 0.917 0.806 0.152 0.216 0.148 0.029 0.877 0.945 0.969 "
            "0.985 0.983 0.970 0.955 0.850 -0.171 -0.073 0.123 0.193 0.765 0.957 0.977 0.989 "
            "0.990 0.985",
            id="other filters",
        ),
        pytest.param(
            8000,
            0.0,
            {},
            {
                "min_f0": 80,
                "max_f0": 300,
                "soft_min_f0": 40,
                "penalty_factor": 0.5,
                "delta_pitch": 0.02,
                "nccf_ballast": 100,
            },
            "118.28 120.65 123.06 125.52 128.03 130.59 133.20 135.87 138.58 144.18 150.01 "
            "153.01 156.07 159.19 162.37 165.62 165.62 168.93 172.31 175.76 179.27 182.86 "
            "186.52 194.05 197.93 197.93 201.89 201.89",
            "0.923 0.960 0.959 0.933 0.893 0.772 0.012 0.036 0.098 -0.053 0.861 0.936 0.966 "
            "0.980 0.975 0.962 0.954 0.795 -0.270 -0.159 0.090 0.109 0.729 0.953 0.972 0.986 "
            "0.986 0.980",
            id="another search",
        ),
        pytest.param(
            8000,
            0.0,
            {"frame_length": 32, "frame_shift": 12.5},
            {},
            "118.45 120.84 122.66 126.39 130.88 136.20 141.04 146.78 152.76 156.62 158.98 "
            "161.38 164.63 167.94 173.05 178.30 183.72 189.30 194.08 197.01 199.98 201.98",
            "0.929 0.937 0.933 0.922 0.778 0.023 -0.016 -0.017 0.930 0.961 0.967 0.970 0.964 "
            "0.929 -0.025 -0.051 0.070 0.565 0.963 0.974 0.977 0.980",
            id="longer frames",
        ),
    ],
)
def test_the_track_is_that_of_kaldis_code(
    rate: int,
    last_samples: float,
    frames: dict[str, Any],
    options: dict[str, Any],
    pitch: str,
    correlation: str,
) -> None:
    # What src/feat/pitch-functions.cc (da465d8) gives for these samples.
    expected = np.array([[float(word) for word in row.split()] for row in (correlation, pitch)]).T
    track = track_pitch(
        voice(rate, last_samples),
        PitchOptions(**options),
        FrameOptions(sample_frequency=rate, **frames),
    )
    assert track.shape == expected.shape
    assert track.dtype == np.float32
    np.testing.assert_allclose(track, expected, atol=6e-3, rtol=0)


def test_the_path_is_the_cheapest_of_all() -> None:
    generator = np.random.default_rng(5)
    for jump_cost in (0.0, 0.001, 0.02, 3.0):
        costs = generator.random((12, 30)).astype(np.float32)
        # Plainly: the best way to each state by all ways to all states before.
        ways: list[tuple[float, list[int]]] = [(0.0, []) for _ in range(30)]
        for row in costs.astype(np.float64):
            ways = [
                min(
                    (cost + jump_cost * (state - (path[-1] if path else before)) ** 2 + local, path)
                    for before, (cost, path) in enumerate(ways)
                )
                for state, local in enumerate(row)
            ]
            ways = [(cost, [*path, state]) for state, (cost, path) in enumerate(ways)]
        expected = min(ways)[1]
        assert best_path([costs], jump_cost).tolist() == expected
        assert best_path([costs[:1], costs[1:7], costs[7:]], jump_cost).tolist() == expected


def test_long_audio_is_tracked_in_blocks_as_if_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = FrameOptions(sample_frequency=8000)
    at_once = track_pitch(voice(8000), PitchOptions(), frames)
    monkeypatch.setattr(pitch_tracking, "_FRAMES_A_BLOCK", 5)
    in_blocks = track_pitch(voice(8000), PitchOptions(), frames)
    np.testing.assert_allclose(in_blocks, at_once, atol=1e-5)


def test_lags_reach_from_the_highest_pitch_to_the_lowest() -> None:
    pitches = 1 / select_lags(PitchOptions(min_f0=60, max_f0=500, delta_pitch=0.01))
    assert pitches[0] == pytest.approx(500)
    assert 60 <= pitches[-1] < 60 * 1.01
    np.testing.assert_allclose(pitches[:-1] / pitches[1:], 1.01, rtol=1e-5)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("f0", [75, 120, 210, 350])
def test_a_vowel_has_its_pitch(rate: int, f0: float) -> None:
    time = np.arange(rate // 2) / rate
    vowel = np.zeros(len(time))
    for k in range(1, int(3500 / f0)):
        formants = sum(1 / (1 + ((k * f0 - centre) / 120) ** 2) for centre in (650, 1100, 2500))
        vowel += formants * np.sin(2 * np.pi * k * f0 * time + k)
    track = track_pitch(
        (3000 * vowel).astype(np.float32), PitchOptions(), FrameOptions(sample_frequency=rate)
    )
    assert len(track) in (48, 49)
    # Two steps of delta_pitch.
    np.testing.assert_allclose(track[5:-5, 1], f0, rtol=0.01)
    assert track[5:-5, 0].min() > 0.95


def test_noise_is_less_voiced_than_a_voice() -> None:
    noise = np.random.default_rng(0).normal(0, 1000, 8000).astype(np.float32)
    feats = compute_features(noise, 8000, feature_options({"sample_frequency": 8000, "pitch": {}}))
    voiced = feature_options({"sample_frequency": 8000, "pitch": {"pov_offset": 1.0}})
    syllable = compute_features(voice(8000), 8000, voiced)[1:4, 13] - 1.0
    assert np.median(feats[:, 13]) > -0.35
    assert syllable.max() < -0.6


def slow_processing(track: NDArray[np.float32], o: PitchOptions) -> NDArray[np.float64]:
    """process-kaldi-pitch-feats, one frame after the other."""
    rows = []
    logs = [np.log(pitch) for _, pitch in track.astype(np.float64)]
    for t in range(len(track)):
        total = weights = 0.0
        for n in range(len(track)):
            if t - o.normalization_left_context <= n <= t + o.normalization_right_context:
                c = min(abs(float(track[n, 0])), 1.0)
                odds = -5.2 + 5.4 * np.exp(7.5 * (c - 1)) + 4.8 * c - 2 * np.exp(-10 * c)
                odds += 4.2 * np.exp(20 * (c - 1))
                total += logs[n] / (1 + np.exp(-odds))
                weights += 1 / (1 + np.exp(-odds))
        slope = square = 0.0
        for k in range(-o.delta_window, o.delta_window + 1):
            slope += k * logs[min(max(t + k, 0), len(track) - 1)]
            square += k * k
        voicing = (1.0001 - min(max(float(track[t, 0]), -1.0), 1.0)) ** 0.15 - 1
        row = [
            (o.add_pov_feature, o.pov_scale * voicing + o.pov_offset),
            (o.add_normalized_log_pitch, o.pitch_scale * (logs[t] - total / weights)),
            (o.add_delta_pitch, o.delta_pitch_scale * slope / square),
            (o.add_raw_log_pitch, logs[t]),
        ]
        rows.append([value for wanted, value in row if wanted])
    return np.array(rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_raw_log_pitch": True, "pov_offset": 0.3, "pov_scale": 1.5},
        {"normalization_left_context": 3, "normalization_right_context": 8, "pitch_scale": 3},
        {"normalization_left_context": 0, "normalization_right_context": 0},
        {"delta_window": 4, "delta_pitch_scale": 2, "add_pov_feature": False},
        {"add_normalized_log_pitch": False, "add_delta_pitch": False},
    ],
    ids=str,
)
def test_every_option_of_the_processing_has_kaldis_effect(options: dict[str, Any]) -> None:
    generator = np.random.default_rng(3)
    track = np.stack([generator.uniform(-1.005, 1.005, 40), generator.uniform(60, 390, 40)], axis=1)
    track = track.astype(np.float32)
    given = PitchOptions(**options)
    feats = process_pitch(track, given)
    assert feats.shape == (40, given.dim)
    np.testing.assert_allclose(feats, slow_processing(track, given), atol=2e-5)
    assert process_pitch(track[:0], given).shape == (0, given.dim)
    one = slow_processing(track[:1], given)
    np.testing.assert_allclose(process_pitch(track[:1], given), one, atol=2e-5)


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
def test_the_dimension_counts_the_pitch(kind: str) -> None:
    plain = feature_options({"type": kind})
    assert plain.pitch is None
    for pitch, columns in [({}, 3), ({"add_raw_log_pitch": True}, 4), ({"add_delta_pitch": 0}, 2)]:
        options = feature_options({"type": kind, "pitch": pitch})
        feats = compute_features(np.tile(voice(16000), 2), 16000, options)
        assert options.dim == feats.shape[1] == plain.dim + columns
        expected = compute_features(np.tile(voice(16000), 2), 16000, plain)
        assert np.array_equal(feats[:, : plain.dim], expected)


def test_the_longer_of_both_loses_its_end() -> None:
    options = feature_options({"pitch": {}})
    for samples in range(4797, 4801):
        assert len(compute_features(voice(16000)[:samples], 16000, options)) == 28
    # The track has a frame more: resampled, the last samples complete it.
    assert len(track_pitch(voice(16000)[:4717], PitchOptions(), FrameOptions())) == 28
    assert len(compute_features(voice(16000)[:4717], 16000, feature_options({}))) == 27
    assert len(compute_features(voice(16000)[:4717], 16000, options)) == 27


def test_frames_that_drift_apart_are_an_error() -> None:
    options = feature_options({"frame_shift": 10.1, "pitch": {}})
    samples = np.tile(voice(16000), 20)
    with pytest.raises(DataError, match=r"u1: 594 frames, but 598 frames of pitch.*frame_shift"):
        compute_features(samples, 16000, options, utterance="u1")


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("snip_edges", [True, False])
def test_digital_silence_is_unvoiced_and_finite(rate: int, snip_edges: bool) -> None:
    options = feature_options({"sample_frequency": rate, "snip_edges": snip_edges, "pitch": {}})
    feats = compute_features(np.zeros(rate, dtype=np.float32), rate, options)
    assert len(feats) == (98 if snip_edges else 100)
    assert np.isfinite(feats).all()
    np.testing.assert_allclose(feats[:, 13:], np.tile([3e-5, 0, 0], (len(feats), 1)), atol=1e-4)


def test_a_constant_is_no_trouble() -> None:
    feats = compute_features(
        np.full(16000, 1000, dtype=np.float32), 16000, feature_options({"pitch": {}})
    )
    assert feats.shape == (98, 16)
    assert np.isfinite(feats).all()


@pytest.mark.parametrize("snip_edges", [True, False])
def test_audio_shorter_than_a_frame_has_no_pitch(snip_edges: bool) -> None:
    frames = FrameOptions(snip_edges=snip_edges)
    for samples in (0, 1, 3, 8, 9, 100, 396):
        assert track_pitch(voice(16000)[:samples], PitchOptions(), frames).shape == (0, 2)
    for samples in range(397, 1100, 7):
        track = track_pitch(voice(16000)[:samples], PitchOptions(), frames)
        assert len(track) >= 1
        assert np.isfinite(track).all()
    options = feature_options({"snip_edges": snip_edges, "pitch": {}})
    assert compute_features(voice(16000)[:50], 16000, options).shape == (0, 16)


def test_pitch_is_that_of_the_samples_without_dither() -> None:
    dithered = feature_options({"dither": 30.0, "pitch": {}})
    feats = compute_features(voice(16000), 16000, dithered, utterance="u1")
    clean = compute_features(voice(16000), 16000, feature_options({"pitch": {}}))
    assert np.array_equal(feats[:, 13:], clean[:, 13:])
    assert not np.array_equal(feats[:, :13], clean[:, :13])


def test_noise_of_the_delta_is_the_same_for_an_utterance_each_time() -> None:
    samples = np.zeros(160000, dtype=np.float32)
    options = feature_options({"pitch": {"delta_pitch_noise_stddev": 0.005}})
    first = compute_features(samples, 16000, options, utterance="a")
    assert np.array_equal(first, compute_features(samples, 16000, options, utterance="a"))
    assert not np.array_equal(first, compute_features(samples, 16000, options, utterance="b"))
    assert first[:, 15].std() == pytest.approx(10 * 0.005, rel=0.1)
    assert np.ptp(first[:, 13:15]) < 1e-3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pitch={}"], PitchOptions()),
        (["pitch.min_f0=60"], PitchOptions(min_f0=60)),
        (["pitch=null", "pitch.max_f0=300"], PitchOptions(max_f0=300)),
        (["pitch={min_f0: 60}", "pitch.max_f0=300"], PitchOptions(min_f0=60, max_f0=300)),
        (["pitch=null"], None),
        ([], None),
    ],
)
def test_pitch_is_asked_for_on_the_command_line(
    words: list[str], expected: PitchOptions | None
) -> None:
    assert feature_options(assignment_tree(words)).pitch == expected


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"pitch": {"min_fo": 60}}, r"pitch\.min_fo: unknown key; did you mean 'min_f0'"),
        ({"pitch": {"min_f0": 500}}, "min_f0 500 and max_f0 400 Hz do not fit"),
        ({"pitch": {"soft_min_f0": 60}}, "soft_min_f0 60, min_f0 50"),
        ({"pitch": {"lowpass_cutoff": 2500}}, "lowpass_cutoff 2500 Hz is more than half of"),
        ({"pitch": {"max_f0": 2700}}, "max_f0 2700 Hz is too high.*below 0"),
        ({"pitch": {"delta_pitch": 1e-4}}, "delta_pitch 0.0001 tells 20796 pitches apart"),
        ({"pitch": {"resample_frequency": 4000.5}}, "4000.5 is not a whole number"),
        (
            {
                "pitch": dict.fromkeys(
                    ("add_pov_feature", "add_normalized_log_pitch", "add_delta_pitch"), False
                )
            },
            "pitch without one of its values",
        ),
        ({"pitch": {}, "sample_frequency": 8000.5}, "whole number of Hz, not 8000.5"),
        ({"pitch": {"lowpass_cutoff": 1900}, "sample_frequency": 3000}, "half of sample_frequency"),
        ({"pitch": {"resample_frequency": 2000}, "frame_shift": 0.4}, "too short at pitch"),
    ],
)
def test_a_mistake_is_named(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        feature_options(tree)


def test_older_settings_know_no_pitch() -> None:
    now = feature_options({}).model_dump()
    older = {key: value for key, value in now.items() if key != "pitch"}
    assert compare_settings(older, now) == {}
    with_pitch = feature_options({"pitch": {}}).model_dump()
    assert compare_settings(older, with_pitch) == {"pitch": (None, with_pitch["pitch"])}


def test_a_data_directory_with_pitch_makes_a_front_end(tmp_path: Path) -> None:
    wav = {}
    for utterance in ("a-1", "a-2"):
        wav[utterance] = str(tmp_path / f"{utterance}.wav")
        soundfile.write(wav[utterance], voice(8000).astype(np.int16), 8000)
    DataDir(tmp_path / "data", dict.fromkeys(wav, "a"), text={}, wav=wav).write()
    data = read_data_dir(tmp_path / "data")
    options = feature_options({"sample_frequency": 8000, "pitch": {"max_f0": 300}})
    summary = extract_features(data, tmp_path / "feats", options)
    assert summary.dim == 16
    settings = json.loads((tmp_path / "feats" / "features.json").read_text())
    assert settings["pitch"]["max_f0"] == 300
    feats = read_matrix((summary.data.feats or {})["a-1"])
    whole_numbers = voice(8000).astype(np.int16).astype(np.float32)
    assert np.array_equal(feats, compute_features(whole_numbers, 8000, options))

    front_end = FrontEnd.of(summary.data, TransformOptions(delta_order=2))
    assert front_end.dim == 48
    seen = front_end.read(summary.data, "a-1")
    # CMN and deltas are of all columns.
    np.testing.assert_allclose(seen[:, :16].mean(axis=0), 0.0, atol=1e-4)
    front_end.check(tmp_path / "feats")
    other = feature_options({"sample_frequency": 8000})
    extract_features(data, tmp_path / "other", other)
    with pytest.raises(FormatError, match=r"pitch \(model: .*max_f0.*300.*, data: None\)"):
        front_end.check(tmp_path / "other")
