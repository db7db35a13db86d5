import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from mariana_asr.corpus.audio import (
    iterate_audio,
    open_audio_info,
    read_audio,
    read_utterance,
)
from mariana_asr.corpus.datadir import DataDir, Segment
from mariana_asr.errors import DataError

RATE = 8000


@pytest.fixture
def samples() -> NDArray[np.int16]:
    return (np.random.default_rng(1).standard_normal(2 * RATE) * 3000).astype(np.int16)


def write(path: Path, samples: np.ndarray, subtype: str = "PCM_16", **options: str) -> Path:
    soundfile.write(path, samples, RATE, subtype=subtype, **options)
    return path


@pytest.mark.parametrize(
    ("name", "file_format", "subtype"),
    [
        ("a.wav", "WAV", "PCM_16"),
        ("a.wav", "WAVEX", "PCM_16"),
        ("a.wav", "WAV", "PCM_24"),
        ("a.flac", "FLAC", "PCM_16"),
        ("a.sph", "NIST", "PCM_16"),
        ("a.aiff", "AIFF", "PCM_16"),
    ],
)
def test_samples_of_lossless_files_come_back_as_they_were_written(
    tmp_path: Path, samples: NDArray[np.int16], name: str, file_format: str, subtype: str
) -> None:
    path = write(tmp_path / name, samples, subtype, format=file_format)
    read, rate = read_audio(path)
    assert rate == RATE
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples)
    assert open_audio_info(path) == (RATE, len(samples), 1)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_is_read_with_its_length_and_about_its_loudness(tmp_path: Path, subtype: str) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.int16)
    read, rate = read_audio(write(tmp_path / "a.ogg", tone, subtype, format="OGG"))
    assert (rate, len(read)) == (RATE, RATE)
    assert np.sqrt(np.mean(read**2)) == pytest.approx(8000 / np.sqrt(2), rel=0.05)


def test_floating_point_audio_is_brought_to_the_scale_of_16_bit_integers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.array([0.5, -1.0, 0.25], np.float32), "FLOAT")
    np.testing.assert_array_equal(read_audio(path)[0], [16384.0, -32768.0, 8192.0])


def test_floating_point_audio_on_the_scale_of_integers_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.array([0.5, 2000.0], np.float32), "FLOAT")
    with pytest.raises(DataError, match=r"reach 2000, expected -1 to 1\. Divide"):
        read_audio(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_samples_are_refused_with_their_place(
    tmp_path: Path, value: float
) -> None:
    path = write(tmp_path / "a.wav", np.array([0.1, 0.2, value, 0.1], np.float32), "FLOAT")
    with pytest.raises(DataError, match="NaN or infinite samples, the first at 2"):
        read_audio(path)


def test_a_missing_file_is_named_with_the_folder_that_relative_names_start_from() -> None:
    with pytest.raises(DataError, match=r"nowhere/a\.wav: no such audio file.*current folder, /"):
        read_audio("nowhere/a.wav")


def test_a_tilde_is_not_expanded_and_the_error_says_so() -> None:
    with pytest.raises(DataError, match="~ is not expanded"):
        read_audio("~/a.wav")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(DataError, match=r"a\.wav: empty audio file"):
        read_audio(tmp_path / "a.wav")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read_audio(tmp_path)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        read_audio(write(tmp_path / "a.wav", np.zeros(0, np.int16)))


def test_a_web_page_saved_as_audio_is_refused_with_what_is_supported(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("<html>404 Not Found</html>")
    with pytest.raises(DataError, match=r"not an audio file .* WAV, FLAC, OGG and NIST SPHERE"):
        read_audio(tmp_path / "a.wav")


def test_stereo_is_refused_with_the_number_of_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros((100, 2), np.int16))
    with pytest.raises(DataError, match="2 channels, expected one"):
        read_audio(path)
    assert open_audio_info(path) == (RATE, 100, 2)


@pytest.mark.parametrize("fraction", [0.999, 0.5, 0.01, 0.0003])
@pytest.mark.parametrize(
    ("name", "file_format", "subtype"),
    [
        ("a.wav", "WAV", "PCM_16"),
        ("a.wav", "WAV", "FLOAT"),
        ("a.flac", "FLAC", "PCM_16"),
        ("a.ogg", "OGG", "VORBIS"),
        ("a.ogg", "OGG", "OPUS"),
        ("a.sph", "NIST", "PCM_16"),
        ("a.aiff", "AIFF", "PCM_16"),
    ],
)
def test_a_file_that_was_cut_is_never_taken_for_a_shorter_one(
    tmp_path: Path,
    samples: NDArray[np.int16],
    name: str,
    file_format: str,
    subtype: str,
    fraction: float,
) -> None:
    values = samples / np.float32(32768) if subtype == "FLOAT" else samples
    content = write(tmp_path / name, values, subtype, format=file_format).read_bytes()
    (tmp_path / name).write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(DataError) as caught:
        read_audio(tmp_path / name)
    if fraction in (0.999, 0.5):
        assert "cut short" in str(caught.value)
        assert caught.value.remedy == "Fetch the file again"


def test_the_numbers_of_promised_and_present_bytes_are_told(
    tmp_path: Path, samples: NDArray[np.int16]
) -> None:
    path = write(tmp_path / "a.wav", samples)
    path.write_bytes(path.read_bytes()[: 44 + 1000])
    with pytest.raises(DataError, match="promises 32000 bytes of samples, 1000 are there"):
        open_audio_info(path)


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_wav_written_to_a_pipe_is_read_to_its_end(
    tmp_path: Path, samples: NDArray[np.int16], length: int
) -> None:
    content = bytearray(write(tmp_path / "a.wav", samples).read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", length)
    (tmp_path / "a.wav").write_bytes(content)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], samples)
    assert open_audio_info(tmp_path / "a.wav") == (RATE, len(samples), 1)


