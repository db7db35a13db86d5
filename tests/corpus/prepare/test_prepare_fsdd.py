import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.corpus.prepare import FsddOptions, prepare_corpus
from mariana_asr.corpus.prepare.digits import DIGITS, cut_into_strings
from mariana_asr.corpus.prepare.room_tone import join, quiet_frames, room_tone
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError, RecipeError, StageError
from mariana_asr.options import validated

SETS = ("train", "dev", "test")


def wav_digest(out: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted((out / "wav").rglob("*.wav")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def digits_of(data: DataDir) -> Counter[str]:
    return Counter(word for text in data.text.values() for word in text.split())


@pytest.fixture(scope="module")
def connected(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataDir]:
    out = tmp_path_factory.mktemp("fsdd")
    prepare_corpus(FsddOptions(corpus_dir=corpora / "fsdd", test_speakers=["theo"]), out)
    return {name: read_data_dir(out / name) for name in SETS}


def test_single_digits_follow_the_official_split(corpora, tmp_path):
    prepare_corpus(FsddOptions(corpus_dir=corpora / "fsdd", task="single"), tmp_path)
    sizes = {}
    for name, indices in zip(SETS, (range(10, 50), range(5, 10), range(5)), strict=True):
        data = read_data_dir(tmp_path / name)
        sizes[name] = len(data.utt2spk)
        for utterance, file in data.wav.items():
            digit, speaker, index = re.fullmatch(r"(\d)_(\w+)_(\d+)", Path(file).stem).groups()
            assert int(index) in indices
            assert utterance == f"{speaker}-{digit}_{int(index):03d}"
            assert data.text[utterance] == DIGITS[int(digit)]
            assert data.utt2spk[utterance] == speaker
        assert not validate_data_dir(tmp_path / name)
    assert sizes == {"train": 2000, "dev": 250, "test": 250}
    assert not (tmp_path / "wav").exists()


def test_the_test_speaker_is_left_out_of_training(connected):
    assert list(connected["test"].spk2utt) == ["theo"]
    others = ["george", "jackson", "nicolas", "yweweler"]
    assert list(connected["train"].spk2utt) == list(connected["dev"].spk2utt) == others


def test_every_recording_is_used_equally_often(connected):
    for name, each in (("test", 50), ("dev", 4 * 5), ("train", 4 * 45)):
        assert digits_of(connected[name]) == dict.fromkeys(DIGITS, each)


def test_strings_have_three_to_seven_digits_and_say_what_their_id_says(connected):
    lengths = Counter()
    for data in connected.values():
        for utterance, text in data.text.items():
            speaker, digits, _ = re.fullmatch(r"([a-z]+)-(\d+)_(\d{3})", utterance).groups()
            assert text.split() == [DIGITS[int(digit)] for digit in digits]
            assert data.utt2spk[utterance] == speaker
            lengths[len(digits)] += 1
    assert sorted(lengths) == [3, 4, 5, 6, 7]


def test_the_data_directories_are_valid_and_the_audio_is_8_khz(connected):
    for data in connected.values():
        assert not validate_data_dir(data.path, read_data=True)
        file = Path(next(iter(data.wav.values())))
        assert file.is_absolute()
        info = soundfile.info(file)
        assert (info.samplerate, info.channels, info.subtype) == (8000, 1, "PCM_16")


def test_a_string_holds_its_recordings_unchanged_but_for_the_faded_ends(connected, corpora):
    data = connected["test"]
    utterance = data.utterances[0]
    audio, _ = soundfile.read(data.wav[utterance], dtype="int16")
    middles = Counter()
    for word in data.text[utterance].split():
        for index in range(50):
            file = corpora / f"fsdd/recordings/{DIGITS.index(word)}_theo_{index}.wav"
            samples, _ = soundfile.read(file, dtype="int16")
            middle = samples[40:-40].astype("<i2").tobytes()
            at = audio.astype("<i2").tobytes().find(middle)
            middles[word] += at >= 0 and at % 2 == 0
    words = Counter(data.text[utterance].split())
    assert all(middles[word] >= 1 for word in words)


def test_the_dictionary_covers_the_digits(connected):
    dictionary = connected["test"].path.parent / "dict"
    lexicon = [line.split() for line in (dictionary / "lexicon.txt").read_text().splitlines()]
    assert {entry[0] for entry in lexicon} == {*DIGITS, "<UNK>"}
    phones = {phone for entry in lexicon for phone in entry[1:]}
    assert phones == {"SIL", *(dictionary / "nonsilence_phones.txt").read_text().split()}
    assert (dictionary / "extra_questions.txt").read_text() == ""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two speakers, ten recordings of each digit."""
    folder = tmp_path / "fsdd/recordings"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for index in range(12):
                samples = generator.integers(-500, 500, 1600, dtype=np.int16)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", samples, 8000)
    return tmp_path / "fsdd"


SMALL = {"speakers": ["ann", "bob"], "test_speakers": ["bob"]}


def test_equal_seeds_give_equal_files_and_other_seeds_others(small, tmp_path):
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_corpus(FsddOptions(corpus_dir=small, seed=seed, **SMALL), tmp_path / name)
        digests.append(wav_digest(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]


def test_training_recordings_can_be_used_several_times(small, tmp_path):
    prepare_corpus(FsddOptions(corpus_dir=small, repeats=3, **SMALL), tmp_path)
    counts = {name: digits_of(read_data_dir(tmp_path / name)) for name in SETS}
    assert counts["train"] == dict.fromkeys(DIGITS, 3 * 7)
    assert counts["dev"] == dict.fromkeys(DIGITS, 5)
    assert counts["test"] == dict.fromkeys(DIGITS, 12)


def test_development_speakers_are_left_out_of_training(corpora, tmp_path):
    options = FsddOptions(
        corpus_dir=corpora / "fsdd",
        speakers=["theo", "george", "nicolas"],
        test_speakers=["theo"],
        dev_speakers=["nicolas"],
    )
    prepare_corpus(options, tmp_path)
    sets = {name: read_data_dir(tmp_path / name) for name in SETS}
    assert {name: list(data.spk2utt) for name, data in sets.items()} == {
        "train": ["george"],
        "dev": ["nicolas"],
        "test": ["theo"],
    }
    for data in sets.values():
        assert digits_of(data) == dict.fromkeys(DIGITS, 50)


def test_unusable_recordings_are_left_out_and_listed(small, tmp_path):
    folder = small / "recordings"
    (folder / "3_ann_0.wav").write_bytes(b"")
    soundfile.write(folder / "4_bob_11.wav", np.zeros(1600, np.int16), 16000)
    prepare_corpus(FsddOptions(corpus_dir=small, **SMALL), tmp_path / "out")
    assert "3_ann_0 " in (tmp_path / "out/train/skipped.txt").read_text()
    assert "16000 Hz, not 8000" in (tmp_path / "out/test/skipped.txt").read_text()
    assert digits_of(read_data_dir(tmp_path / "out/train"))["three"] == 6
    assert digits_of(read_data_dir(tmp_path / "out/test"))["four"] == 11
    prepare_corpus(FsddOptions(corpus_dir=small, task="single", **SMALL), tmp_path / "out")
    assert "ann-3_000" in (tmp_path / "out/test/skipped.txt").read_text()
    assert not (tmp_path / "out/wav").exists(), "what an earlier preparation left must go"


def test_a_set_without_a_usable_recording_is_an_error(small, tmp_path):
    for file in (small / "recordings").glob("*_bob_*.wav"):
        file.write_bytes(b"RIFF")
    with pytest.raises(StageError, match="test set of FSDD: none of 120"):
        prepare_corpus(FsddOptions(corpus_dir=small, **SMALL), tmp_path / "out")
    assert not (tmp_path / "out/wav").exists()


def test_a_speaker_that_the_corpus_lacks_is_named(small, tmp_path):
    with pytest.raises(DataError, match=r"no recordings of carl.*It has ann, bob"):
        prepare_corpus(
            FsddOptions(corpus_dir=small, speakers=["ann", "carl"], test_speakers=["ann"]),
            tmp_path / "out",
        )
    with pytest.raises(DataError, match="It has none"):
        prepare_corpus(FsddOptions(corpus_dir=tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"test_speakers": ["nobody"]}, "nobody: not in speakers"),
        ({"test_speakers": ["theo"], "dev_speakers": ["theo"]}, "named twice"),
        ({"speakers": ["theo"], "test_speakers": ["theo"]}, "no speaker to train on"),
        ({"shortest": 5, "longest": 7}, "at least 9"),
        ({"pause": (0.3, 0.1)}, "pause is 0.3 to 0.1"),
        ({"test_speaker": ["theo"]}, "did you mean 'test_speakers'"),
        ({"task": "digits"}, "connected"),
    ],
)
def test_options_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        validated(FsddOptions, given, "recipe.yaml")


@given(count=st.integers(3, 200), shortest=st.integers(1, 3), seed=st.integers(0, 100))
def test_cutting_leaves_nothing_over_and_keeps_the_order(count, shortest, seed):
    longest = 2 * shortest + 1
    strings = cut_into_strings(range(count), shortest, longest, np.random.default_rng(seed))
    assert [item for string in strings for item in string] == list(range(count))
    assert all(shortest <= len(string) <= longest for string in strings)


def test_lengths_that_cannot_add_up_are_refused():
    with pytest.raises(ValueError, match="7 items do not fill strings of 5 to 6"):
        cut_into_strings(range(7), 5, 6, np.random.default_rng(0))


def test_room_tone_keeps_level_spectrum_and_offset_of_its_frames():
    generator = np.random.default_rng(0)
    slow = np.convolve(generator.standard_normal(16000), np.ones(16) / 4, "same")
    frames = (20 * slow + 7).astype(np.float32).reshape(-1, 160)
    tone = room_tone(frames, 80000, generator)
    within = frames - frames.mean(axis=1, keepdims=True)
    assert len(tone) == 80000
    assert tone.mean() == pytest.approx(frames.mean(), abs=0.5)
    assert tone.std() == pytest.approx(within.std(), rel=0.03)

    def low_share(samples: np.ndarray) -> float:
        power = np.square(np.abs(np.fft.rfft(samples - samples.mean())))
        return power[: len(power) // 8].sum() / power.sum()

    assert low_share(tone) == pytest.approx(low_share(frames.ravel()), abs=0.03)


def test_the_quietest_frames_are_found_and_digital_silence_is_not_among_them():
    generator = np.random.default_rng(0)
    loud, quiet = generator.normal(0, 900, 1600), generator.normal(0, 9, 1600)
    recording = np.concatenate([loud, np.zeros(800), quiet, loud]).astype(np.float32)
    frames = quiet_frames([recording, recording[:50]], 8000)
    assert frames.shape == (8, 160)
    assert 1 < frames.std() < 12
    assert quiet_frames([np.zeros(800, np.float32)], 8000).shape == (0, 160)
    assert not room_tone(np.zeros((0, 160), np.float32), 100, generator).any()


def test_joining_puts_each_recording_after_its_pause_and_never_clips_round():
    generator = np.random.default_rng(0)
    first, second = (generator.normal(0, 8000, n).astype(np.float32).round() for n in (800, 1600))
    first[400] = 50000
    joined = join([first, second], [0.1, 0.2, 0.05], 8000, generator)
    assert joined.dtype == np.int16
    assert len(joined) == 800 + 800 + 1600 + 1600 + 400
    np.testing.assert_array_equal(joined[840:1200], first[40:400])
    assert joined[1200] == 32767
    np.testing.assert_array_equal(joined[3240:4760], np.clip(second[40:-40], -32768, 32767))
    assert joined[:790].std() < 8000
