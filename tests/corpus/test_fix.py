import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.corpus.fix import fix_data_dir
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError

SPEAKERS = ("ann", "bob", "cid")


def write_directory(folder: Path, *, with_segments: bool) -> None:
    """A right directory of three speakers with three utterances each, every known file in it."""
    folder.mkdir(parents=True)
    utterances = [f"{speaker}-{number}" for speaker in SPEAKERS for number in range(3)]
    audio = folder.parent / "audio"
    audio.mkdir(exist_ok=True)
    archive = folder.parent / "data.ark"
    archive.write_bytes(b"x")

    def write(name: str, lines: list[str]) -> None:
        (folder / name).write_text("".join(line + "\n" for line in sorted(lines)))

    recordings = list(SPEAKERS) if with_segments else utterances
    for recording in recordings:
        if not (audio / f"{recording}.wav").exists():
            soundfile.write(audio / f"{recording}.wav", np.zeros(80, np.int16), 8000)
    if with_segments:
        write("segments", [f"{u} {u[:3]} {u[-1]}.0 {u[-1]}.75" for u in utterances])
        write("reco2dur", [f"{r} 3" for r in recordings])
    else:
        write("utt2dur", [f"{u} 1.25" for u in utterances])
    write("wav.scp", [f"{r} {audio}/{r}.wav" for r in recordings])
    write("text", [f"{u} one two" for u in utterances])
    write("utt2spk", [f"{u} {u[:3]}" for u in utterances])
    write("spk2utt", [" ".join([s, *(u for u in utterances if u[:3] == s)]) for s in SPEAKERS])
    write("feats.scp", [f"{u} {archive}:7" for u in utterances])
    write("utt2num_frames", [f"{u} 98" for u in utterances])
    write("cmvn.scp", [f"{s} {archive}:9" for s in SPEAKERS])
    write("spk2gender", [f"{s} m" for s in SPEAKERS])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture(params=[False, True], ids=["recordings", "segments"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_directory(folder, with_segments=request.param)
    return folder


def test_a_right_directory_has_no_problems_and_is_left_as_it_is(directory: Path) -> None:
    assert validate_data_dir(directory, need_feats=True) == []
    before = contents(directory)
    report = fix_data_dir(directory)
    assert (report.kept, report.total) == (9, 9)
    assert report.changes == []
    assert report.remaining == []
    assert contents(directory) == before
    assert not (directory / ".backup").exists()


def test_what_was_done_is_counted_with_reasons_and_originals_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_directory(folder, with_segments=False)
    (tmp_path / "audio/bob-1.wav").unlink()
    text = (folder / "text").read_bytes()
    lines = text.replace(b"cid-2 one two", b"cid-2").splitlines(keepends=True)
    (folder / "text").write_bytes(b"\r\n".join(reversed([line.strip() for line in lines])))
    (folder / "spk2utt").unlink()
    original = (folder / "text").read_bytes()
    report = fix_data_dir(folder)
    assert (report.kept, report.total) == (7, 9)
    assert report.dropped == {
        "bob-1": f"no such file: {tmp_path}/audio/bob-1.wav",
        "cid-2": "text: empty transcript",
    }
    assert {
        "text: 8 lines: Windows line ending",
        "text: 1 line: last line does not end in a newline",
        "text: 1 line: malformed, removed",
        "text: 1 line: utterance that is not kept, removed",
        "text: sorted",
        "wav.scp: 2 lines: recording that is not kept, removed",
        "spk2utt: made from utt2spk",
    } <= set(report.changes)
    assert "kept 7 of 9 utterances" in str(report)
    assert "dropped 1: text: empty transcript" in str(report)
    assert (folder / ".backup/text").read_bytes() == original
    assert "cid-2 text: empty transcript\n" in (folder / ".backup/skipped.txt").read_text()
    assert validate_data_dir(folder, need_feats=True) == []


def test_an_older_backup_is_not_overwritten(directory: Path) -> None:
    for extra in (b"x-1 a\n", b"x-2 b\n"):
        with (directory / "text").open("ab") as text:
            text.write(extra)
        fix_data_dir(directory)
    assert (directory / ".backup/text").read_bytes().endswith(b"x-1 a\n")
    assert (directory / ".backup/text.2").read_bytes().endswith(b"x-2 b\n")


def test_what_only_the_user_can_correct_is_told_and_left(directory: Path) -> None:
    lines = (directory / "text").read_bytes().splitlines(keepends=True)
    (directory / "text").write_bytes(b"".join(reversed(lines)).replace(b"one", b"caf\xe9", 1))
    with (directory / "spk2gender").open("w") as genders:
        genders.write("ann f\ncid x\n")
    report = fix_data_dir(directory)
    assert report.kept == 9
    assert [problem.message for problem in report.remaining] == [
        "not UTF-8",
        "no line for speaker 'bob', which is in utt2spk",
        "'cid': expected m or f, found 'x'",
    ]
    assert (directory / "text").read_bytes().count(b"caf\xe9") == 1


def test_files_that_can_be_computed_again_are_removed_when_they_lack_lines(
    directory: Path,
) -> None:
    for name in ("utt2num_frames", "cmvn.scp"):
        lines = (directory / name).read_text().splitlines(keepends=True)
        (directory / name).write_text("".join(lines[1:]))
    report = fix_data_dir(directory)
    assert report.kept == 9
    assert "cmvn.scp: the file was removed, as it lacks 1 of 3 speakers" in report.changes
    assert not (directory / "cmvn.scp").exists()
    assert (directory / ".backup/cmvn.scp").exists()
    assert not (directory / "utt2num_frames").exists()


@pytest.mark.parametrize("name", ["text", "wav.scp", "feats.scp"])
def test_nothing_is_changed_when_no_utterance_would_remain(directory: Path, name: str) -> None:
    (directory / name).write_text("")
    (directory / "spk2utt").unlink()
    before = contents(directory)
    with pytest.raises(DataError, match=r"no utterance would remain .*: no line"):
        fix_data_dir(directory)
    assert contents(directory) == before
    assert not (directory / ".backup").exists()


def test_without_utt2spk_nothing_can_be_fixed(directory: Path) -> None:
    (directory / "utt2spk").unlink()
    with pytest.raises(DataError, match="no utt2spk, so this cannot be fixed"):
        fix_data_dir(directory)
    with pytest.raises(DataError, match="no such data directory"):
        fix_data_dir(directory / "nowhere")


def test_a_tilde_is_expanded_where_the_file_is_found(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = directory.parent
    monkeypatch.setenv("HOME", str(home))
    wav = (directory / "wav.scp").read_text()
    (directory / "wav.scp").write_text(wav.replace(f"{home}/", "~/"))
    assert any("~ is not expanded" in str(p) for p in validate_data_dir(directory))
    assert fix_data_dir(directory).kept == 9
    assert (directory / "wav.scp").read_text() == wav


def lines_of(folder: Path, name: str) -> list[bytes]:
    return [line + b"\n" for line in (folder / name).read_bytes().split(b"\n") if line.strip()]


def rewrite(folder: Path, name: str, lines: list[bytes]) -> None:
    (folder / name).write_bytes(b"".join(lines))


def shuffle(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    rng.shuffle(lines)
    rewrite(folder, name, lines)


def repeat_a_line(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    rewrite(folder, name, [*lines, rng.choice(lines)])


def repeat_an_id_with_another_value(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    key = rng.choice(lines).split()[0] if lines else b"x"
    rewrite(folder, name, [*lines, key + b" other\n"])


def remove_a_line(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    del lines[rng.randrange(len(lines))]
    rewrite(folder, name, lines)


def leave_only_the_id(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    place = rng.randrange(len(lines))
    lines[place] = lines[place].split()[0] + b"\n"
    rewrite(folder, name, lines)


def add_an_unknown_id(folder: Path, name: str, rng: random.Random) -> None:
    rewrite(folder, name, [*lines_of(folder, name), b"aaa-%d 1\n" % rng.randrange(9)])


def add_an_empty_line(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    lines.insert(rng.randrange(len(lines) + 1), rng.choice([b"\n", b"  \n", b"\t\n"]))
    rewrite(folder, name, lines)


def add_a_byte_order_mark(folder: Path, name: str, rng: random.Random) -> None:
    rewrite(folder, name, [b"\xef\xbb\xbf", *lines_of(folder, name)])


def end_lines_as_windows_does(folder: Path, name: str, rng: random.Random) -> None:
    rewrite(folder, name, [line.replace(b"\n", b"\r\n") for line in lines_of(folder, name)])


def cut_the_last_newline(folder: Path, name: str, rng: random.Random) -> None:
    (folder / name).write_bytes((folder / name).read_bytes().removesuffix(b"\n"))


def put_odd_spaces(folder: Path, name: str, rng: random.Random) -> None:
    space = rng.choice(["\u3000", "\xa0", "\u2028", "\x0b", "\r", "  ", "\t"]).encode()
    lines = lines_of(folder, name)
    place = rng.randrange(len(lines))
    lines[place] = lines[place].replace(b" ", space, 1)
    rewrite(folder, name, lines)


def indent_a_line(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    place = rng.randrange(len(lines))
    lines[place] = b" " + lines[place]
    rewrite(folder, name, lines)


def put_a_field_more(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    place = rng.randrange(len(lines))
    lines[place] = lines[place].rstrip(b"\n") + b" 1\n"
    rewrite(folder, name, lines)


def turn_numbers_round(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    place = rng.randrange(len(lines))
    fields = lines[place].split()
    if len(fields) > 1:
        fields[-1] = rng.choice([b"-3", b"0", b"nan", b"99999", b"x", b"inf", b"-1"])
    lines[place] = b" ".join(fields) + b"\n"
    rewrite(folder, name, lines)


def name_a_missing_file(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    place = rng.randrange(len(lines))
    lines[place] = lines[place].split()[0] + b" /nowhere/a.wav\n"
    rewrite(folder, name, lines)


def remove_the_file(folder: Path, name: str, rng: random.Random) -> None:
    (folder / name).unlink()


def empty_the_file(folder: Path, name: str, rng: random.Random) -> None:
    (folder / name).write_bytes(b"")


def put_bytes_that_are_not_utf8(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    place = rng.randrange(len(lines))
    spot = rng.randrange(len(lines[place]))
    lines[place] = lines[place][:spot] + b"\xe9" + lines[place][spot:]
    rewrite(folder, name, lines)


def put_a_control_character(folder: Path, name: str, rng: random.Random) -> None:
    lines = lines_of(folder, name)
    place = rng.randrange(len(lines))
    spot = rng.randrange(len(lines[place]))
    character = rng.choice([b"\0", b"\x07", b"\xef\xbb\xbf", b"\x7f"])
    lines[place] = lines[place][:spot] + character + lines[place][spot:]
    rewrite(folder, name, lines)


Corruption = Callable[[Path, str, random.Random], None]

REPAIRABLE: list[Corruption] = [
    shuffle,
    repeat_a_line,
    add_an_empty_line,
    add_a_byte_order_mark,
    end_lines_as_windows_does,
    cut_the_last_newline,
    indent_a_line,
]
"""Faults that fixing repairs in any file, whatever the file means."""

ANY: list[Corruption] = [
    *REPAIRABLE,
    repeat_an_id_with_another_value,
    remove_a_line,
    leave_only_the_id,
    add_an_unknown_id,
    put_odd_spaces,
    put_a_field_more,
    turn_numbers_round,
    name_a_missing_file,
    remove_the_file,
    empty_the_file,
    put_bytes_that_are_not_utf8,
    put_a_control_character,
]


def corrupt(folder: Path, corruptions: list[tuple[Corruption, int, int]]) -> None:
    for corruption, file_number, seed in corruptions:
        names = sorted(file.name for file in folder.iterdir() if file.is_file())
        name = names[file_number % len(names)]
        if lines_of(folder, name) or corruption in (add_an_unknown_id, empty_the_file):
            corruption(folder, name, random.Random(seed))


def corruptions_from(kinds: list[Corruption]) -> st.SearchStrategy:
    numbers = st.integers(0, 1000)
    return st.lists(st.tuples(st.sampled_from(kinds), numbers, numbers), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(with_segments=st.booleans(), corruptions=corruptions_from(REPAIRABLE))
def test_faults_of_form_are_repaired_without_loss(
    tmp_path_factory: pytest.TempPathFactory,
    with_segments: bool,
    corruptions: list[tuple[Corruption, int, int]],
) -> None:
    folder = tmp_path_factory.mktemp("fix") / "data"
    write_directory(folder, with_segments=with_segments)
    before = contents(folder)
    corrupt(folder, corruptions)
    report = fix_data_dir(folder)
    assert report.kept == report.total == 9
    assert validate_data_dir(folder, need_feats=True) == []
    assert contents(folder) == before


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(with_segments=st.booleans(), corruptions=corruptions_from(ANY))
def test_after_fixing_nothing_is_left_that_fixing_could_repair(
    tmp_path_factory: pytest.TempPathFactory,
    with_segments: bool,
    corruptions: list[tuple[Corruption, int, int]],
) -> None:
    folder = tmp_path_factory.mktemp("fix") / "data"
    write_directory(folder, with_segments=with_segments)
    corrupt(folder, corruptions)
    before = contents(folder)
    validate_data_dir(folder, need_feats=True, read_data=True)  # whatever it holds, no exception
    try:
        report = fix_data_dir(folder)
    except DataError:
        assert contents(folder) == before
        return
    left = validate_data_dir(folder, need_feats=True)
    assert [problem for problem in left if problem.fixable] == []
    assert report.kept >= 1
    fixed = contents(folder)
    assert fix_data_dir(folder).changes == []
    assert contents(folder) == fixed
    if not left:
        assert len(read_data_dir(folder).utterances) == report.kept
    # Every original is still there, unless it is as it was.
    backup = folder / ".backup"
    for name, content in before.items():
        assert content in (fixed.get(name), *(f.read_bytes() for f in backup.glob(name + "*")))
