"""The lattice store: lattices of the utterances of a frame store, written once, read at random.

A store is a directory::

    meta.json            format, counts, the frame store's fingerprint, shards with checksums
    lattices-00000.bin   one record an utterance, of 32-bit words, little-endian: levels, then of
                         all arcs the source, the destination, the class, the frame (int32) and
                         the score (float32); see SequenceLattice
    index.npy            (utterances, 4) int64: number in the frame store, levels + 1, arcs, frames

Utterances come in the order of the frame store; those without a lattice are left out. What is kept
per utterance is a row of the index.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mariana_asr.engine.frames.frame_store import FrameStore, read_exactly
from mariana_asr.engine.sequence.lattice import SequenceLattice
from mariana_asr.errors import DataError, FormatError, StageError
from mariana_asr.files import atomic_directory, read_json, write_json

FORMAT = "mariana-asr lattice store"
VERSION = 1
SHARD_BYTES = 1 << 30
"""A shard is closed once it has this size."""

_COLUMNS = 5
"""Words of an arc."""


@dataclass(frozen=True)
class LatticeShard:
    """A file of a store: what it holds and how it can be checked."""

    utterances: int
    words: int
    crc32: int


def shard_file(directory: Path, number: int) -> Path:
    """The file of a shard."""
    return directory / f"lattices-{number:05d}.bin"


class LatticeStore:
    """Lattices of the utterances of a frame store, opened for reading.

    Attributes:
        directory: Where it lies.
        numbers: (U,) number in the frame store of each utterance with a lattice, ascending.
        frames: (U,) number of frames of each.
        num_arcs: Number of arcs of all lattices.
        frame_store: Fingerprint of the frame store that they belong to.
        fingerprint: Digest of the content: equal for stores that hold the same lattices.
    """

    def __init__(self, directory: Path, meta: dict[str, Any]) -> None:
        """Use :meth:`open`, which checks what it reads."""
        self.directory = directory
        self.num_classes: int = meta["num_classes"]
        self.frame_store: str = meta["frame_store"]
        self.shards = [LatticeShard(**shard) for shard in meta["shards"]]
        content = [meta[key] for key in ("num_classes", "frame_store", "shards")]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        index: NDArray[np.int64] = np.load(directory / "index.npy")
        self.numbers, self._levels, self._arcs, self.frames = index.T
        self.num_arcs = int(self._arcs.sum())
        self._first_of_shard = np.cumsum([0] + [shard.utterances for shard in self.shards])
        words = np.append(0, np.cumsum(self._levels + _COLUMNS * self._arcs))
        # Of each utterance, where its record begins in its shard.
        self._begins = words[:-1] - np.repeat(
            words[self._first_of_shard[:-1]], np.diff(self._first_of_shard)
        )
        self._files: dict[int, FileIO] = {}
        if not len(index) or self._first_of_shard[-1] != len(index):
            raise ValueError("its parts do not fit together")
        for number, shard in enumerate(self.shards):
            path = shard_file(directory, number)
            found = path.stat().st_size if path.exists() else None
            if found != 4 * shard.words:
                state = "missing" if found is None else f"{found} bytes long"
                raise FormatError(
                    f"torn shard: the file is {state}, it should have {4 * shard.words} bytes",
                    where=path,
                    remedy="Make the lattices again",
                )

    @classmethod
    def open(cls, directory: str | Path) -> "LatticeStore":
        """Open a store; sizes of all files are checked, their content by :meth:`verify` only.

        Raises:
            FormatError: The directory is no lattice store, or a file of it is missing or torn.
        """
        directory = Path(directory)
        meta = read_json(directory / "meta.json")
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise FormatError(
                "not the description of a lattice store", where=directory / "meta.json"
            )
        if meta.get("version") != VERSION:
            raise FormatError(
                f"lattice store of version {meta.get('version')!r}; this program reads {VERSION}",
                where=directory,
                remedy="Make the lattices again",
            )
        try:
            return cls(directory, meta)
        except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
            raise FormatError(
                f"damaged lattice store: {error}",
                where=directory,
                remedy="Make the lattices again",
            ) from error

    def __len__(self) -> int:
        """Number of utterances with a lattice."""
        return len(self.numbers)

    def check(self, frames: FrameStore) -> None:
        """Check that the lattices are those of a frame store.

        Raises:
            DataError: They are of another one.
        """
        if frames.fingerprint != self.frame_store:
            raise DataError(
                f"its lattices are of other frames than those in {frames.directory}",
                where=self.directory,
                remedy="Make the lattices again",
            )

    def verify(self) -> None:
        """Read every shard and compare its checksum.

        Raises:
            FormatError: A file's content is not what was written.
        """
        for number, shard in enumerate(self.shards):
            path = shard_file(self.directory, number)
            found = 0
            with open(path, "rb") as file:
                while chunk := file.read(1 << 22):
                    found = zlib.crc32(chunk, found)
            if found != shard.crc32:
                raise FormatError(
                    "the file's checksum is wrong", where=path, remedy="Make the lattices again"
                )

    def read(self, place: int) -> SequenceLattice:
        """The lattice of the utterance in this place of :attr:`numbers`.

        Raises:
            FormatError: The shard ends too early.
        """
        shard = int(np.searchsorted(self._first_of_shard, place, side="right")) - 1
        if shard not in self._files:
            self._files[shard] = FileIO(shard_file(self.directory, shard))
        levels, arcs = int(self._levels[place]), int(self._arcs[place])
        words = np.empty(levels + _COLUMNS * arcs, dtype="<i4")
        read_exactly(self._files[shard], 4 * int(self._begins[place]), words)
        source, destination, classes, frames, scores = words[levels:].reshape(_COLUMNS, arcs)
        return SequenceLattice(
            words[:levels], source, destination, classes, frames, scores.view("<f4")
        )


class LatticeStoreWriter:
    """Writes a lattice store, an utterance at a time.

    Used as a context manager. The store appears under its name when the block succeeds, in place
    of any store that stood there; when it fails, nothing changes.
    """

    def __init__(
        self, directory: str | Path, frames: FrameStore, *, shard_bytes: int = SHARD_BYTES
    ) -> None:
        """The lattices are those of utterances of ``frames``."""
        self.directory = Path(directory)
        self._frames = frames
        self._shard_words = max(1, shard_bytes // 4)
        self._index: list[tuple[int, int, int, int]] = []
        self._shards: list[LatticeShard] = []
        self._file: BinaryIO | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "LatticeStoreWriter":
        """Open a temporary directory beside the store."""
        self._temporary = self._stack.enter_context(atomic_directory(self.directory))
        self._stack.callback(lambda: self._file and self._file.close())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the index and rename the store into place, or remove what was written."""
        if error is None:
            with self._stack:
                self._finish()
        else:
            self._stack.__exit__(kind, error, trace)

    def add(self, number: int, lattice: SequenceLattice) -> None:
        """Append the lattice of an utterance; they come in ascending order of their numbers.

        Args:
            number: Of the utterance, in the frame store.
            lattice: Its lattice.

        Raises:
            DataError: The lattice has other frames or classes than the utterance can have.
        """
        frames = int(self._frames.offsets[number + 1] - self._frames.offsets[number])
        classes = int(lattice.classes.max(initial=-1))
        if lattice.num_frames != frames or classes >= self._frames.num_outputs:
            raise DataError(
                f"a lattice of {lattice.num_frames} frames and classes up to {classes} for an "
                f"utterance of {frames} frames with {self._frames.num_outputs} classes",
                where=self._frames.utterance_names([number])[0],
            )
        if self._file is None:
            path = shard_file(self._temporary, len(self._shards))
            self._file = open(path, "wb")  # noqa: SIM115
            self._begin, self._words, self._crc32 = len(self._index), 0, 0
        for array, kind in (
            (lattice.levels, "<i4"),
            (lattice.source, "<i4"),
            (lattice.destination, "<i4"),
            (lattice.classes, "<i4"),
            (lattice.frames, "<i4"),
            (lattice.scores, "<f4"),
        ):
            content = np.ascontiguousarray(array, dtype=kind).data
            self._file.write(content)
            self._crc32 = zlib.crc32(content, self._crc32)
            self._words += len(array)
        self._index.append((number, len(lattice.levels), len(lattice.source), frames))
        if self._words >= self._shard_words:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        utterances = len(self._index) - self._begin
        self._shards.append(LatticeShard(utterances, self._words, self._crc32))

    def _finish(self) -> None:
        self._close_shard()
        if not self._index:
            raise StageError("there is a lattice of no utterance", where=self.directory)
        np.save(self._temporary / "index.npy", np.array(self._index, dtype=np.int64))
        write_json(
            self._temporary / "meta.json",
            {
                "format": FORMAT,
                "version": VERSION,
                "num_classes": self._frames.num_outputs,
                "frame_store": self._frames.fingerprint,
                "utterances": len(self._index),
                "frames": sum(row[3] for row in self._index),
                "arcs": sum(row[2] for row in self._index),
                "shards": [asdict(shard) for shard in self._shards],
            },
        )


def write_lattices(
    directory: str | Path, frames: FrameStore, lattices: Iterable[tuple[int, SequenceLattice]]
) -> LatticeStore:
    """Write (number in the frame store, lattice), in ascending order, and open the store.

    Raises:
        DataError: A lattice does not fit its utterance.
        StageError: There are none.
    """
    with LatticeStoreWriter(directory, frames) as writer:
        for number, lattice in lattices:
            writer.add(number, lattice)
    return LatticeStore.open(directory)
