"""Copies of utterances at other speeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from mariana_asr.corpus.audio import iterate_audio, read_utterance
from mariana_asr.corpus.datadir import DataDir, Segment, is_speed, read_data_dir
from mariana_asr.corpus.speed import change_speed, copy_name, original_name, perturbed_copies
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError, RecipeError

RATE = 16000
SPEEDS = (0.9, 1.0, 1.1)


def tone(frequency: float, seconds: float) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(
        np.float32
    )


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """Three recordings of two speakers, a tone of 500, 600 or 700 Hz each."""
    wav = {}
    for number, utterance in enumerate(["ann-1", "ann-2", "bob-1"]):
        path = tmp_path / f"{utterance}.wav"
        soundfile.write(path, tone(500 + 100 * number, 0.5).astype(np.int16), RATE)
        wav[utterance] = str(path)
    return DataDir(
        path=tmp_path / "data",
        utt2spk={u: u[:3] for u in wav},
        text={u: f"WORD {u[-1]}" for u in wav},
        wav=wav,
        spk2gender={"ann": "f", "bob": "m"},
    )


@pytest.mark.parametrize("speed", [0.5, 0.83, 0.9, 0.97, 1.1, 1.25, 2.0])
def test_a_tone_of_another_speed_is_another_tone_of_another_length(speed: float) -> None:
    samples = tone(440.0, 0.7)
    changed = change_speed(samples, speed)
    assert changed.dtype == np.float32
    assert abs(len(changed) - len(samples) / speed) < 1
    # Away from the edges, where the filter sees the end of the signal.
    inner = slice(200, -200)
    expected = 8000 * np.sin(2 * np.pi * speed * 440.0 * np.arange(len(changed)) / RATE)
    assert np.abs(changed - expected)[inner].max() < 0.02 * 8000


def test_what_would_be_above_half_the_rate_is_filtered_out_rather_than_folded_back() -> None:
    samples = tone(7700.0, 0.5)
    faster = change_speed(samples, 1.1)  # 8470 Hz: an alias would be at 7530 Hz
    assert np.sqrt(np.mean(faster[200:-200] ** 2)) < 0.001 * 8000 / np.sqrt(2)


def test_at_speed_1_samples_are_those_of_the_recording() -> None:
    samples = tone(440.0, 0.1)
    assert change_speed(samples, 1.0) is samples


def test_copies_are_read_at_their_speed(data: DataDir) -> None:
    copies = perturbed_copies(data, SPEEDS, data.path)
    read = {utterance: samples for utterance, samples, _ in iterate_audio(copies)}
    assert read.keys() == {prefix + u for prefix in ("", "sp0.9-", "sp1.1-") for u in data.utt2spk}
    for number, utterance in enumerate(data.utterances):
        for prefix, speed in (("", 1.0), ("sp0.9-", 0.9), ("sp1.1-", 1.1)):
            samples = read[prefix + utterance]
            np.testing.assert_array_equal(samples, read_utterance(copies, prefix + utterance)[0])
            assert len(samples) == np.ceil(8000 / speed)
            spectrum = np.abs(np.fft.rfft(samples, 1 << 16))
            peak = np.argmax(spectrum) * RATE / (1 << 16)
            assert peak == pytest.approx(speed * (500 + 100 * number), abs=2)


def test_copies_make_a_kaldi_data_directory(data: DataDir, tmp_path: Path) -> None:
    copies = perturbed_copies(data, SPEEDS, tmp_path / "copies")
    copies.write()
    assert validate_data_dir(copies.path) == []
    assert read_data_dir(copies.path) == copies
    assert (copies.path / "utt2spk").read_text().splitlines() == [
        "ann-1 ann",
        "ann-2 ann",
        "bob-1 bob",
        "sp0.9-ann-1 sp0.9-ann",
        "sp0.9-ann-2 sp0.9-ann",
        "sp0.9-bob-1 sp0.9-bob",
        "sp1.1-ann-1 sp1.1-ann",
        "sp1.1-ann-2 sp1.1-ann",
        "sp1.1-bob-1 sp1.1-bob",
    ]
    assert copies.text["sp1.1-bob-1"] == copies.text["bob-1"] == "WORD 1"
    assert copies.spk2gender["sp0.9-ann"] == "f"
    assert (copies.path / "utt2speed").read_text().splitlines()[2:4] == [
        "bob-1 1",
        "sp0.9-ann-1 0.9",
    ]


def test_segments_of_copies_are_cut_from_the_recording_and_then_sped_up(
    data: DataDir, tmp_path: Path
) -> None:
    path = tmp_path / "tape.wav"
    soundfile.write(path, np.concatenate([tone(300, 1), tone(900, 1)]).astype(np.int16), RATE)
    cut = replace(
        data,
        wav={"tape": str(path)},
        segments={
            "ann-1": Segment("tape", 0.1, 0.6),
            "ann-2": Segment("tape", 1.2, 1.7),
            "bob-1": Segment("tape", 1.5, -1.0),
        },
    )
    copies = perturbed_copies(cut, (1.0, 1.25), tmp_path / "copies")
    copies.write()
    assert validate_data_dir(copies.path) == []
    read = {utterance: samples for utterance, samples, _ in iterate_audio(copies)}
    for utterance in cut.utterances:
        part = read[utterance]
        np.testing.assert_array_equal(read[f"sp1.25-{utterance}"], change_speed(part, 1.25))
        assert len(read[f"sp1.25-{utterance}"]) == len(part) / 1.25 == 6400


def test_parts_of_a_directory_keep_the_speeds(data: DataDir) -> None:
    copies = perturbed_copies(data, SPEEDS, data.path)
    part = copies.subset(["sp0.9-bob-1", "ann-1"])
    assert part.speeds == {"sp0.9-bob-1": 0.9, "ann-1": 1.0}
    assert len(read_utterance(part, "sp0.9-bob-1")[0]) == 8889


def test_without_speed_1_the_originals_are_left_out(data: DataDir) -> None:
    copies = perturbed_copies(data, (0.95,), data.path)
    assert copies.utterances == [f"sp0.95-{u}" for u in data.utterances]


def test_what_cannot_be_copied_is_told(data: DataDir) -> None:
    with pytest.raises(DataError, match=r"no wav\.scp: without audio"):
        perturbed_copies(replace(data, wav={}), SPEEDS, data.path)
    copies = perturbed_copies(data, SPEEDS, data.path)
    with pytest.raises(DataError, match="copies at other speeds already"):
        perturbed_copies(copies, (1.0, 0.8), data.path)
    clash = replace(data, utt2spk=data.utt2spk | {"sp0.9-ann-1": "sp0.9-ann"})
    with pytest.raises(DataError, match=r"the ids that copies are to get: sp0\.9-ann-1"):
        perturbed_copies(clash, SPEEDS, data.path)
    for speeds, message in (
        ((1.0, 3.0), "speed 3 given, .* from 0.5 to 2 in hundredths"),
        ((1.0, 0.905), "speed 0.905 given"),
        ((1.0, 1.0), "different"),
        ((), "one or more"),
    ):
        with pytest.raises(RecipeError, match=message):
            perturbed_copies(data, speeds, data.path)


def test_a_bad_table_of_speeds_is_told_with_its_line(data: DataDir) -> None:
    data.write()
    (data.path / "utt2speed").write_text("ann-1 1\nann-2 -0.9\nbob-1 0.9\n")
    with pytest.raises(DataError, match=r"utt2speed:2: .*from 0\.5 to 2 in hundredths.*-0\.9"):
        read_data_dir(data.path)
    problems = validate_data_dir(data.path)
    assert ["utt2speed" in str(problem) and "-0.9" in str(problem) for problem in problems] == [
        True
    ]


@given(st.text(min_size=1), st.integers(50, 200))
def test_names_of_copies_can_be_undone(name: str, hundredths: int) -> None:
    speed = hundredths / 100
    assert is_speed(speed)
    assert original_name(copy_name(name, speed), speed) == name
    assert (copy_name(name, speed) == name) == (hundredths == 100)
