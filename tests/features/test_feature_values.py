"""MFCC and filter banks against Kaldi's own output and against a plain slow version."""

from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
from numpy.typing import NDArray

from mariana_asr.archives import ArchiveWriter, iterate_matrices
from mariana_asr.corpus.audio import read_audio
from mariana_asr.errors import DataError
from mariana_asr.features.compute import compute_features
from mariana_asr.features.options import feature_options

GOLDEN = {
    "mfcc13_8k": {"type": "mfcc", "sample_frequency": 8000},
    "mfcc13_16k": {"type": "mfcc", "use_energy": False},
    "mfcc40hires_16k": {
        "type": "mfcc",
        "use_energy": False,
        "num_mel_bins": 40,
        "num_ceps": 40,
        "low_freq": 20,
        "high_freq": -400,
    },
    "fbank40_16k": {"type": "fbank", "num_mel_bins": 40},
    "fbank80_16k": {"type": "fbank", "num_mel_bins": 80},
    "fbank40e_8k": {
        "type": "fbank",
        "sample_frequency": 8000,
        "num_mel_bins": 40,
        "use_energy": True,
    },
}


@pytest.mark.parametrize("name", GOLDEN)
def test_features_equal_kaldis(name: str, golden: Path, corpora: Path) -> None:
    options = feature_options(GOLDEN[name])
    expected = dict(kaldiio.load_ark(str(golden / "features" / f"{name}.ark")))
    script = golden / "features" / f"wav{name[-2 if name[-3] == '_' else -3 :]}.scp"
    locations = dict(line.split() for line in script.read_text().splitlines())
    assert locations.keys() == expected.keys()
    for utterance, location in locations.items():
        feats = compute_features(*read_audio(corpora.parent / location), options)
        assert feats.shape == expected[utterance].shape
        assert feats.dtype == np.float32
        assert np.abs(feats - expected[utterance]).max() < 1e-2


def test_compressed_features_of_kaldi_are_read_and_ours_are_as_near(
    golden: Path, tmp_path: Path
) -> None:
    exact = dict(iterate_matrices(golden / "features" / "fbank80_16k.ark"))
    theirs = dict(iterate_matrices(golden / "features" / "fbank80_16k_compressed.ark"))
    with ArchiveWriter(tmp_path / "ours", compress=True) as writer:
        for utterance, feats in exact.items():
            writer.write(utterance, feats)
    ours = dict(iterate_matrices(tmp_path / "ours.ark"))
    for utterance, feats in exact.items():
        their_error = np.abs(theirs[utterance] - feats)
        assert their_error.max() < 0.25
        assert np.abs(ours[utterance] - feats).max() < 1.1 * their_error.max()
        assert np.abs(ours[utterance] - theirs[utterance]).mean() < 0.1 * their_error.mean()
    size = (tmp_path / "ours.ark").stat().st_size
    assert size == (golden / "features" / "fbank80_16k_compressed.ark").stat().st_size


