"""Rooms, noise and volume in training audio, and copies at other speeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from mariana_asr.archives import read_matrix
from mariana_asr.corpus.audio import read_audio
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.corpus.speed import change_speed, perturbed_copies
from mariana_asr.errors import DataError, RecipeError
from mariana_asr.features.augmentation.distortion import Distorter
from mariana_asr.features.augmentation.noises import add_noise
from mariana_asr.features.augmentation.options import AugmentationOptions
from mariana_asr.features.augmentation.rooms import reverberate, simulate_response
from mariana_asr.features.compute import compute_features
from mariana_asr.features.extract import extract_features
from mariana_asr.features.options import feature_options
from mariana_asr.options import validated

RATE = 16000
MFCC = feature_options({})


def options(**values: Any) -> AugmentationOptions:
    return validated(AugmentationOptions, values, "test")


def tone(frequency: float, seconds: float = 0.5, rate: int = RATE) -> NDArray[np.float32]:
    times = np.arange(round(seconds * rate)) / rate
    return (5000 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def speech_like(seconds: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    """Noise whose level rises and falls, as that of syllables does."""
    times = np.arange(round(seconds * RATE)) / RATE
    white = np.random.default_rng(seed).normal(size=len(times))
    return (3000 * (1 + np.sin(2 * np.pi * 4 * times)) * white).astype(np.float32)


def decibels(signal: NDArray, noise: NDArray) -> float:
    powers = [np.mean(np.square(x.astype(np.float64))) for x in (signal, noise)]
    return float(10 * np.log10(powers[0] / powers[1]))


def peaks(samples: NDArray, rate: int = RATE) -> set[int]:
    """Frequencies in Hz, to the next hundred, that stand out."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    found = np.flatnonzero(spectrum > 0.2 * spectrum.max()) * rate / len(samples)
    return {round(frequency / 100) * 100 for frequency in found.tolist()}


def write(path: Path, samples: NDArray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.rint(samples).astype(np.int16), rate)
    return path


TONES = {"ann-1": 300, "ann-2": 500, "bob-1": 700, "cat-1": 900, "dan-1": 1100}


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """Five utterances of four speakers, each a tone of its own."""
    wav = {u: str(write(tmp_path / f"{u}.wav", tone(hertz))) for u, hertz in TONES.items()}
    return DataDir(tmp_path / "data", utt2spk={u: u[:3] for u in wav}, wav=wav)


# --- noise


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 30.0])
def test_the_mix_has_the_ratio_that_was_asked_for(snr_db: float) -> None:
    clean = speech_like()
    noise = np.random.default_rng(1).normal(size=len(clean))
    mixed = add_noise(clean, noise, snr_db)
    assert mixed.dtype == np.float32
    assert decibels(clean, mixed - clean) == pytest.approx(snr_db, abs=0.1)


def test_digital_silence_gets_no_noise() -> None:
    silence = np.zeros(100, np.float32)
    assert not add_noise(silence, np.ones(100), 10.0).any()


@pytest.mark.parametrize("kind", ["white", "pink", "babble", "recordings"])
def test_every_kind_of_noise_comes_at_the_ratio_that_was_drawn(
    kind: str, data: DataDir, tmp_path: Path
) -> None:
    noise: dict[str, Any] = {"kinds": [kind], "snr_db": [10, 10], "probability": 1}
    if kind == "recordings":
        write(tmp_path / "noises" / "deep" / "hum.wav", speech_like(0.3, 5))
        noise["folder"] = tmp_path / "noises"
    distorter = Distorter(options(noise=noise), data)
    clean = speech_like()
    mixed = distorter.distort(clean, RATE, "ann-1", speaker="ann")
    assert decibels(clean, mixed - clean) == pytest.approx(10, abs=0.1)


