"""Checkpoints: written aside, flushed, renamed and checksummed; the last few are kept."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from mariana_asr.errors import FormatError
from mariana_asr.files import atomic_file

logger = logging.getLogger(__name__)

MAGIC = b"mariana-asr checkpoint 1\n"
DIGEST_BYTES = hashlib.sha256().digest_size


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
        raise FormatError("not a checkpoint", where=path)
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

    def paths(self) -> list[Path]:
        """The checkpoints there are, the oldest first."""
        return sorted(self.directory.glob("checkpoint-*.ckpt"))

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the checkpoint of a global step and remove old ones.

        Raises:
            MarianaError: It cannot be written; the others stay.
        """
        path = self.directory / f"checkpoint-{step:012d}.ckpt"
        write_checkpoint(path, state)
        for old in self.paths()[: -self.keep]:
            old.unlink()
        return path

    def load_latest(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Read the newest checkpoint that is whole, or None if there is none.

        A torn one is removed and the one before it is used; a warning says so.
        """
        for path in reversed(self.paths()):
            try:
                return read_checkpoint(path, device)
            except FormatError as error:
                logger.warning("%s; it is removed and the one before is used", error)
                path.unlink()
        return None
