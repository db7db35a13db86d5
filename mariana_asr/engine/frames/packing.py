"""Writing a frame store: one utterance at a time, whole or not at all."""

import os
import zlib
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mariana_asr.engine.frames.frame_store import (
    FORMAT,
    TARGET_TYPE,
    VERSION,
    FrameStore,
    Shard,
    shard_files,
)
from mariana_asr.engine.frames.storage import (
    STORAGE_TYPES,
    StorageName,
    from_storage,
    to_storage,
)
from mariana_asr.errors import DataError, StageError
from mariana_asr.files import atomic_directory, write_json
from mariana_asr.options import Options
from mariana_asr.skipped import Skipped


class PackOptions(Options):
    """How frames are stored."""

    storage: StorageName = "float32"
    """Type of a stored feature value. 16 bits halve disk space and bandwidth: float16 keeps 11
    significant bits of values below 65520, bfloat16 keeps 8 of values of any size."""
    max_length_difference: int = Field(default=4, ge=0)
    """Features and targets of an utterance may differ in length by at most this many frames and
    are then cut to the shorter; beyond it the utterance is skipped. Kaldi's nnet1 tools do the
    same: their --length-tolerance=5 tolerates differences below 5."""
    shard_megabytes: int = Field(default=1024, ge=1)
    """A shard is closed once its features have this size."""


class FrameStoreWriter:
    """Writes a frame store, an utterance at a time; memory does not grow with the corpus' frames.

    Used as a context manager. The store appears under its name when the block succeeds, in place
    of any store that stood there; when it fails, nothing changes.

    Attributes:
        skipped: The utterances left out, with reasons.
        class_counts: (num_outputs,) int64, the frames of each class written so far.
        num_truncated: How many utterances were cut to the shorter of features and targets.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        num_outputs: int,
        options: PackOptions | None = None,
        skipped: Skipped | None = None,
    ) -> None:
        """Targets are class ids from 0 to ``num_outputs - 1``; ``skipped`` may be shared."""
        self.directory = Path(directory)
        self.num_outputs = int(num_outputs)
        self.options = options if options is not None else PackOptions()
        self.skipped = skipped if skipped is not None else Skipped("packing of frames")
        self.class_counts = np.zeros(num_outputs, dtype=np.int64)
        self.num_truncated = 0
        self.dim: int | None = None
        self._row_bytes = 0
        self._offsets = array("q", [0])
        self._shards: list[Shard] = []
        self._stack = ExitStack()
        self._files: tuple[BinaryIO, BinaryIO] | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames written so far."""
        return self._offsets[-1]

    @property
    def num_utterances(self) -> int:
        """Number of utterances written so far."""
        return len(self._offsets) - 1

    def __enter__(self) -> "FrameStoreWriter":
        """Open a temporary directory beside the store."""
        self._temporary = self._stack.enter_context(atomic_directory(self.directory))
        self._stack.callback(self._close_files)
        self._names = self._stack.enter_context(
            open(self._temporary / "utterances.txt", "w", encoding="utf-8")
        )
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

    def _close_files(self) -> None:
        for file in self._files or ():
            file.close()

    def add(
        self, utterance: str, features: NDArray[np.floating], targets: NDArray[np.integer]
    ) -> bool:
        """Append an utterance, or skip it with a reason.

        Args:
            utterance: Its id.
            features: (T, dim) unspliced features.
            targets: (T,) class ids.

        Returns:
            Whether it was written.

        Raises:
            DataError: A target is not a class id. That is no accident of one utterance: the
                alignments then belong to another model, and all of them would be wrong.
        """
        reason = self._problem(features, targets)
        if reason is not None:
            self.skipped.add(utterance, reason)
            return False
        length = min(len(features), len(targets))
        truncated = len(features) != len(targets)
        targets = targets[:length].astype(TARGET_TYPE)
        if targets.min() < 0 or targets.max() >= self.num_outputs:
            raise DataError(
                f"target {targets.min() if targets.min() < 0 else targets.max()} is not one of "
                f"the {self.num_outputs} classes 0 to {self.num_outputs - 1}",
                where=f"utterance {utterance}",
                remedy="Use the alignments and the model that belong together",
            )
        stored = to_storage(features[:length], self.options.storage)
        values = from_storage(stored, self.options.storage)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            self.skipped.add(
                utterance,
                f"{bad} of {length} frames hold NaN or infinite values as {self.options.storage}",
            )
            return False
        self._append(utterance, stored, values, targets)
        self.num_truncated += truncated
        return True

    def _problem(self, features: NDArray[np.floating], targets: NDArray[np.integer]) -> str | None:
        if features.ndim != 2 or targets.ndim != 1:
            return f"features of shape {features.shape} and targets of shape {targets.shape}"
        if not len(features) or not len(targets):
            return f"{len(features)} frames of features, {len(targets)} targets"
        if self.dim is not None and features.shape[1] != self.dim:
            return f"features have {features.shape[1]} dimensions, others have {self.dim}"
        if abs(len(features) - len(targets)) > self.options.max_length_difference:
            return (
                f"{len(features)} frames of features but {len(targets)} targets; they were likely "
                "made with different frame shifts, segments or recordings"
            )
        return None

    def _append(
        self,
        utterance: str,
        stored: NDArray[Any],
        values: NDArray[np.float32],
        targets: NDArray[np.integer],
    ) -> None:
        if self.dim is None:
            self.dim = values.shape[1]
            self._row_bytes = self.dim * STORAGE_TYPES[self.options.storage].itemsize
            self._sum, self._sum_squares = np.zeros(self.dim), np.zeros(self.dim)
        if self._files is None:
            paths = shard_files(self._temporary, len(self._shards))
            self._files = (open(paths[0], "wb"), open(paths[1], "wb"))  # noqa: SIM115
            self._checksums = [0, 0]
            self._shard_begin = (self.num_frames, self.num_utterances)
        for which, (file, rows) in enumerate(zip(self._files, (stored, targets), strict=True)):
            content = np.ascontiguousarray(rows).data
            file.write(content)
            self._checksums[which] = zlib.crc32(content, self._checksums[which])
        self._names.write(f"{utterance}\n")
        self._offsets.append(self.num_frames + len(stored))
        self.class_counts += np.bincount(targets, minlength=self.num_outputs)
        double = values.astype(np.float64)
        self._sum += double.sum(axis=0)
        self._sum_squares += (double * double).sum(axis=0)
        shard_bytes = (self.num_frames - self._shard_begin[0]) * self._row_bytes
        if shard_bytes >= self.options.shard_megabytes << 20:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._files is None:
            return
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._files = None
        frames, utterances = self._shard_begin
        self._shards.append(
            Shard(self.num_frames - frames, self.num_utterances - utterances, *self._checksums)
        )

    def _finish(self) -> None:
        self._close_shard()
        if self.dim is None:
            reasons = [f"{name} {reason}" for name, reason in self.skipped.reasons.items()]
            raise StageError(
                f"{self.skipped.stage}: none of {len(self.skipped)} utterances could be used",
                where=self.directory,
                remedy="; ".join(reasons[:3]) or None,
            )
        mean = self._sum / self.num_frames
        variance = np.maximum(self._sum_squares / self.num_frames - mean * mean, 0.0)
        np.save(self._temporary / "offsets.npy", np.array(self._offsets, dtype=np.int64))
        np.save(self._temporary / "class_counts.npy", self.class_counts)
        self._names.flush()
        write_meta(
            self._temporary,
            dim=self.dim,
            num_outputs=self.num_outputs,
            storage=self.options.storage,
            shards=self._shards,
            mean=mean,
            std=np.sqrt(variance),
            truncated=self.num_truncated,
            skipped=len(self.skipped),
        )


