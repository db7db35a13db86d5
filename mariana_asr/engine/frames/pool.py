"""A pool of whole utterances: its bytes on the host, and its frames laid out on the device.

The host only copies: the stored bytes of each block, its targets, and one length per utterance.
All that is wanted per frame is worked out on the device. There each utterance is written once with
its first and last frame repeated as often as the context is long (and the last one to the end of
the last chunk), so that every window is one stretch of memory, and gathering a minibatch is one
copy per window.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.order import Blocks, EpochOrder, windows_of
from mariana_asr.engine.frames.storage import STORAGE_TYPES

_TENSOR_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


NO_TARGET = -1
"""Target of what is no frame: a chunk may reach over the end of its utterance."""


@dataclass(frozen=True)
class PoolContent:
    """What is read of a pool, in host memory, in the order in which its blocks are laid."""

    frames: Tensor
    """(N, dim) in the type of the store."""
    targets: Tensor
    """(N,) int32."""
    lengths: Tensor
    """(U,) int64, the number of frames of each utterance."""
    permutation: Tensor
    """(W,) int32, the order in which the windows come."""

    def to(self, device: torch.device) -> "PoolContent":
        """The same on a device; from pinned memory the copies do not wait."""
        return PoolContent(
            self.frames.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.lengths.to(device, non_blocking=True),
            self.permutation.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Pool:
    """A pool on the device, ready for its windows to be gathered in the order of the stream."""

    windows: Tensor
    """(M, frames * dim) float32: the window that begins at each row of the laid out frames. A
    view of them in which neighbours overlap; only some of them are used."""
    starts: Tensor
    """(W,) int64 row at which each window begins, in the order of the stream."""
    targets: Tensor
    """(W, chunk_frames) int64, in the order of the stream; NO_TARGET behind an utterance's end."""


def pool_utterances(
    store: FrameStore, blocks: Blocks, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers and lengths of the utterances of some blocks, one block after the other.

    Args:
        store: The store.
        blocks: Its blocks.
        numbers: (P,) the blocks that are meant.

    Returns:
        (U,) numbers of the utterances, and (U,) numbers of frames.
    """
    begins = blocks.utterances[numbers]
    counts = blocks.utterances[numbers + 1] - begins
    before = np.cumsum(counts) - counts
    utterances = np.repeat(begins - before, counts) + np.arange(counts.sum())
    return utterances, store.offsets[utterances + 1] - store.offsets[utterances]


def frames_of_windows(
    store: FrameStore, blocks: Blocks, order: EpochOrder, number: int, chunk_frames: int
) -> NDArray[np.int64]:
    """How many frames each window of a pool gives, in the order of the stream: (W,).

    No frame is read.
    """
    _, lengths = pool_utterances(store, blocks, order.pool_blocks(number))
    counts = windows_of(lengths, chunk_frames)
    frames = np.full(counts.sum(), chunk_frames)
    frames[np.cumsum(counts) - 1] = lengths - (counts - 1) * chunk_frames
    return frames[order.pool_permutation(number)]


def read_pool(
    store: FrameStore, blocks: Blocks, order: EpochOrder, number: int, *, pinned: bool
) -> PoolContent:
    """Read a pool of an epoch from the store.

    Args:
        store: The store.
        blocks: Its blocks.
        order: The order of the epoch.
        number: The pool.
        pinned: Whether into page-locked memory, from which a GPU can fetch it by itself.
    """
    numbers = order.pool_blocks(number)
    shards = blocks.shard[numbers]
    begins = blocks.frames[numbers] - blocks.shard_frames[shards]
    lengths = blocks.frames[numbers + 1] - blocks.frames[numbers]
    size = int(lengths.sum())
    stored_type = STORAGE_TYPES[store.storage]
    # As bytes, because NumPy knows no bfloat16.
    row_bytes = store.dim * stored_type.itemsize
    content = torch.empty((size, row_bytes), dtype=torch.uint8, pin_memory=pinned)
    targets = torch.empty(size, dtype=torch.int32, pin_memory=pinned)
    frame_rows, target_rows = content.numpy().view(stored_type), targets.numpy()
    places = np.cumsum(lengths) - lengths
    for shard, begin, length, place in zip(
        shards.tolist(), begins.tolist(), lengths.tolist(), places.tolist(), strict=True
    ):
        rows = slice(place, place + length)
        store.read_frames(shard, begin, frame_rows[rows], target_rows[rows])
    utterance_lengths = torch.from_numpy(pool_utterances(store, blocks, numbers)[1])
    windows = order.pool_permutation(number)
    permutation = torch.empty(len(windows), dtype=torch.int32, pin_memory=pinned)
    permutation.numpy()[:] = windows
    return PoolContent(
        frames=content.view(_TENSOR_TYPES[store.storage]),
        targets=targets,
        lengths=utterance_lengths.pin_memory() if pinned else utterance_lengths,
        permutation=permutation,
    )


def lay_out(
    content: PoolContent, left_context: int, right_context: int, chunk_frames: int = 1
) -> Pool:
    """Lay the frames of a pool out so that each window is one stretch of memory.

    Runs on the device that ``content`` is on, and never waits for it.
    """
    frames, lengths, device = content.frames, content.lengths, content.frames.device
    context, num_windows = left_context + right_context, len(content.permutation)
    windows = (lengths + (chunk_frames - 1)).div_(chunk_frames, rounding_mode="floor")
    rows = windows * chunk_frames + context
    num_rows = num_windows * chunk_frames + len(lengths) * context
    frame_ends, first_rows = lengths.cumsum(0), rows.cumsum(0) - rows
    frame_begins = frame_ends - lengths
    utterances = torch.arange(len(lengths), device=device)
    # The frame that each row repeats: its own place less what has been put in before it, but
    # never one of another utterance.
    utterance_of_row = utterances.repeat_interleave(rows, output_size=num_rows)
    frame_of_row = torch.arange(num_rows, device=device)
    frame_of_row -= (first_rows - frame_begins + left_context).index_select(0, utterance_of_row)
    frame_of_row.clamp_(
        min=frame_begins.index_select(0, utterance_of_row),
        max=(frame_ends - 1).index_select(0, utterance_of_row),
    )
    laid = frames.index_select(0, frame_of_row).to(torch.float32)
    length, dim = context + chunk_frames, frames.shape[1]
    views = laid.as_strided((num_rows - length + 1, length * dim), (dim, 1))
    # From here on in the order of the stream.
    utterance = utterances.repeat_interleave(windows, output_size=num_windows)
    utterance = utterance.index_select(0, content.permutation)
    number = content.permutation - (windows.cumsum(0) - windows).index_select(0, utterance)
    offset = number * chunk_frames
    centre = frame_begins.index_select(0, utterance) + offset
    targets = content.targets.to(torch.int64)
    if chunk_frames == 1:
        targets = targets.index_select(0, centre)[:, None]
    else:
        place = centre[:, None] + torch.arange(chunk_frames, device=device)
        end = frame_ends.index_select(0, utterance)[:, None]
        targets = torch.where(place < end, targets[place.clamp(max=end - 1)], NO_TARGET)
    return Pool(views, first_rows.index_select(0, utterance) + offset, targets)
