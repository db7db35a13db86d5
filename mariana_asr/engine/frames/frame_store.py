"""The frame store: unspliced features and their targets, packed once, read in blocks.

A store is a directory::

    meta.json             format, dimensions, counts, statistics, shards with sizes and checksums
    features-00000.bin    (frames, dim), little-endian float32, float16 or bfloat16, row after row
    targets-00000.bin     (frames,) little-endian int32
    offsets.npy           (utterances + 1,) int64: utterance u is frames offsets[u]:offsets[u + 1]
    class_counts.npy      (num_outputs,) int64: how often each target occurs
    utterances.txt        the utterances' ids, one a line

Utterances never cross a shard. What is kept per utterance is one offset (memory-mapped), and
nothing is kept per frame, so that a store of billions of frames opens at once.

Blocks are read straight to where they are wanted, and not through memory maps: of a file that is
not in memory yet a map reads page by page (measured: 50 ms for a block of 2048 frames of 40
dimensions in a file not seen before, against 1 ms), and what it has read counts as the process's
memory. From a file in memory the two are equally fast.
"""

import hashlib
import itertools
import json
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.engine.frames.storage import STORAGE_TYPES, from_storage
from mariana_asr.errors import DataError, FormatError
from mariana_asr.files import read_json

FORMAT = "mariana-asr frame store"
VERSION = 1
TARGET_TYPE = np.dtype("<i4")

MAX_OPEN_SHARDS = 128
"""How many shards are kept open; each has two files, of the 1024 that many systems allow."""


@dataclass(frozen=True)
class Shard:
    """One pair of files of a store: what it holds and how it can be checked."""

    frames: int
    utterances: int
    features_crc32: int
    targets_crc32: int


def shard_files(directory: Path, number: int) -> tuple[Path, Path]:
    """The features file and the targets file of a shard."""
    return directory / f"features-{number:05d}.bin", directory / f"targets-{number:05d}.bin"