def test_chunks_behind_the_samples_are_no_samples(
    tmp_path: Path, samples: NDArray[np.int16]
) -> None:
    content = bytearray(write(tmp_path / "a.wav", samples).read_bytes())
    content += b"LIST" + struct.pack("<I", 4) + b"INFO"
    content[4:8] = struct.pack("<I", len(content) - 8)
    (tmp_path / "a.wav").write_bytes(content)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], samples)


def test_flac_of_unknown_length_is_refused(tmp_path: Path, samples: NDArray[np.int16]) -> None:
    content = bytearray(write(tmp_path / "a.flac", samples).read_bytes())
    content[21] &= 0xF0  # the low 36 bits of STREAMINFO's word are the number of samples
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(DataError, match="does not tell its length"):
        read_audio(tmp_path / "a.flac")


def test_a_damaged_flac_frame_is_an_error(tmp_path: Path, samples: NDArray[np.int16]) -> None:
    content = bytearray(write(tmp_path / "a.flac", samples).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(50)
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(DataError, match="cut short or damaged"):
        read_audio(tmp_path / "a.flac")


def test_shortened_sphere_names_the_program_that_converts_it(tmp_path: Path) -> None:
    header = b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    (tmp_path / "a.sph").write_bytes(header.ljust(1024) + bytes(100))
    with pytest.raises(DataError, match=r"shorten.*sph2pipe"):
        read_audio(tmp_path / "a.sph")


def test_commands_are_not_run_unless_allowed(tmp_path: Path) -> None:
    command = f"touch {tmp_path}/ran |"
    with pytest.raises(DataError, match="--allow-pipes"):
        read_audio(command)
    assert not (tmp_path / "ran").exists()


def test_a_command_is_read_from_its_output(tmp_path: Path, samples: NDArray[np.int16]) -> None:
    path = write(tmp_path / "a.wav", samples)
    read, rate = read_audio(f"cat {path} | cat | ", allow_pipes=True)
    assert rate == RATE
    np.testing.assert_array_equal(read, samples)
    assert open_audio_info(f"cat {path} |", allow_pipes=True) == (RATE, len(samples), 1)


def test_a_command_that_fails_is_an_error_with_its_status_and_words() -> None:
    with pytest.raises(DataError, match="failed with status 3: no such tape"):
        read_audio("echo no such tape >&2; exit 3 |", allow_pipes=True)


def test_a_command_that_fails_after_writing_a_recording_is_still_an_error(
    tmp_path: Path, samples: NDArray[np.int16]
) -> None:
    path = write(tmp_path / "a.wav", samples)
    with pytest.raises(DataError, match="failed with status 1: no message"):
        read_audio(f"cat {path}; false |", allow_pipes=True)


@pytest.mark.parametrize(
    ("command", "message"),
    [("true |", "wrote nothing"), ("echo hello |", "not an audio file")],
)
def test_a_command_must_write_a_recording(command: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_audio(command, allow_pipes=True)


def test_a_command_whose_output_was_cut_is_an_error(
    tmp_path: Path, samples: NDArray[np.int16]
) -> None:
    path = write(tmp_path / "a.wav", samples)
    with pytest.raises(DataError, match="cut short"):
        read_audio(f"head -c 1000 {path} |", allow_pipes=True)


@pytest.fixture
def meeting(tmp_path: Path, samples: NDArray[np.int16]) -> DataDir:
    """Two recordings of 2 s, four utterances in them."""
    wav = {name: str(write(tmp_path / f"{name}.wav", samples)) for name in ("r1", "r2")}
    segments = {
        "a-1": Segment("r1", 0.25, 1.0),
        "a-2": Segment("r2", 0.5, -1),
        "a-3": Segment("r1", 1.5, 2.3),
        "a-4": Segment("r2", 0.00006, 0.2001),
    }
    return DataDir(tmp_path / "data", dict.fromkeys(segments, "a"), wav=wav, segments=segments)


def test_segments_are_cut_as_kaldi_cuts_them(meeting: DataDir, samples: NDArray[np.int16]) -> None:
    expected = {
        "a-1": samples[2000:8000],
        "a-2": samples[4000:],  # an end of -1 is the recording's
        "a-3": samples[12000:],  # an overshoot of 0.3 s is cut off
        "a-4": samples[0:1601],  # times are rounded to the nearest sample
    }
    for utterance, values in expected.items():
        np.testing.assert_array_equal(read_utterance(meeting, utterance)[0], values)
    together = {u: (read, rate) for u, read, rate in iterate_audio(meeting)}
    assert together.keys() == expected.keys()
    for utterance, (read, rate) in together.items():
        assert rate == RATE
        np.testing.assert_array_equal(read, expected[utterance])


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (1.0, 1.0, "is empty"),
        (1.5, 0.5, "is empty"),
        (-0.5, 1.0, "is empty"),
        (0.0, 2.51, "over the end of recording 'r1', which has 2.000 s"),
        (2.1, 2.4, "over the end"),
        (2.1, -1, "over the end"),
        (1.95, 2.4, "0.050 s of audio, less than 0.1 s"),
    ],
)
def test_a_segment_that_does_not_fit_is_an_error(
    meeting: DataDir, start: float, end: float, message: str
) -> None:
    assert meeting.segments is not None
    meeting.segments["a-1"] = Segment("r1", start, end)
    with pytest.raises(DataError, match=rf"segments: a-1: .*{message}"):
        read_utterance(meeting, "a-1")


