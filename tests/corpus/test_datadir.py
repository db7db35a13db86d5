from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mariana_asr.corpus.datadir import (
    DataDir,
    Segment,
    parse_segment,
    read_data_dir,
    read_table,
)
from mariana_asr.errors import DataError


def write(folder: Path, **files: str | bytes) -> Path:
    names = {"wav": "wav.scp", "feats": "feats.scp", "cmvn": "cmvn.scp"}
    for name, content in files.items():
        raw = content.encode() if isinstance(content, str) else content
        (folder / names.get(name, name)).write_bytes(raw)
    return folder


def test_a_directory_is_read(tmp_path: Path) -> None:
    data = read_data_dir(
        write(
            tmp_path,
            utt2spk="a-1 a\na-2 a\nb-1 b\n",
            text="a-1 one  two\na-2\tthree\nb-1\n",
            wav="r1 /audio/one two.wav\nr2 cat  x.wav | sox - |\n",
            segments="a-1 r1 0 1.5\na-2 r1 1.5 -1\nb-1 r2 0.25 3600.125\n",
            spk2gender="a f\nb m\n",
        )
    )
    assert data.utterances == ["a-1", "a-2", "b-1"]
    assert data.spk2utt == {"a": ["a-1", "a-2"], "b": ["b-1"]}
    assert data.text == {"a-1": "one two", "a-2": "three", "b-1": ""}
    assert data.wav == {"r1": "/audio/one two.wav", "r2": "cat  x.wav | sox - |"}
    assert data.segments == {
        "a-1": Segment("r1", 0.0, 1.5),
        "a-2": Segment("r1", 1.5, -1.0),
        "b-1": Segment("r2", 0.25, 3600.125),
    }
    assert data.feats is None
    assert data.spk2gender == {"a": "f", "b": "m"}


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    data = DataDir(
        tmp_path / "data",
        {"b-1": "b", "a-2": "a", "a-1": "a", "é-1": "é"},
        text={"a-1": "one", "a-2": "", "b-1": "zwei drei", "é-1": "été"},
        wav={"r": "/a b.wav"},
        segments={
            "a-1": Segment("r", 12345.678, 12346.6789),
            "a-2": Segment("r", 1e-05, 0.1 + 0.2),
            "b-1": Segment("r", 3.0, -1),
            "é-1": Segment("r", 0.0, 7.0),
        },
        feats={"a-1": "x.ark:12"},
        spk2gender={"a": "m"},
    )
    data.write()
    assert read_data_dir(data.path) == data
    assert (tmp_path / "data/spk2utt").read_text() == "a a-1 a-2\nb b-1\né é-1\n"
    assert (tmp_path / "data/utt2spk").read_text().split("\n")[0] == "a-1 a"
    assert "b-1 r 3 -1\n" in (tmp_path / "data/segments").read_text()


def test_writing_removes_tables_that_the_directory_does_not_have(tmp_path: Path) -> None:
    write(tmp_path, feats="old x.ark:1\n")
    DataDir(tmp_path, {"a": "a"}).write()
    assert {file.name for file in tmp_path.iterdir()} == {"utt2spk", "spk2utt"}


def test_ids_sort_by_their_bytes(tmp_path: Path) -> None:
    ids = ["é", "z", "a_b", "a-b", "A", "a1", "中", "\U0001f600", "\uffee"]
    data = DataDir(tmp_path, dict.fromkeys(ids, "s"))
    assert data.utterances == sorted(ids, key=lambda name: name.encode())


@pytest.mark.parametrize("content", ["a-1 one\r\nb-1 two\r\n", "\ufeffa-1 one\nb-1 two"])
def test_windows_line_endings_and_a_byte_order_mark_are_passed_over(
    tmp_path: Path, content: str
) -> None:
    assert read_table(write(tmp_path, text=content) / "text") == {"a-1": "one", "b-1": "two"}


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"a-1 one\na-2 \xe9t\xe9\n", 2, "not UTF-8.*iconv"),
        (b"\xff\xfea\x00", 1, "not UTF-8"),
        (b"a-1 one\n\na-2 two\n", 2, "empty line"),
        (b"a-1 one\n \t\r\n", 2, "empty line"),
        (b"a-1 one\na-2 two\na-1 one\n", 3, "'a-1' comes twice"),
    ],
)
def test_a_wrong_table_is_refused_with_file_and_line(
    tmp_path: Path, content: bytes, line: int, message: str
) -> None:
    path = write(tmp_path, text=content) / "text"
    with pytest.raises(DataError, match=rf"text:{line}: {message}"):
        read_table(path)


