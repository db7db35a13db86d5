"""Atomic writing: whatever happens in the middle, the old file or the new one stands there."""

import errno
import os
from pathlib import Path

import pytest

from mariana_asr.errors import FormatError, MarianaError
from mariana_asr.files import (
    atomic_directory,
    atomic_file,
    read_json,
    remove_partial_outputs,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_text(path, "old")
    with pytest.raises(ValueError, match="boom"), atomic_file(path) as temporary:
        temporary.write_text("half of the n")
        raise ValueError("boom")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["text"]


def test_a_full_disk_is_a_clear_error_and_damages_nothing(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_text(path, "old")
    with pytest.raises(MarianaError, match=r"text: cannot write: No space left"):
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["text"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_without_room_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MarianaError, match="No space left"), atomic_file(tmp_path / "x") as temp:
        temp.symlink_to("/dev/full")
        temp.write_text("does not fit")


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), atomic_file(tmp_path / "x") as temp:
        temp.write_text((tmp_path / "missing").read_text())
    assert not os.listdir(tmp_path)


def test_a_directory_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lang"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(ValueError, match="boom"), atomic_directory(path) as temporary:
        (temporary / "b").write_text("2")
        raise ValueError("boom")
    assert os.listdir(path) == ["a"]
    with atomic_directory(path) as temporary:
        (temporary / "b").write_text("2")
    assert os.listdir(path) == ["b"]
    assert os.listdir(tmp_path) == ["lang"]


def test_json_keeps_letters_and_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": "设定", "a": 1})
    assert "设定" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert list(read_json(tmp_path / "a.json")) == ["z", "a"]


@pytest.mark.parametrize("content", [None, "{", '"\udc80"'])
def test_a_file_that_is_not_json_is_a_format_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(FormatError, match=r"a\.json"):
        read_json(path)


def test_what_killed_processes_were_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    kept = [".lock", "a.part", ".a.part", "sub/.hidden.x.part", "sub/ali.1.gz"]
    for name in [*kept, ".ali.1.gz.123.part", "sub/.hyp.txt.4.part"]:
        (tmp_path / name).write_text("half")
    (tmp_path / "sub/.lang.5.part/phones").mkdir(parents=True)
    remove_partial_outputs(tmp_path)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert files == sorted([*kept, "sub"])
