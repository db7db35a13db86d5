"""Fingerprints: what a stage's outputs depend on; they are made again when it changes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mariana_asr
from mariana_asr.errors import DataError


@dataclass(frozen=True)
class Fingerprint:
    """All that a stage's outputs depend on.

    Attributes:
        options: The options that steer the stage, as plain values.
        inputs: Digest of the fingerprint of each stage whose outputs it reads.
        files: Digest of the content of each file outside the experiment that it reads.
        version: Version of this package.
    """

    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    files: Mapping[str, str]
    version: str = mariana_asr.__version__

    @property
    def digest(self) -> str:
        """Hexadecimal digest of all of it."""
        canonical = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """Say which keys differ from a stored fingerprint: ``options.num_iters: 40 -> 20``."""
        old, new = dict(_leaves(stored)), dict(_leaves(asdict(self)))
        return [
            f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]


def digest_file(path: Path) -> str:
    """Digest of a file's content.

    Raises:
        DataError: There is no such file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror}", where=path) from error


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