def slow_features(samples: NDArray[Any], tree: dict[str, Any]) -> NDArray[np.float64]:
    """The textbook computation, one frame after the other, in double precision."""
    o = feature_options(tree)
    signal = np.asarray(samples, dtype=np.float64)
    length = int(o.sample_frequency / 1000 * o.frame_length)
    shift = int(o.sample_frequency / 1000 * o.frame_shift)
    size = length
    while o.round_to_power_of_two and size & (size - 1):
        size += 1
    angle = 2 * np.pi * np.arange(length) / (length - 1)
    window = {
        "hanning": 0.5 - 0.5 * np.cos(angle),
        "hamming": 0.54 - 0.46 * np.cos(angle),
        "povey": (0.5 - 0.5 * np.cos(angle)) ** 0.85,
        "sine": np.sin(angle / 2),
        "rectangular": np.ones(length),
        "blackman": o.blackman_coeff
        - 0.5 * np.cos(angle)
        + (0.5 - o.blackman_coeff) * np.cos(2 * angle),
    }[o.window_type]
    half_rate = o.sample_frequency / 2
    high = o.high_freq if o.high_freq > 0 else half_rate + o.high_freq

    def mel(hertz: float) -> float:
        return 1127 * np.log(1 + hertz / 700)

    width = (mel(high) - mel(o.low_freq)) / (o.num_mel_bins + 1)
    filters = np.zeros((o.num_mel_bins, size // 2 + 1))
    for b in range(o.num_mel_bins):
        centre = mel(o.low_freq) + (b + 1) * width
        for line in range(size // 2):
            distance = abs(mel(line * o.sample_frequency / size) - centre)
            filters[b, line] = max(0.0, 1 - distance / width)
    count = (
        (len(signal) >= length) * (1 + (len(signal) - length) // shift)
        if o.snip_edges
        else (len(signal) + shift // 2) // shift
    )
    rows = []
    for t in range(count):
        start = t * shift if o.snip_edges else t * shift + shift // 2 - length // 2
        period = np.arange(start, start + length) % (2 * len(signal))
        frame = signal[np.where(period < len(signal), period, 2 * len(signal) - 1 - period)]
        if o.remove_dc_offset:
            frame = frame - frame.mean()
        energy = frame @ frame
        before = np.concatenate([frame[:1], frame[:-1]])
        frame = (frame - o.preemphasis_coefficient * before) * window
        if not o.raw_energy:
            energy = frame @ frame
        energy = np.log(max(energy, o.energy_floor, np.finfo(np.float32).eps))
        power = np.abs(np.fft.rfft(frame, size)) ** 2
        if o.type == "fbank":
            row = filters @ (power if o.use_power else np.sqrt(power))
            if o.use_log_fbank:
                row = np.log(np.maximum(row, np.finfo(np.float32).eps))
            if o.use_energy:
                row = np.append(row, energy) if o.htk_compat else np.append(energy, row)
        else:
            logs = np.log(np.maximum(filters @ power, np.finfo(np.float32).eps))
            row = np.zeros(o.num_ceps)
            for k in range(o.num_ceps):
                basis = np.cos(np.pi * k * (np.arange(o.num_mel_bins) + 0.5) / o.num_mel_bins)
                row[k] = np.sqrt((1 if k == 0 else 2) / o.num_mel_bins) * (basis @ logs)
                if o.cepstral_lifter:
                    row[k] *= 1 + o.cepstral_lifter / 2 * np.sin(np.pi * k / o.cepstral_lifter)
            if o.use_energy:
                row[0] = energy
            if o.htk_compat:
                row = np.append(row[1:], row[0] * (1 if o.use_energy else np.sqrt(2)))
        rows.append(row)
    return np.array(rows)


COMMON_VARIANTS: list[dict[str, Any]] = [
    {},
    {"raw_energy": False},
    {"energy_floor": 1.0},
    {"energy_floor": 100.0, "raw_energy": False},
    {"htk_compat": True},
    {"htk_compat": True, "use_energy": False},
    {"remove_dc_offset": False},
    {"preemphasis_coefficient": 0.0},
    {"preemphasis_coefficient": 0.5},
    *({"window_type": name} for name in ("hanning", "hamming", "sine", "rectangular", "blackman")),
    {"window_type": "blackman", "blackman_coeff": 0.3},
    {"round_to_power_of_two": False},
    {"snip_edges": False},
    {"snip_edges": False, "frame_shift": 7, "frame_length": 21},
    {"frame_shift": 12.5, "frame_length": 32},
    {"num_mel_bins": 30, "low_freq": 100, "high_freq": -200},
    {"low_freq": 0, "high_freq": 3500},
    {"sample_frequency": 8000},
    {"sample_frequency": 22050},
]
VARIANTS = [
    *({"type": "mfcc", "use_energy": True, **v} for v in COMMON_VARIANTS),
    *({"type": "fbank", "use_energy": True, **v} for v in COMMON_VARIANTS),
    {"type": "mfcc", "use_energy": False},
    {"type": "mfcc", "num_ceps": 20},
    {"type": "mfcc", "cepstral_lifter": 0},
    {"type": "mfcc", "cepstral_lifter": 10},
    {"type": "fbank", "use_power": False},
    {"type": "fbank", "use_log_fbank": False},
]


@pytest.mark.parametrize(
    "tree", VARIANTS, ids=lambda tree: " ".join(f"{k}={v}" for k, v in tree.items())
)
def test_every_option_has_kaldis_effect(tree: dict[str, Any]) -> None:
    samples = noise_after_silence()
    options = feature_options(tree)
    feats = compute_features(samples, int(options.sample_frequency), options)
    expected = slow_features(samples, tree)
    assert feats.shape == expected.shape == (len(expected), options.dim)
    assert np.allclose(feats, expected, atol=2e-3, rtol=1e-4)


def noise_after_silence() -> NDArray[np.float32]:
    generator = np.random.default_rng(7)
    loudness = 1000 * np.abs(np.sin(np.arange(4000) / 900))
    samples = (generator.standard_normal(4000) * loudness + 30).round()
    samples[:1200] = 0
    return samples.astype(np.float32)


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
def test_digital_silence_gives_finite_features(kind: str) -> None:
    options = feature_options({"type": kind, "use_energy": True})
    feats = compute_features(np.zeros(16000, dtype=np.float32), 16000, options)
    assert feats.shape[0] == 98
    assert np.isfinite(feats).all()
    assert feats[0, 0] == pytest.approx(np.log(np.finfo(np.float32).eps))


def test_audio_shorter_than_a_frame_has_no_frames() -> None:
    short = np.ones(399, dtype=np.float32)
    assert compute_features(short, 16000, feature_options({})).shape == (0, 13)
    assert compute_features(short[:0], 16000, feature_options({"snip_edges": False})).shape == (
        0,
        13,
    )
    assert compute_features(short[:100], 16000, feature_options({"snip_edges": False})).shape == (
        1,
        13,
    )


def test_dither_is_the_same_for_an_utterance_each_time_and_differs_between_utterances() -> None:
    samples = np.zeros(8000, dtype=np.float32)
    options = feature_options({"dither": 1.0})
    first = compute_features(samples, 16000, options, utterance="a")
    assert np.array_equal(first, compute_features(samples, 16000, options, utterance="a"))
    assert not np.array_equal(first, compute_features(samples, 16000, options, utterance="b"))


def test_dither_has_the_standard_deviation_asked_for() -> None:
    options = feature_options({"dither": 3.0, "remove_dc_offset": False})
    feats = compute_features(np.zeros(160000, dtype=np.float32), 16000, options, utterance="a")
    # The first coefficient is the log of the sum of squares of 400 samples.
    assert np.exp(feats[:, 0]).mean() == pytest.approx(400 * 3.0**2, rel=0.02)


@pytest.mark.parametrize(("rate", "allow"), [(44100, "allow_downsample"), (8000, "allow_upsample")])
def test_another_rate_is_an_error_that_names_both_rates_and_the_option(
    rate: int, allow: str
) -> None:
    samples = np.ones(rate, dtype=np.float32)
    other = {"allow_downsample", "allow_upsample"} - {allow}
    options = feature_options({other.pop(): True})
    with pytest.raises(DataError, match=rf"u1: .*{rate} Hz.*16000 Hz.*{allow}"):
        compute_features(samples, rate, options, utterance="u1")


@pytest.mark.parametrize(("rate", "target"), [(16000, 8000), (8000, 16000), (44100, 16000)])
def test_resampled_audio_has_the_features_of_the_sound(rate: int, target: int) -> None:
    def chord(rate: int) -> NDArray[np.float32]:
        time = np.arange(rate) / rate
        tones = sum(np.sin(2 * np.pi * f * time) for f in (210, 440, 1300, 2500, 3100))
        return (3000 * tones).astype(np.float32)

    options = feature_options(
        {
            "type": "fbank",
            "sample_frequency": target,
            "high_freq": 3300,
            "allow_downsample": True,
            "allow_upsample": True,
        }
    )
    resampled = compute_features(chord(rate), rate, options)
    direct = compute_features(chord(target), target, options)
    assert abs(len(resampled) - len(direct)) <= 1
    middle = slice(10, len(direct) - 10)
    loud = direct[middle] > direct.max() - 5
    assert np.abs(resampled[middle][loud] - direct[middle][loud]).max() < 0.1


def test_samples_that_are_not_numbers_are_an_error() -> None:
    samples = np.ones(16000, dtype=np.float32)
    samples[5] = np.nan
    with pytest.raises(DataError, match=r"u1: .*NaN"):
        compute_features(samples, 16000, feature_options({}), utterance="u1")
