import shutil
import subprocess
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from mariana_asr.corpus.validate import Problem, validate_data_dir


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A right directory: two speakers, two recordings of 2 s, four utterances."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("r1", "r2"):
        soundfile.write(tmp_path / f"{name}.wav", np.ones(16000, np.int16), 8000)
    (tmp_path / "empty.wav").touch()
    files = {
        "utt2spk": "a-1 a\na-2 a\nb-1 b\nb-2 b\n",
        "spk2utt": "a a-1 a-2\nb b-1 b-2\n",
        "text": "a-1 one\na-2 two three\nb-1 four\nb-2 five\n",
        "wav.scp": f"r1 {tmp_path}/r1.wav\nr2 {tmp_path}/r2.wav\n",
        "segments": "a-1 r1 0 1\na-2 r1 1 2.2\nb-1 r2 0 0.5\nb-2 r2 0.5 -1\n",
        "reco2dur": "r1 2\nr2 2.0\n",
        "spk2gender": "a f\nb m\n",
        "utt2dur": "a-1 1\na-2 1\nb-1 0.5\nb-2 1.5\n",
        "reco2file_and_channel": "r1 r1 A\nr2 r2 B\n",
        "utt2lang": "a-1 en\na-2 en\nb-1 en\nb-2 en\n",
        "spk2warp": "a 0.9\nb 1.1\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def edit(folder: Path, name: str, old: str | bytes, new: str | bytes) -> None:
    old, new = (text.encode() if isinstance(text, str) else text for text in (old, new))
    content = (folder / name).read_bytes()
    assert old in content
    (folder / name).write_bytes(content.replace(old, new, 1))


def found(folder: Path, **options: bool) -> list[str]:
    """Problems as 'file:line: message', for the message's first words to be compared."""
    return [
        f"{problem.file.name}:{problem.line}: {problem.message}"
        for problem in validate_data_dir(folder, **options)
    ]


def test_a_right_directory_has_no_problems(directory: Path) -> None:
    assert validate_data_dir(directory) == []
    assert validate_data_dir(directory, read_data=True) == []


def test_empty_transcripts_may_be_allowed(directory: Path) -> None:
    (directory / "text").write_text((directory / "text").read_text().replace("a-1 one", "a-1"))
    assert len(validate_data_dir(directory)) == 1
    assert validate_data_dir(directory, allow_empty_text=True) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("text", "a-1 one\n", "", "text:None: no line for utterance 'a-1', which is in utt2spk"),
        ("text", "a-1 one", "a-0 zero\na-1 one", "text:1: utterance 'a-0' is not in utt2spk"),
        ("text", "a-1 one", "a-1", "text:1: 'a-1': empty transcript"),
        ("text", "b-1 four", "b-1 <s> four", "text:3: 'b-1': the transcript holds <s>"),
        ("text", "b-1 four", "b-1 #0", "text:3: 'b-1': the transcript holds #0"),
        ("text", b"four", b"f\xe9our", "text:3: not UTF-8"),
        ("text", b"four", b"fo\x07ur", "text:3: character that cannot be printed"),
        ("text", b"four", b"fo\0ur", "text:3: character that cannot be printed"),
        ("text", "four", "fo\ufeffur", "text:3: character that cannot be printed"),
        ("text", "two three", "two\u3000three", "text:2: whitespace that is neither space nor"),
        ("text", "two three", "two\xa0three", "text:2: whitespace that is neither space nor"),
        ("text", "two three", "two\rthree", "text:2: whitespace that is neither space nor"),
        ("text", "one\n", "one\r\n", "text:1: Windows line ending"),
        ("text", "a-1 one", "\ufeffa-1 one", "text:1: byte order mark"),
        ("text", "a-2", " a-2", "text:2: space before the id"),
        ("text", "a-2", "\na-2", "text:2: empty line"),
        ("text", "five\n", "five", "text:4: last line does not end in a newline"),
        ("text", "a-2 two", "a-1 one\na-2 two", "text:2: 'a-1' came in line 1 already, with the s"),
        ("text", "a-2 two", "a-1 two\na-2 two", "text:2: 'a-1' came in line 1 already, with anoth"),
        ("utt2spk", "b-1 b", "b-1 b c", "utt2spk:3: 'b-1': expected one speaker, found 'b c'"),
        ("spk2utt", " a-2", "", "spk2utt:1: speaker 'a' lacks 'a-2'"),
        ("spk2utt", "a-1 a-2", "a-2 a-1", "spk2utt:1: speaker 'a' has its utterances in another"),
        ("spk2utt", "a-2", "a-2 b-1", "spk2utt:1: speaker 'a' has 'b-1', which utt2spk does not"),
        ("spk2utt", "b b-1 b-2\n", "", "spk2utt:None: no line for speaker 'b'"),
        ("spk2utt", "b b-1 b-2\n", "b b-1 b-2\nc b-2\n", "spk2utt:3: speaker 'c' is not in utt2"),
        ("wav.scp", "r2 ", "r2 ~", "wav.scp:2: 'r2': ~"),
        ("wav.scp", "r2.wav", "r3.wav", "wav.scp:2: 'r2': no such file: "),
        ("wav.scp", "/r2.wav", "", "wav.scp:2: 'r2': is a folder: "),
        ("wav.scp", "r2.wav", "empty.wav", "wav.scp:2: 'r2': empty file: "),
        ("wav.scp", "r2 ", "r2 cat ", "wav.scp:2: 'r2': no such file: cat "),
        ("wav.scp", "r2.wav", "r2.wav |", "wav.scp:2: 'r2' is a command"),
        ("segments", "0 1\n", "1 1\n", "segments:1: 'a-1': segment ends at 1 s, not after"),
        ("segments", "0 1\n", "-1 1\n", "segments:1: 'a-1': segment starts at -1 s"),
        ("segments", "0 1\n", "0 1 0\n", "segments:1: 'a-1': expected 'recording start end'"),
        ("segments", "0 1\n", "0 nan\n", "segments:1: 'a-1': expected 'recording start end'"),
        ("segments", "1 2.2", "1 2.6", "segments:2: 'a-2': segment from 1 s to 2.6 s reaches ove"),
        ("segments", "r1 0 1", "r7 0 1", "wav.scp:None: no line for recording 'r7', which is in"),
        ("spk2gender", "b m", "b M", "spk2gender:2: 'b': expected m or f, found 'M'"),
        ("spk2gender", "b m\n", "", "spk2gender:None: no line for speaker 'b'"),
        ("utt2dur", "a-1 1", "a-1 0", "utt2dur:1: 'a-1': expected a positive number of seconds"),
        ("utt2dur", "a-1 1", "a-1 one", "utt2dur:1: 'a-1': expected a positive number of second"),
        ("reco2dur", "r1 2", "r1 -2", "reco2dur:1: 'r1': expected a positive number of seconds"),
        ("reco2file_and_channel", "A", "C", "reco2file_and_channel:1: 'r1': expected a file and"),
        ("spk2warp", "0.9", "0.4", "spk2warp:1: 'a': expected a number between 0.5 and 1.5"),
        ("utt2lang", "b-2 en\n", "", "utt2lang:None: no line for utterance 'b-2'"),
        ("utt2lang", "b-2", "b-3", "utt2lang:4: utterance 'b-3' is not in utt2spk"),
    ],
)
def test_one_fault_is_found_with_file_and_line(
    directory: Path, name: str, old: str | bytes, new: str | bytes, expected: str
) -> None:
    edit(directory, name, old, new)
    messages = found(directory)
    assert any(message.startswith(expected) for message in messages), messages
    assert len(messages) <= 3  # a fault is not told over and over
    assert all(problem.remedy for problem in validate_data_dir(directory))


