"""The frame store: unspliced features and their targets, packed once, read as memory maps.

A store is a directory::

    meta.json             format, dimensions, counts, statistics, shards with sizes and checksums
    features-00000.bin    (frames, dim), little-endian float32 or float16, row after row
    targets-00000.bin     (frames,) little-endian int32
    offsets.npy           (utterances + 1,) int64: utterance u is frames offsets[u]:offsets[u + 1]
    class_counts.npy      (num_outputs,) int64: how often each target occurs
    utterances.txt        the utterances' ids, one a line

Utterances never cross a shard. What is kept per utterance is one offset (memory-mapped too), and
nothing is kept per frame, so that a store of billions of frames opens at once.
"""

import hashlib
import itertools
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import DataError, FormatError
from mariana_asr.files import read_json

FORMAT = "mariana-asr frame store"
VERSION = 1
TARGET_TYPE = np.dtype("<i4")
STORAGE_TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


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
        self.storage = STORAGE_TYPES[meta["storage"]]
        self.shards = [Shard(**shard) for shard in meta["shards"]]
        self.mean = np.array(meta["mean"], dtype=np.float64)
        self.std = np.array(meta["std"], dtype=np.float64)
        content = [meta[key] for key in ("dim", "num_outputs", "storage", "shards")]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        self.offsets: NDArray[np.int64] = np.load(directory / "offsets.npy", mmap_mode="r")
        self.class_counts: NDArray[np.int64] = np.load(directory / "class_counts.npy")
        self._maps: dict[int, tuple[NDArray[Any], NDArray[np.int32]]] = {}
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
            row_bytes = (self.dim * self.storage.itemsize, TARGET_TYPE.itemsize)
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

    def shard_maps(self, number: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Memory maps of a shard: features (frames, dim) and targets (frames,)."""
        if number not in self._maps:
            features, targets = shard_files(self.directory, number)
            frames = self.shards[number].frames
            self._maps[number] = (
                np.memmap(features, dtype=self.storage, mode="r", shape=(frames, self.dim)),
                np.memmap(targets, dtype=TARGET_TYPE, mode="r", shape=(frames,)),
            )
        return self._maps[number]

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
        shard_begins = np.cumsum([0] + [shard.frames for shard in self.shards])
        shard = int(np.searchsorted(shard_begins, begin, side="right")) - 1
        rows = slice(begin - int(shard_begins[shard]), end - int(shard_begins[shard]))
        features, targets = self.shard_maps(shard)
        return features[rows].astype(np.float32), targets[rows].astype(np.int32)