def test_ratios_are_spread_over_their_range_and_noise_is_as_likely_as_asked(
    data: DataDir,
) -> None:
    noise = {"kinds": ["white"], "snr_db": [0, 20], "probability": 0.3}
    distorter = Distorter(options(noise=noise), data)
    clean = speech_like(0.1)
    added = [distorter.distort(clean, RATE, f"utterance{n}") - clean for n in range(600)]
    ratios = [decibels(clean, noise) for noise in added if noise.any()]
    assert len(ratios) == pytest.approx(180, abs=4 * np.sqrt(600 * 0.3 * 0.7))
    assert min(ratios) >= -0.1
    assert max(ratios) <= 20.1
    counts, _ = np.histogram(ratios, 4, (0, 20))
    assert counts.min() > len(ratios) / 8


def test_babble_is_other_speakers_all_equally_loud(data: DataDir) -> None:
    noise = {"kinds": ["babble"], "voices": [2, 2], "snr_db": [0, 0], "probability": 1}
    distorter = Distorter(options(noise=noise), data)
    heard = set()
    for number in range(20):
        silence = tone(5000)
        babble = distorter.distort(silence, RATE, f"ann-{number}", speaker="ann") - silence
        voices = peaks(babble)
        assert len(voices) == 2
        assert voices <= {700, 900, 1100}
        heard |= voices
        powers = [np.abs(np.fft.rfft(babble))[round(hertz * 0.5)] for hertz in sorted(voices)]
        assert powers[0] == pytest.approx(powers[1], rel=0.1)
    assert heard == {700, 900, 1100}


def test_babble_for_a_copy_at_another_speed_leaves_its_speaker_out_too(data: DataDir) -> None:
    noise = {"kinds": ["babble"], "voices": [3, 3], "snr_db": [0, 0], "probability": 1}
    copies = perturbed_copies(data, (0.9, 1.0), data.path)
    distorter = Distorter(options(noise=noise), copies)
    clean = tone(5000)
    mixed = distorter.distort(clean, RATE, "sp0.9-ann-1", speaker="sp0.9-ann", speed=0.9)
    assert peaks(mixed - clean) == {700, 900, 1100}


def test_where_there_is_one_speaker_babble_is_his_other_utterances(data: DataDir) -> None:
    noise = {"kinds": ["babble"], "voices": [2, 9], "snr_db": [0, 0], "probability": 1}
    alone = data.subset(["ann-1", "ann-2", "bob-1"])
    distorter = Distorter(options(noise=noise), alone)
    clean = tone(5000)
    mixed = distorter.distort(clean, RATE, "ann-1", speaker="ann")
    assert peaks(mixed - clean) == {500, 700}
    with pytest.raises(DataError, match=r"babble of 3 voices or more .* than the 3"):
        Distorter(options(noise=noise | {"voices": [3, 5]}), alone)


def test_noise_at_another_sample_rate_is_resampled(data: DataDir, tmp_path: Path) -> None:
    write(tmp_path / "noises" / "hum.flac", tone(1000, 2.0, 44100), 44100)
    noise = {"kinds": ["recordings"], "folder": tmp_path / "noises", "probability": 1}
    clean = speech_like()
    added = Distorter(options(noise=noise), data).distort(clean, RATE, "ann-1") - clean
    assert peaks(added) == {1000}


def test_folders_that_are_of_no_use_are_told(data: DataDir, tmp_path: Path) -> None:
    folder = tmp_path / "noises"
    recorded = options(noise={"kinds": ["recordings"], "folder": folder, "probability": 1})
    for make in (lambda: None, folder.mkdir, lambda: (folder / "notes.txt").touch()):
        make()
        with pytest.raises(DataError, match=r"noises: no recordings of noise in this folder"):
            Distorter(recorded, data)
        with pytest.raises(DataError, match="no recordings of impulse responses"):
            Distorter(options(reverberation={"folder": folder}), data)
    write(folder / "stereo.wav", np.stack([tone(200), tone(300)], axis=1))
    with pytest.raises(DataError, match=r"stereo\.wav: 2 channels.*expected one channel of noise"):
        Distorter(recorded, data)
    (folder / "stereo.wav").write_text("not audio")
    with pytest.raises(DataError, match=r"stereo\.wav: not an audio file"):
        Distorter(recorded, data)
    write(folder / "stereo.wav", np.zeros(1000))
    with pytest.raises(DataError, match=r"stereo\.wav: this recording of noise is digital silence"):
        Distorter(recorded, data).distort(tone(200), RATE, "ann-1")
    rooms = options(reverberation={"folder": folder, "probability": 1})
    with pytest.raises(DataError, match=r"stereo\.wav: this impulse response is digital silence"):
        Distorter(rooms, data).distort(tone(200), RATE, "ann-1")