def test_commands_are_allowed_when_asked_for_and_run_only_to_read_data(directory: Path) -> None:
    ran = directory / "ran"
    audio = directory.parent / "r2.wav"
    edit(directory, "wav.scp", f"r2 {audio}", f"r2 touch {ran}; cat {audio} |")
    assert found(directory, read_data=True)[0].startswith("wav.scp:2: 'r2' is a command")
    assert found(directory, allow_pipes=True) == []
    assert not ran.exists()
    assert found(directory, allow_pipes=True, read_data=True) == []
    assert ran.exists()


def test_files_out_of_order_are_told_once_with_the_first_place(directory: Path) -> None:
    (directory / "text").write_text("b-2 five\nb-1 four\na-2 two\na-1 one\n")
    assert found(directory) == [
        "text:2: not sorted: 'b-1' comes after 'b-2' (3 such places)",
    ]


def test_order_is_that_of_bytes_not_of_a_language(directory: Path) -> None:
    for name in ("reco2file_and_channel", "utt2lang", "utt2dur", "segments", "reco2dur"):
        (directory / name).unlink()
    for name in ("spk2gender", "spk2warp"):
        (directory / name).unlink()
    ids = ["B-1", "a-1", "é-1"]  # a dictionary would have a, B, é
    audio = directory.parent / "r1.wav"
    (directory / "utt2spk").write_text("".join(f"{u} {u[0]}\n" for u in ids))
    (directory / "spk2utt").write_text("".join(f"{u[0]} {u}\n" for u in ids))
    (directory / "text").write_text("".join(f"{u} word\n" for u in ids))
    (directory / "wav.scp").write_text("".join(f"{u} {audio}\n" for u in ids))
    assert found(directory) == []