class FrameStore:
    """A packed corpus of frames and targets, opened for reading.

    Attributes:
        directory: Where it lies.
        dim: Values a frame.
        num_outputs: Number of classes that targets are drawn from.
        storage: Name of the type of a stored value, a key of ``STORAGE_TYPES``.
        num_frames: Number of frames.
        num_utterances: Number of utterances.
        shards: The shards, in order.
        offsets: (num_utterances + 1,) int64, the first frame of each utterance.
        class_counts: (num_outputs,) int64, the number of frames of each class.
        mean: (dim,) float64 mean of the frames.
        std: (dim,) float64 standard deviation of the frames.
        fingerprint: Digest of the content: equal for stores that hold the same frames.
    """

    def __init__(self, directory: Path, meta: dict[str, Any]) -> None:
        """Use :meth:`open`, which checks what it reads."""
        self.directory = directory
        self.dim: int = meta["dim"]
        self.num_outputs: int = meta["num_outputs"]
        self.num_frames: int = meta["frames"]
        self.num_utterances: int = meta["utterances"]
        self.storage: str = meta["storage"]
        self._stored_type = STORAGE_TYPES[self.storage]
        self.shards = [Shard(**shard) for shard in meta["shards"]]
        self.mean = np.array(meta["mean"], dtype=np.float64)
        self.std = np.array(meta["std"], dtype=np.float64)
        content = [meta[key] for key in ("dim", "num_outputs", "storage", "shards")]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        # A plain array over the map: slices of np.memmap itself cost several times as much.
        self.offsets: NDArray[np.int64] = np.asarray(
            np.load(directory / "offsets.npy", mmap_mode="r")
        )
        self.class_counts: NDArray[np.int64] = np.load(directory / "class_counts.npy")
        self._files: OrderedDict[int, tuple[FileIO, FileIO]] = OrderedDict()
        self._lock = threading.Lock()
        self._shard_frames = np.cumsum([0] + [shard.frames for shard in self.shards])
        self._check_sizes()

    @classmethod
    def open(cls, directory: str | Path) -> "FrameStore":
        """Open a store; sizes of all files are checked, their content by :meth:`verify` only.

        Raises:
            FormatError: The directory is no frame store, or a file of it is missing or torn.
        """
        directory = Path(directory)
        meta = read_json(directory / "meta.json")
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise FormatError("not the description of a frame store", where=directory / "meta.json")
        if meta.get("version") != VERSION:
            raise FormatError(
                f"frame store of version {meta.get('version')!r}; this program reads {VERSION}",
                where=directory,
                remedy="Pack the store again",
            )
        try:
            return cls(directory, meta)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise FormatError(
                f"damaged frame store: {error}", where=directory, remedy="Pack the store again"
            ) from error

    def _check_sizes(self) -> None:
        for number, shard in enumerate(self.shards):
            row_bytes = (self.dim * self._stored_type.itemsize, TARGET_TYPE.itemsize)
            for path, size in zip(shard_files(self.directory, number), row_bytes, strict=True):
                expected = shard.frames * size
                found = path.stat().st_size if path.exists() else None
                if found != expected:
                    state = "missing" if found is None else f"{found} bytes long"
                    raise FormatError(
                        f"torn shard: the file is {state}, it should have {expected} bytes",
                        where=path,
                        remedy="Pack the store again",
                    )
        if (
            self.num_frames <= 0
            or self.offsets.shape != (self.num_utterances + 1,)
            or self.offsets[-1] != self.num_frames
            or sum(shard.frames for shard in self.shards) != self.num_frames
            or sum(shard.utterances for shard in self.shards) != self.num_utterances
            or self.class_counts.shape != (self.num_outputs,)
            or self.mean.shape != (self.dim,)
        ):
            raise ValueError("its parts do not fit together")

    def verify(self) -> None:
        """Read every shard and compare its checksums.

        Raises:
            FormatError: A file's content is not what was written.
        """
        for number, shard in enumerate(self.shards):
            sums = (shard.features_crc32, shard.targets_crc32)
            for path, expected in zip(shard_files(self.directory, number), sums, strict=True):
                found = 0
                with open(path, "rb") as file:
                    while chunk := file.read(1 << 22):
                        found = zlib.crc32(chunk, found)
                if found != expected:
                    raise FormatError(
                        "the file's checksum is wrong", where=path, remedy="Pack the store again"
                    )

    def read_frames(
        self, shard: int, begin: int, features: NDArray[Any], targets: NDArray[np.int32]
    ) -> None:
        """Read frames of a shard into given memory.

        Args:
            shard: Number of the shard.
            begin: First of the frames, counted in the shard.
            features: (T, dim) contiguous, of the type of the store: filled.
            targets: (T,) contiguous: filled.

        Raises:
            FormatError: The shard ends before the last of them.
        """
        with self._lock:
            if shard not in self._files:
                # Files taken out here are closed once nobody reads them any more.
                frames, classes = shard_files(self.directory, shard)
                self._files[shard] = FileIO(frames), FileIO(classes)
                if len(self._files) > MAX_OPEN_SHARDS:
                    self._files.popitem(last=False)
            self._files.move_to_end(shard)
            files = self._files[shard]
        row_bytes = self.dim * self._stored_type.itemsize
        read_exactly(files[0], begin * row_bytes, features)
        read_exactly(files[1], begin * TARGET_TYPE.itemsize, targets)

    def utterance_names(self, numbers: Iterable[int]) -> list[str]:
        """Ids of the utterances with these numbers, in order of number."""
        wanted = sorted(set(numbers))
        names = []
        with open(self.directory / "utterances.txt", encoding="utf-8") as file:
            position = 0
            for number in wanted:
                names.append(next(itertools.islice(file, number - position, None)).rstrip("\n"))
                position = number + 1
        return names

    def read_utterance(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Features (T, dim) and targets (T,) of the utterance with this number.

        Raises:
            DataError: There is no such utterance.
        """
        if not 0 <= number < self.num_utterances:
            raise DataError(
                f"no utterance {number}; there are {self.num_utterances}", where=self.directory
            )
        begin, end = int(self.offsets[number]), int(self.offsets[number + 1])
        shard = int(np.searchsorted(self._shard_frames, begin, side="right")) - 1
        features = np.empty((end - begin, self.dim), dtype=self._stored_type)
        targets = np.empty(end - begin, dtype=TARGET_TYPE)
        self.read_frames(shard, begin - int(self._shard_frames[shard]), features, targets)
        return from_storage(features, self.storage), targets.astype(np.int32, copy=False)


def read_exactly(file: FileIO, begin: int, rows: NDArray[Any]) -> None:
    """Fill an array with the bytes of a file from ``begin`` on.

    Raises:
        FormatError: The file ends before.
    """
    wanted = rows.reshape(-1).view(np.uint8).data
    while len(wanted):
        # Leaves alone where the file stands, so that several threads may read it.
        read = os.preadv(file.fileno(), [wanted], begin)
        if not read:
            raise FormatError("torn shard: the file ends too early", where=str(file.name))
        wanted, begin = wanted[read:], begin + read
