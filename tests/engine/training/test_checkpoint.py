import errno
import io
from pathlib import Path

import pytest
import torch

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.training.checkpoint import (
    CheckpointFolder,
    read_checkpoint,
    read_own,
    read_shared,
    write_checkpoint,
)
from mariana_asr.errors import FormatError, MarianaError

ALONE = Workers.alone(torch.device("cpu"))


def state(step):
    return {"step": step, "weights": torch.full((100,), float(step)), "log": [{"loss": 1.5}]}


def test_a_checkpoint_is_read_back(tmp_path: Path):
    write_checkpoint(tmp_path / "a.ckpt", state(3))
    read = read_checkpoint(tmp_path / "a.ckpt")
    assert read["step"] == 3
    assert read["log"] == [{"loss": 1.5}]
    assert torch.equal(read["weights"], torch.full((100,), 3.0))


def test_the_last_few_are_kept(tmp_path: Path):
    folder = CheckpointFolder(tmp_path, keep=2)
    assert folder.newest_whole() is None
    for step in (5, 900, 10, 12345678):
        folder.save(ALONE, state(step), {"mine": step}, step)
    # By step, not by time of writing.
    names = [path.name for path in folder.paths()]
    assert names == ["checkpoint-000000000900", "checkpoint-000012345678"]
    assert sorted(tmp_path.iterdir()) == folder.paths()
    latest = folder.newest_whole()
    assert latest is not None
    assert read_shared(latest)["step"] == 12345678
    assert read_own(latest, 0) == {"mine": 12345678}


@pytest.mark.parametrize("file", ["shared.ckpt", "worker-0.ckpt"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "missing"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, damage, file, caplog
):
    folder = CheckpointFolder(tmp_path, keep=3)
    folder.save(ALONE, state(1), {}, 1)
    newest = folder.save(ALONE, state(2), {"x": torch.ones(50)}, 2)
    path = newest / file
    content = path.read_bytes()
    flipped = content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]
    path.write_bytes(
        {"cut": content[:-1], "flipped": flipped, "empty": b"", "foreign": b"PK\3\4"}.get(
            damage, b""
        )
    )
    if damage == "missing":
        path.unlink()
    with pytest.raises(FormatError, match=r"checkpoint-000000000002/"):
        read_checkpoint(path)
    latest = folder.newest_whole()
    assert latest is not None
    assert read_shared(latest)["step"] == 1
    assert "the one before is used" in caplog.text
    assert folder.paths() == [tmp_path / "checkpoint-000000000001"]


def test_a_missing_checkpoint_is_an_error(tmp_path: Path):
    with pytest.raises(FormatError, match="No such file"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_a_full_disk_is_a_clear_error_and_damages_nothing(tmp_path: Path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(ALONE, state(1), {}, 1)

    class FullDisk(io.FileIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        "mariana_asr.engine.training.checkpoint.open",
        lambda path, mode: FullDisk(path, mode),
        raising=False,
    )
    with pytest.raises(MarianaError, match="No space left on device"):
        folder.save(ALONE, state(2), {}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000000001"]
    assert folder.newest_whole() == tmp_path / "checkpoint-000000000001"