# --- rooms


@pytest.mark.parametrize("rt60", [0.1, 0.35, 0.8])
def test_simulated_rooms_have_their_reverberation_time(rt60: float) -> None:
    response = simulate_response(rt60, 0.0, RATE, np.random.default_rng(0))
    # Schroeder's backward integration: the decay from 5 to 25 dB below the reverberant sound's
    # start, times three.
    energy = np.cumsum(np.square(response[:0:-1]))[::-1]
    level = 10 * np.log10(energy / energy[0])
    falls = [int(np.argmax(level < -fall)) / RATE for fall in (5, 25)]
    assert 3 * (falls[1] - falls[0]) == pytest.approx(rt60, rel=0.1)


@pytest.mark.parametrize("ratio", [0.0, 9.0])
def test_simulated_rooms_have_their_ratio_of_direct_to_reverberant_sound(ratio: float) -> None:
    response = simulate_response(0.4, ratio, RATE, np.random.default_rng(0))
    direct, rest = np.square(response[0]), np.square(response[1:]).sum()
    assert 10 * np.log10(direct / rest) == pytest.approx(ratio, abs=1e-6)
    # Nothing arrives in the first 2.5 ms after the direct sound.
    assert np.flatnonzero(response)[1] == 40


def test_reverberation_is_convolution_with_the_response() -> None:
    samples, response = speech_like(0.05), np.random.default_rng(3).normal(size=200)
    response[17] = 9.0
    plain = np.convolve(samples.astype(np.float64), response)[17 : 17 + len(samples)]
    plain *= np.sqrt(np.mean(np.square(samples, dtype=np.float64)) / np.mean(np.square(plain)))
    assert np.allclose(reverberate(samples, response), plain, atol=0.01)