def test_a_missing_or_unreadable_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "text")
    with pytest.raises(DataError, match="cannot read"):
        read_table(tmp_path)


def test_a_folder_that_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data directory"):
        read_data_dir(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no utt2spk.*docs/data\.md"):
        read_data_dir(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"utt2spk": "a-1 a\na-2\n"}, "utt2spk:2: 'a-2' alone"),
        ({"utt2spk": "a-1 a b\n"}, "utt2spk:1: expected 'a-1' and one value, found 'a b'"),
        ({"wav": "a-1 x\na-2\n"}, r"wav\.scp:2: 'a-2' alone"),
        ({"feats": "a-1\n"}, r"feats\.scp:1: 'a-1' alone"),
        ({"segments": "a-1 r 0 1\na-2 r 0\n"}, "segments:2: expected 'utterance recording start"),
        ({"segments": "a-1 r 0 1 1\n"}, "segments:1: expected.*found 'a-1 r 0 1 1'"),
        ({"segments": "a-1 r zero 1\n"}, "segments:1: expected"),
        ({"segments": "a-1 r 0 nan\n"}, "segments:1: expected"),
        ({"segments": "a-1\n"}, "segments:1: expected"),
    ],
)
def test_a_malformed_line_is_refused_with_its_place(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    write(tmp_path, **{"utt2spk": "a-1 a\na-2 a\n", **files})
    with pytest.raises(DataError, match=message):
        read_data_dir(tmp_path)


def test_a_subset_keeps_the_recordings_and_speakers_that_it_needs(tmp_path: Path) -> None:
    data = DataDir(
        tmp_path,
        {"a-1": "a", "a-2": "a", "b-1": "b"},
        text={"a-1": "x", "a-2": "y", "b-1": "z"},
        wav={"r1": "1.wav", "r2": "2.wav"},
        segments={
            "a-1": Segment("r1", 0, 1),
            "a-2": Segment("r2", 0, 1),
            "b-1": Segment("r1", 1, 2),
        },
        feats={"a-1": "f:1", "a-2": "f:2", "b-1": "f:3"},
        cmvn={"a": "c:1", "b": "c:2"},
        spk2gender={"a": "f", "b": "m"},
    )
    part = data.subset(["a-1", "b-1", "unknown"], tmp_path / "part")
    assert part.path == tmp_path / "part"
    assert part.utt2spk == {"a-1": "a", "b-1": "b"}
    assert part.text == {"a-1": "x", "b-1": "z"}
    assert part.wav == {"r1": "1.wav"}
    assert part.feats == {"a-1": "f:1", "b-1": "f:3"}
    only_b = data.subset(["b-1"])
    assert (only_b.cmvn, only_b.spk2gender) == ({"b": "c:2"}, {"b": "m"})
    nothing = data.subset([])
    assert (nothing.utterances, nothing.wav, nothing.segments) == ([], {}, {})


@given(
    st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1),
    st.floats(0, 1e7),
    st.floats(0, 1e7) | st.just(-1.0),
)
def test_segments_survive_writing(recording: str, start: float, end: float) -> None:
    from mariana_asr.corpus.datadir import _plain_number

    value = f"{recording} {_plain_number(start)} {_plain_number(end)}"
    assert parse_segment(value) == Segment(recording, start, end)


def test_kaldis_own_tables_are_read(golden: Path) -> None:
    features = golden / "features"
    utt2spk = read_table(features / "utt2spk")
    spk2utt = {key: value.split() for key, value in read_table(features / "spk2utt").items()}
    assert DataDir(features, utt2spk).spk2utt == spk2utt