def test_each_recording_is_read_once(meeting: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(location: str, *, allow_pipes: bool = False) -> object:
        read.append(Path(location).stem)
        return read_audio(location, allow_pipes=allow_pipes)

    monkeypatch.setattr("mariana_asr.corpus.audio.read_audio", counting)
    assert [utterance for utterance, _, _ in iterate_audio(meeting)] == ["a-1", "a-3", "a-2", "a-4"]
    assert read == ["r1", "r2"]


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(meeting: DataDir) -> None:
    assert meeting.segments is not None
    meeting.utt2spk["a-9"] = "a"
    meeting.segments["a-1"] = Segment("r1", 5, 6)
    meeting.segments["a-5"] = Segment("r3", 0, 1)
    meeting.utt2spk["a-5"] = "a"
    Path(meeting.wav["r2"]).write_bytes(b"")
    failed: dict[str, str] = {}
    done = [
        utterance
        for utterance, _, _ in iterate_audio(
            meeting, on_error=lambda utterance, error: failed.update({utterance: str(error)})
        )
    ]
    assert done == ["a-3"]
    assert failed.keys() == {"a-1", "a-2", "a-4", "a-5", "a-9"}
    assert "over the end" in failed["a-1"]
    assert "wav.scp: r2" in failed["a-2"]
    assert "empty audio file" in failed["a-2"]
    assert "no line for recording 'r3'" in failed["a-5"]
    assert "no segment for utterance 'a-9'" in failed["a-9"]
    with pytest.raises(DataError, match="no line for recording"):
        list(iterate_audio(meeting))


def test_an_utterance_without_segments_is_its_recording(
    tmp_path: Path, samples: NDArray[np.int16]
) -> None:
    wav = {"u": str(write(tmp_path / "u.wav", samples))}
    data = DataDir(tmp_path, {"u": "s", "v": "s"}, wav=wav)
    np.testing.assert_array_equal(read_utterance(data, "u")[0], samples)
    with pytest.raises(DataError, match=r"wav\.scp: no line for recording 'v'"):
        read_utterance(data, "v")


def test_real_recordings_equal_what_soundfile_decodes(corpora: Path) -> None:
    files = [
        next((corpora / "an4").rglob("*.flac")),
        next((corpora / "aishell").rglob("*.flac")),
        next((corpora / "fsdd").rglob("*.wav")),
    ]
    for file, expected_rate in zip(files, (16000, 16000, 8000), strict=True):
        expected = soundfile.read(io.BytesIO(file.read_bytes()), dtype="int16")[0]
        read, rate = read_audio(file)
        assert rate == expected_rate
        np.testing.assert_array_equal(read, expected)