@pytest.mark.parametrize("delay", [0, 1, 150, 3000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rooms_keep_every_sound_in_its_place(delay: int, sign: float) -> None:
    samples = speech_like()
    response = np.zeros(4000)
    response[delay:] = (
        sign * simulate_response(0.25, 3.0, RATE, np.random.default_rng(2))[: 4000 - delay]
    )
    moved = reverberate(samples, response)
    assert moved.shape == samples.shape
    size = 2 * len(samples)
    spectrum = np.fft.rfft(moved, size) * np.conj(np.fft.rfft(samples, size))
    assert np.argmax(np.fft.irfft(spectrum, size)) == 0


def test_rooms_keep_the_power() -> None:
    samples = speech_like()
    moved = reverberate(samples, simulate_response(0.5, 0.0, RATE, np.random.default_rng(0)))
    assert decibels(moved, samples) == pytest.approx(0, abs=1e-3)
    assert np.abs(moved - samples).max() > 100
    silence = np.zeros(500, np.float32)
    assert not reverberate(silence, np.ones(3)).any()


def test_recorded_responses_are_used_whatever_their_rate(data: DataDir, tmp_path: Path) -> None:
    # A direct sound after 10 ms, and one echo of half its height 50 ms later, at 8 kHz.
    response = np.zeros(1000)
    response[80], response[480] = 30000, 15000
    write(tmp_path / "rooms" / "hall.wav", response, 8000)
    rooms = {"folder": tmp_path / "rooms", "probability": 1}
    impulse = np.zeros(4000, np.float32)
    impulse[1000] = 1000
    low = np.convolve(impulse, np.hanning(21) / 10, "same").astype(np.float32)
    moved = Distorter(options(reverberation=rooms), data).distort(low, RATE, "ann-1")
    assert np.argmax(moved) == 1000
    assert np.argmax(moved[1400:]) + 1400 == 1800
    assert moved[1800] / moved[1000] == pytest.approx(0.5, abs=0.02)


# --- volume, and what is drawn


def test_volume_is_a_factor_and_nothing_is_clipped(data: DataDir) -> None:
    loud = 6 * tone(300)
    louder = Distorter(options(volume=[2, 2]), data).distort(loud, RATE, "ann-1")
    np.testing.assert_array_equal(louder, 2 * loud)
    assert louder.max() > 50000
    noise = {"kinds": ["white"], "snr_db": [0, 0], "probability": 1}
    mixed = Distorter(options(noise=noise), data).distort(loud, RATE, "ann-1")
    assert np.abs(mixed).max() > 40000
    distorter = Distorter(options(volume=[0.125, 2]), data)
    clean = tone(300)
    factors = [distorter.distort(clean, RATE, f"u{n}").max() / clean.max() for n in range(300)]
    assert 0.125 <= min(factors) < 0.3
    assert 1.8 < max(factors) <= 2.0
    assert np.mean(factors) == pytest.approx(1.06, abs=0.13)


ALL = {
    "volume": [0.5, 2],
    "noise": {"kinds": ["babble", "pink"], "probability": 0.9, "voices": [1, 3]},
    "reverberation": {"probability": 0.9},
}


def test_what_is_drawn_follows_from_seed_copy_and_utterance_alone(data: DataDir) -> None:
    clean = speech_like()

    def distorted(seed: int = 0, copy: int = 1, *names: str) -> dict[str, bytes]:
        distorter = Distorter(options(**ALL, seed=seed), data, copy)
        return {name: distorter.distort(clean, RATE, name).tobytes() for name in names}

    both = distorted(0, 1, "ann-1", "bob-1")
    assert distorted(0, 1, "bob-1", "ann-1") == both
    assert both["ann-1"] != both["bob-1"]
    others = [distorted(1, 1, "ann-1"), distorted(0, 2, "ann-1")]
    assert len({both["ann-1"], *(other["ann-1"] for other in others)}) == 3


def test_adding_noise_does_not_change_what_is_drawn_for_rooms_and_volume(data: DataDir) -> None:
    clean = speech_like()
    without = {key: value for key, value in ALL.items() if key != "noise"}
    unheard = ALL | {"noise": {"kinds": ["white"], "snr_db": [200, 200], "probability": 1}}
    ours, expected = (
        Distorter(options(**values), data).distort(clean, RATE, "ann-1")
        for values in (unheard, without)
    )
    assert np.allclose(ours, expected, atol=0.01)


# --- features


def test_any_number_of_processes_computes_the_same_distorted_features(
    data: DataDir, tmp_path: Path
) -> None:
    copies = perturbed_copies(data, (0.9, 1.0), tmp_path / "copies")
    archives = []
    for jobs in (1, 2):
        distorter = Distorter(options(**ALL), copies)
        out = tmp_path / f"jobs{jobs}"
        extract_features(copies, out, MFCC, distorter=distorter, jobs=jobs)
        archives.append((out / "feats.ark").read_bytes())
    assert archives[0] == archives[1]
    clean = extract_features(copies, tmp_path / "clean", MFCC)
    assert (tmp_path / "clean" / "feats.ark").read_bytes() != archives[0]
    for name in ("utt2num_frames", "features.json"):
        ours, expected = (tmp_path / folder / name for folder in ("jobs1", "clean"))
        assert ours.read_text() == expected.read_text()
    assert clean.skipped == {}


def test_a_run_without_distortion_is_clean_after_one_with_it(data: DataDir, tmp_path: Path) -> None:
    extract_features(data, tmp_path / "before", MFCC)
    extract_features(data, tmp_path / "x", MFCC, distorter=Distorter(options(**ALL), data))
    extract_features(data, tmp_path / "after", MFCC)
    before, after = (tmp_path / name / "feats.ark" for name in ("before", "after"))
    assert before.read_bytes() == after.read_bytes()


def test_features_of_copies_are_those_of_their_samples(data: DataDir, tmp_path: Path) -> None:
    copies = perturbed_copies(data, (0.9, 1.0, 1.1), tmp_path / "copies")
    result = extract_features(copies, tmp_path / "feats", MFCC).data
    assert result.speeds == copies.speeds
    for utterance in data.utterances:
        samples = read_audio(data.wav[utterance])[0]
        for speed, prefix in ((0.9, "sp0.9-"), (1.0, ""), (1.1, "sp1.1-")):
            expected = compute_features(change_speed(samples, speed), RATE, MFCC)
            feats = read_matrix((result.feats or {})[prefix + utterance])
            np.testing.assert_array_equal(feats, expected)
    # 0.5 s at 25 ms every 10 ms: 48 frames; 8889 and 7273 samples at the other speeds.
    counts = (result.path / "utt2num_frames").read_text().splitlines()
    assert counts[0] == "ann-1 48"
    assert [line for line in counts if "ann-1" in line][1:] == ["sp0.9-ann-1 54", "sp1.1-ann-1 43"]
    assert {"ann", "sp0.9-ann", "sp1.1-ann"} <= set(result.cmvn or {})


def test_utterances_whose_noise_cannot_be_used_are_skipped_with_the_reason(
    data: DataDir, tmp_path: Path
) -> None:
    write(tmp_path / "noises" / "good.wav", speech_like())
    write(tmp_path / "noises" / "zero.wav", np.zeros(1000))
    noise = {"kinds": ["recordings"], "folder": tmp_path / "noises", "probability": 1}
    distorter = Distorter(options(noise=noise), data)
    summary = extract_features(data, tmp_path / "feats", MFCC, distorter=distorter)
    assert 0 < len(summary.skipped) < 5
    assert all("zero.wav: this recording" in reason for reason in summary.skipped.values())


def test_without_audio_there_is_nothing_to_distort(data: DataDir, tmp_path: Path) -> None:
    made = extract_features(data, tmp_path / "feats", MFCC).data
    silent = DataDir(made.path, made.utt2spk, feats=made.feats)
    with pytest.raises(DataError, match="nothing to distort"):
        extract_features(
            silent, tmp_path / "x", MFCC, distorter=Distorter(options(volume=[1, 2]), silent)
        )


# --- options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speeds": [0.9, 1.1]}, "1.0 (as recorded) one of them"),
        ({"speeds": [1.0, 1.0]}, "should be different"),
        ({"speeds": [1.0, 3.0]}, "from 0.5 to 2 in hundredths"),
        ({"speeds": []}, "at least 1 item"),
        ({"volume": [2, 1]}, "volume: 2 is more than 1"),
        ({"volume": [0, 1]}, "above 0"),
        ({"copies": 2}, "copies would all be alike: set noise, reverberation or volume"),
        ({"noise": {"kinds": ["recordings"]}}, "needs a folder of them"),
        ({"noise": {"folder": "noises"}}, "add it to kinds"),
        ({"noise": {"kinds": ["brown"]}}, "'pink', 'babble' or 'recordings'"),
        ({"noise": {"snr_db": [20, 5]}}, "snr_db: 20 is more than 5"),
        ({"noise": {"voices": [0, 5]}}, "babble needs one at least"),
        ({"noise": {"probability": 0}}, "greater than 0"),
        ({"reverberation": {"rt60": [0.001, 0.5]}}, "rt60: 0.001 s given"),
        ({"reverberation": {"direct_to_reverberant_db": [5, 0]}}, "5 is more than 0"),
    ],
)
def test_options_that_make_no_sense_are_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        options(**values)
    assert message in str(error.value)


def test_speeds_may_come_in_any_order() -> None:
    assert options(speeds=[1.1, 0.9, 1]) == options()
    assert options().perturbs_speed
    assert not options().distorts
    assert not options(speeds=[1]).perturbs_speed
    assert options(noise={}).distorts
