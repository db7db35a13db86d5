"""Checkpoints: written aside, flushed, renamed and checksummed; the last few are kept.

A checkpoint is a directory with what all workers share (``shared.ckpt``) and what each has of its
own (``worker-0.ckpt``, ...), such as its part of sharded state. The directory gets its name when
all of its files are on the disk.
"""

import hashlib
import io
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.errors import FormatError, MarianaError
from mariana_asr.files import atomic_file, flush_to_disk

logger = logging.getLogger(__name__)

MAGIC = b"mariana-asr checkpoint 2\n"
DIGEST_BYTES = hashlib.sha256().digest_size
SHARED_FILE = "shared.ckpt"


def write_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to a file: a first line, a SHA-256 digest, torch's format.

    Raises:
        MarianaError: The disk is full or the folder cannot be written; no file is damaged.
    """
    payload = io.BytesIO()
    torch.save(state, payload)
    content = payload.getbuffer()
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        file.write(MAGIC)
        file.write(hashlib.sha256(content).digest())
        file.write(content)


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote; tensors arrive on ``device``.

    Raises:
        FormatError: The file is missing, is no checkpoint, or is torn or damaged.
    """
    path = Path(path)
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise FormatError(f"cannot read: {error.strerror}", where=path) from error
    if content[: len(MAGIC)] != MAGIC:
        raise FormatError("not a checkpoint of this version", where=path)
    start = len(MAGIC) + DIGEST_BYTES
    if hashlib.sha256(content[start:]).digest() != content[len(MAGIC) : start]:
        raise FormatError("torn or damaged checkpoint", where=path)
    # weights_only: a checkpoint holds data, and reading one never runs code.
    return torch.load(io.BytesIO(content[start:]), map_location=device, weights_only=True)


class CheckpointFolder:
    """The checkpoints of one run, named by their global step."""

    def __init__(self, directory: str | Path, keep: int) -> None:
        """The last ``keep`` checkpoints stay; older ones are removed."""
        self.directory = Path(directory)
        self.keep = keep

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of a global step is."""
        return self.directory / f"checkpoint-{step:012d}"

    def step_of(self, path: Path) -> int:
        """The global step of a checkpoint's path."""
        return int(path.name.removeprefix("checkpoint-"))

    def paths(self) -> list[Path]:
        """The checkpoints there are, the oldest first."""
        return sorted(self.directory.glob("checkpoint-*"))

    def save(
        self, workers: Workers, shared: dict[str, Any], own: dict[str, Any], step: int
    ) -> Path:
        """Write the checkpoint of a global step and remove old ones; all workers call this.

        Args:
            workers: Who calls.
            shared: What is the same in all workers; the first one writes it.
            own: What only this worker has.
            step: Global step, the checkpoint's name.

        Raises:
            MarianaError: It cannot be written; the others stay.
        """
        path = self.path_of(step)
        # Of the form that remove_partial_outputs knows; one name for the files of all workers.
        temporary = path.with_name(f".{path.name}.0.part")
        if workers.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
        workers.barrier()
        problems = []
        try:
            write_checkpoint(temporary / _worker_file(workers.rank), own)
            if workers.is_first:
                write_checkpoint(temporary / SHARED_FILE, {**shared, "num_workers": workers.size})
        except MarianaError as error:
            problems = [(error.what, str(error.where))]
        # All go on, or all say what one of them met.
        if problems := workers.gather(problems):
            if workers.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            what, where = problems[0]
            raise MarianaError(what, where=where)
        if workers.is_first:
            if path.exists():
                shutil.rmtree(path)
            temporary.rename(path)
            flush_to_disk(self.directory)
            for old in self.paths()[: -self.keep]:
                shutil.rmtree(old)
        return path

    def newest_whole(self) -> Path | None:
        """The newest checkpoint all of whose files are whole, or None if there is none.

        A torn one is removed and the one before it is used; a warning says so.
        """
        for path in reversed(self.paths()):
            try:
                for rank in range(read_checkpoint(path / SHARED_FILE)["num_workers"]):
                    read_checkpoint(path / _worker_file(rank))
                return path
            except FormatError as error:
                logger.warning("%s; it is removed and the one before is used", error)
                shutil.rmtree(path, ignore_errors=True)
        return None


def read_shared(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What all workers share of a checkpoint.

    Raises:
        FormatError: It is missing or damaged.
    """
    return read_checkpoint(path / SHARED_FILE, device)


def read_own(path: Path, rank: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a worker had of its own in a checkpoint.

    Raises:
        FormatError: It is missing or damaged.
    """
    return read_checkpoint(path / _worker_file(rank), device)


def _worker_file(rank: int) -> str:
    return f"worker-{rank}.ckpt"