def test_speakers_must_sort_as_their_utterances_do(directory: Path) -> None:
    edit(directory, "utt2spk", "a-1 a\na-2 a", "a-1 a\na-2 c")
    (directory / "spk2utt").write_text("a a-1\nb b-1 b-2\nc a-2\n")
    (directory / "spk2gender").write_text("a f\nb m\nc m\n")
    (directory / "spk2warp").write_text("a 1\nb 1\nc 1\n")
    (message,) = found(directory)
    assert message == (
        "utt2spk:3: speakers are out of order when utterances are sorted: 'b-1' of 'b' comes "
        "after 'a-2' of 'c'"
    )


def test_a_speaker_need_not_be_a_prefix_where_the_order_is_right(directory: Path) -> None:
    # AISHELL's ids are such: BAC009S0150W0001 of speaker S0150.
    for name, old, new in (("utt2spk", " a", " S1"), ("utt2spk", " b", " S2")):
        content = (directory / name).read_text().replace(old, new)
        (directory / name).write_text(content)
    (directory / "spk2utt").write_text("S1 a-1 a-2\nS2 b-1 b-2\n")
    (directory / "spk2gender").unlink()
    (directory / "spk2warp").unlink()
    assert found(directory) == []


def test_needed_files_are_missed_and_others_are_not(directory: Path) -> None:
    for name in ("text", "wav.scp", "spk2utt", "spk2gender"):
        (directory / name).unlink()
    assert found(directory, need_feats=True) == [
        "spk2utt:None: no such file",
        "text:None: no such file",
        "wav.scp:None: no such file",
        "feats.scp:None: no such file",
    ]
    assert found(directory, need_text=False, need_audio=False) == [
        "spk2utt:None: no such file",
        "wav.scp:None: no such file, though there are segments",
    ]


