import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.corpus.noise import noise
from mariana_asr.corpus.prepare import EspeakDigitsOptions, prepare_corpus
from mariana_asr.corpus.prepare.digits import DIGITS
from mariana_asr.corpus.prepare.espeak import Utterance, VoiceScript, check_voices, speak
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError, RecipeError
from mariana_asr.options import validated

SMALL = {
    "train_voices": ["en-us+m3", "en-gb-scotland+f2"],
    "dev_voices": ["en+m7"],
    "test_voices": ["en-029+Alicia"],
    "train_strings": 5,
    "dev_strings": 2,
    "test_strings": 3,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("espeak")
    prepare_corpus(EspeakDigitsOptions(**SMALL), out)
    return out


def files_of(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("wav/*/*.wav"))
    }


def test_each_voice_says_its_strings(prepared):
    sizes = {
        name: {s: len(us) for s, us in read_data_dir(prepared / name).spk2utt.items()}
        for name in ("train", "dev", "test")
    }
    assert sizes == {
        "train": {"engbscotland_f2": 5, "enus_m3": 5},
        "dev": {"en_m7": 2},
        "test": {"en029_Alicia": 3},
    }
    for name in sizes:
        data = read_data_dir(prepared / name)
        assert not validate_data_dir(data.path, read_data=True)
        for utterance, text in data.text.items():
            digits = re.fullmatch(rf"{data.utt2spk[utterance]}-(\d{{3,7}})_\d{{3}}", utterance)[1]
            assert text.split() == [DIGITS[int(digit)] for digit in digits]


def test_the_audio_is_8_khz_and_about_as_long_as_its_digits(prepared):
    data = read_data_dir(prepared / "train")
    for utterance, file in data.wav.items():
        samples, rate = soundfile.read(file, dtype="int16")
        assert rate == 8000
        assert 0.2 < len(samples) / rate / len(data.text[utterance].split()) < 0.8
        assert np.abs(samples.astype(int)).max() > 1000


def test_equal_options_give_equal_files_and_another_seed_others(prepared, tmp_path):
    prepare_corpus(EspeakDigitsOptions(**SMALL), tmp_path / "same")
    prepare_corpus(EspeakDigitsOptions(**SMALL, seed=1), tmp_path / "other")
    assert files_of(tmp_path / "same") == files_of(prepared)
    assert not set(files_of(tmp_path / "other")) & set(files_of(prepared))


def test_the_noise_has_the_level_that_was_asked_for(tmp_path):
    clean = {"noises": ["white"], "snr_db": [100.0]}
    for name, extra in (("clean", clean), ("noisy", clean | {"snr_db": [10.0]})):
        prepare_corpus(EspeakDigitsOptions(**SMALL | extra, sample_rate=16000), tmp_path / name)
    for name, noisy in files_of(tmp_path / "noisy").items():
        speech, rate = soundfile.read(tmp_path / "clean" / name)
        mixture, _ = soundfile.read(tmp_path / "noisy" / name)
        assert rate == 16000
        assert len(noisy) > 1000
        # The mixture may be scaled against overflow: fit the scale, the rest is the noise.
        scale = speech @ mixture / (speech @ speech)
        spoken = np.flatnonzero(np.abs(speech) > 0.001)
        level = np.square(scale * speech[spoken[0] : spoken[-1]]).mean()
        ratio = level / np.square(mixture - scale * speech).mean()
        assert 10 * np.log10(ratio) == pytest.approx(10, abs=1.0)


def test_every_noise_level_is_used_equally_often(monkeypatch, tmp_path):
    from mariana_asr.corpus.prepare import espeak_digits

    clean = [np.full(2205, 1000, np.int16)] * 8
    options = EspeakDigitsOptions(noises=["white"], snr_db=[40.0, 20.0])
    noisy = espeak_digits._add_room(clean, 22050, options, np.random.default_rng(0))
    # The first 0.1 s at least is noise alone, at 10 or at 100 beside speech at 1000.
    levels = [samples[:790].astype(float).std() for samples in noisy]
    assert sorted(round(level / 10) for level in levels) == [1] * 4 + [10] * 4


@pytest.mark.parametrize(("colour", "slope"), [("white", 0.0), ("pink", -1.0)])
def test_noise_has_its_spectrum_and_unit_power(colour, slope):
    samples = noise(colour, 1 << 17, 8000, np.random.default_rng(0))
    assert np.square(samples).mean() == pytest.approx(1)
    power = np.square(np.abs(np.fft.rfft(samples)))
    frequencies = np.fft.rfftfreq(len(samples), 1 / 8000)
    bands = [(100, 200), (200, 400), (400, 800), (800, 1600), (1600, 3200)]
    densities = [power[(frequencies >= a) & (frequencies < b)].mean() for a, b in bands]
    fitted = np.polyfit(np.log2([a for a, _ in bands]), np.log2(densities), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.05)


def test_rate_and_pitch_change_the_speech():
    script = VoiceScript(
        "en-us+m3",
        (
            Utterance("one two three", words_per_minute=120),
            Utterance("one two three", words_per_minute=240),
            Utterance("one two three", words_per_minute=120, pitch=90),
        ),
    )
    ((slow, fast, high), rate), *_ = speak([script])
    assert rate == 22050
    assert len(slow) > 1.4 * len(fast)
    assert abs(len(slow) - len(high)) < 0.1 * len(slow)
    assert not np.array_equal(slow[:10000], high[:10000])


def test_a_voice_that_espeak_lacks_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no voice variant 'm33'.*m3, "):
        check_voices(["en-us+m3", "en-us+m33"])
    options = EspeakDigitsOptions(**SMALL | {"dev_voices": ["en-atlantis+m1"]})
    with pytest.raises(DataError, match=r"en-atlantis\+m1: eSpeak NG has no such voice"):
        prepare_corpus(options, tmp_path)
    assert not (tmp_path / "wav").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dev_voices": ["en+m1"]}, "train_voices and dev_voices share m1"),
        ({"test_voices": ["en+x", "en+x"]}, "voices named twice: en_x"),
        ({"shortest": 5, "longest": 4}, "longest is 4"),
        ({"test_voices": []}, "at least 1"),
        ({"noises": ["brown"]}, "pink"),
        ({"sample_rate": 44100}, "8000"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        validated(EspeakDigitsOptions, given, "recipe.yaml")


def test_the_default_voices_exist_and_no_speaker_is_in_two_sets():
    options = EspeakDigitsOptions()
    check_voices(options.all_voices)
    assert [len(options.voices(name)) for name in ("train", "dev", "test")] == [24, 4, 8]
    variants = [voice.partition("+")[2] for voice in options.all_voices]
    assert len(set(variants)) == len(variants)