def write_meta(
    directory: Path,
    *,
    dim: int,
    num_outputs: int,
    storage: StorageName,
    shards: list[Shard],
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    truncated: int = 0,
    skipped: int = 0,
) -> None:
    """Write the description of a store, ``meta.json``.

    Args:
        directory: Where the store lies.
        dim: Values a frame.
        num_outputs: Number of classes.
        storage: Type of a stored value.
        shards: What the shards hold, in order.
        mean: (dim,) mean of the frames.
        std: (dim,) standard deviation of the frames.
        truncated: How many utterances were cut to the shorter of features and targets.
        skipped: How many utterances were left out.
    """
    write_json(
        directory / "meta.json",
        {
            "format": FORMAT,
            "version": VERSION,
            "dim": dim,
            "num_outputs": num_outputs,
            "frames": sum(shard.frames for shard in shards),
            "utterances": sum(shard.utterances for shard in shards),
            "truncated_utterances": truncated,
            "skipped_utterances": skipped,
            "storage": storage,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "shards": [asdict(shard) for shard in shards],
        },
    )


def pack_frames(
    directory: str | Path,
    utterances: Iterable[tuple[str, NDArray[np.floating], NDArray[np.integer]]],
    *,
    num_outputs: int,
    options: PackOptions | None = None,
    skipped: Skipped | None = None,
) -> FrameStore:
    """Pack (utterance, features (T, dim), targets (T,)) into a frame store and open it.

    Lists what was left out in ``skipped.txt`` of the store.

    Args:
        directory: Where the store is to be; replaced as a whole if it exists.
        utterances: Read once, in order.
        num_outputs: Number of classes.
        options: Storage type, length rule, size of shards.
        skipped: Utterances already left out before, to be listed with the others.

    Raises:
        DataError: A target is not one of the classes.
        StageError: No utterance could be used.
    """
    with FrameStoreWriter(
        directory, num_outputs=num_outputs, options=options, skipped=skipped
    ) as writer:
        for utterance, features, targets in utterances:
            writer.add(utterance, features, targets)
    writer.skipped.finish(writer.directory / "skipped.txt", writer.num_utterances)
    return FrameStore.open(directory)