def test_a_directory_without_utt2spk_or_that_is_none_is_told(tmp_path: Path) -> None:
    assert found(tmp_path / "nowhere") == ["nowhere:None: no such data directory"]
    assert "utt2spk:None: no such file" in found(tmp_path)
    (tmp_path / "text").write_text("a b\r\n")
    assert "text:1: Windows line ending" in found(tmp_path)
    (tmp_path / "utt2spk").touch()
    assert "utt2spk:None: empty file" in found(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_told(directory: Path) -> None:
    (directory / "text").unlink()
    (directory / "text").mkdir()
    assert found(directory) == ["text:None: cannot read: Is a directory"]


def test_everything_is_told_at_once(directory: Path) -> None:
    edit(directory, "text", "a-1 one\n", "")
    edit(directory, "spk2gender", "b m", "b x")
    edit(directory, "segments", "r1 0 1", "r1 1 0")
    edit(directory, "utt2dur", "a-1 1", "a-1 -1")
    files = [message.split(":")[0] for message in found(directory)]
    assert files == ["text", "segments", "utt2dur", "spk2gender"]  # in a fixed order


def test_many_faults_of_a_kind_are_counted(tmp_path: Path) -> None:
    ids = [f"s-{number:04}" for number in range(1000)]
    (tmp_path / "utt2spk").write_text("".join(f"{u} s\n" for u in ids))
    (tmp_path / "spk2utt").write_text(f"s {' '.join(ids)}\n")
    (tmp_path / "text").write_text("".join(f"{u}\n" for u in ids))
    problems = validate_data_dir(tmp_path, need_audio=False, limit=5)
    assert len(problems) == 6
    assert [problem.line for problem in problems] == [1, 2, 3, 4, 5, None]
    assert problems[-1].message == "995 more wrong lines"


def test_a_problem_prints_as_one_line() -> None:
    problem = Problem(Path("data/text"), 3, "not UTF-8", "Convert it")
    assert str(problem) == "data/text:3: not UTF-8. Convert it"
    assert str(Problem(Path("data/text"), None, "no such file", "")) == "data/text: no such file"


def test_messages_about_bytes_that_are_not_utf8_can_be_printed(directory: Path) -> None:
    edit(directory, "text", b"a-1 one", b"a\xe9-1 one")
    for problem in validate_data_dir(directory):
        str(problem).encode("utf-8")


def test_reading_the_data_finds_cut_stereo_and_otherwise_sampled_recordings(
    directory: Path,
) -> None:
    audio = directory.parent
    soundfile.write(audio / "r3.flac", np.arange(16000, dtype=np.int16), 8000)
    cut = (audio / "r3.flac").read_bytes()
    (audio / "r3.flac").write_bytes(cut[: len(cut) // 2])
    soundfile.write(audio / "r4.wav", np.ones((16000, 2), np.int16), 8000)
    soundfile.write(audio / "r5.wav", np.ones(32000, np.int16), 16000)
    with open(directory / "wav.scp", "a") as wav:
        wav.write(f"r3 {audio}/r3.flac\nr4 {audio}/r4.wav\nr5 {audio}/r5.wav\n")
    (directory / "segments").write_text("a-1 r3 0 1\na-2 r4 0 1\nb-1 r1 0 9\nb-2 r5 0 1\n")
    for name in ("reco2dur", "reco2file_and_channel"):
        (directory / name).unlink()
    edit(directory, "wav.scp", f"r2 {audio}/r2.wav\n", "")
    assert found(directory) == []
    messages = found(directory, read_data=True)
    assert len(messages) == 4
    assert messages[0].startswith("segments:3: 'b-1': segment from 0 s to 9 s reaches over")
    assert "wav.scp:2: 'r3'" in messages[1]
    assert "cut short" in messages[1]
    assert "2 channels, expected one" in messages[2]
    assert messages[3].startswith("wav.scp:4: 'r5': sample rate 16000 Hz")


def test_reading_the_data_finds_wrong_features(directory: Path) -> None:
    matrices = {u: np.ones((10, 13), np.float32) for u in ("a-1", "a-2", "b-1", "b-2")}
    matrices["a-1"][3, 2] = np.nan
    matrices["a-2"] = np.ones((10, 12), np.float32)
    kaldiio.save_ark(str(directory / "f.ark"), matrices, scp=str(directory / "feats.scp"))
    (directory / "utt2num_frames").write_text("a-1 10\na-2 10\nb-1 10\nb-2 11\n")
    assert found(directory, need_feats=True) == []
    assert found(directory, read_data=True) == [
        "feats.scp:1: 'a-1': NaN or infinite values, the first in frame 3",
        "feats.scp:2: 'a-2': 12 columns, but 3 others have 13",
        "feats.scp:4: 'b-2': 10 frames, but utt2num_frames says 11",
    ]
    edit(directory, "feats.scp", "f.ark", "g.ark")
    assert found(directory)[0].startswith("feats.scp:1: 'a-1': no such file")


def test_commands_in_feats_scp_are_never_run(directory: Path) -> None:
    ran = directory / "ran"
    (directory / "feats.scp").write_text(
        f"a-1 touch {ran} |\na-2 touch {ran} |:12\nb-1 | touch {ran}\nb-2 -\n"
    )
    messages = found(directory, read_data=True, allow_pipes=True)
    assert [message.rpartition(": ")[2] for message in messages] == [
        "commands are supported in wav.scp only"
    ] * 4
    assert not ran.exists()


def test_real_directories_of_kaldi_form_are_right(golden: Path, tmp_path: Path) -> None:
    for name in ("utt2spk", "spk2utt"):
        shutil.copy(golden / "features" / name, tmp_path)
    assert found(tmp_path, need_text=False, need_audio=False) == []


@pytest.mark.skipif(shutil.which("sort") is None, reason="needs sort")
def test_sort_in_the_c_locale_satisfies_the_order(directory: Path) -> None:
    path = directory / "text"
    path.write_text("b-2 e\na-1 a\nb-1 d\na-2 b\n")
    assert found(directory)
    text = subprocess.run(
        ["sort", str(path)], env={"LC_ALL": "C"}, capture_output=True, text=True, check=True
    ).stdout
    path.write_text(text)
    assert found(directory) == []
