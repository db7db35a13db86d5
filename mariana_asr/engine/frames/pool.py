"""A pool of whole utterances: its bytes on the host, and its frames laid out on the device.

The host only copies: the stored bytes of each block, its targets, and one length per utterance.
All that is wanted per frame is worked out on the device. There each utterance is written once with
its first and last frame repeated as often as the context is long, so that every context window is
one stretch of memory, and gathering a minibatch is one copy per frame.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.order import Blocks, EpochOrder
from mariana_asr.engine.frames.storage import STORAGE_TYPES

_TENSOR_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


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
    """(N,) int32, the order in which the frames come."""

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
    """(M, windows * dim) float32: the window that begins at each row of the laid out frames. A
    view of them in which neighbours overlap; those across two utterances are never used."""
    starts: Tensor
    """(N,) int64 window of each frame, in the order of the stream."""
    targets: Tensor
    """(N,) int64, in the order of the stream."""


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
    size = int(order.pool_begins[number + 1] - order.pool_begins[number])
    numbers = order.pool_blocks(number)
    stored_type = STORAGE_TYPES[store.storage]
    # As bytes, because NumPy knows no bfloat16.
    row_bytes = store.dim * stored_type.itemsize
    content = torch.empty((size, row_bytes), dtype=torch.uint8, pin_memory=pinned)
    targets = torch.empty(size, dtype=torch.int32, pin_memory=pinned)
    frame_rows, target_rows = content.numpy().view(stored_type), targets.numpy()
    shards = blocks.shard[numbers]
    begins = blocks.frames[numbers] - blocks.shard_frames[shards]
    lengths = blocks.frames[numbers + 1] - blocks.frames[numbers]
    places = np.cumsum(lengths) - lengths
    for shard, begin, length, place in zip(
        shards.tolist(), begins.tolist(), lengths.tolist(), places.tolist(), strict=True
    ):
        rows = slice(place, place + length)
        store.read_frames(shard, begin, frame_rows[rows], target_rows[rows])
    utterance_lengths = torch.from_numpy(pool_utterances(store, blocks, numbers)[1])
    permutation = torch.empty(size, dtype=torch.int32, pin_memory=pinned)
    permutation.numpy()[:] = order.pool_permutation(number)
    return PoolContent(
        frames=content.view(_TENSOR_TYPES[store.storage]),
        targets=targets,
        lengths=utterance_lengths.pin_memory() if pinned else utterance_lengths,
        permutation=permutation,
    )


def lay_out(content: PoolContent, left_context: int, right_context: int) -> Pool:
    """Lay the frames of a pool out so that each context window is one stretch of memory.

    Runs on the device that ``content`` is on, and never waits for it.
    """
    frames, lengths = content.frames, content.lengths
    size, context = len(frames), left_context + right_context
    num_rows = size + len(lengths) * context
    ends = lengths.cumsum(0)
    utterances = torch.arange(len(lengths), device=frames.device)
    # The frame that each row repeats: its own place less what has been put in before it, but
    # never one of another utterance.
    utterance_of_row = utterances.repeat_interleave(lengths + context, output_size=num_rows)
    rows = torch.arange(num_rows, device=frames.device)
    rows -= utterance_of_row * context + left_context
    rows.clamp_(
        min=(ends - lengths).index_select(0, utterance_of_row),
        max=(ends - 1).index_select(0, utterance_of_row),
    )
    laid = frames.index_select(0, rows).to(torch.float32)
    dim = frames.shape[1]
    windows = laid.as_strided((num_rows - context, (context + 1) * dim), (dim, 1))
    starts = utterances.mul_(context).repeat_interleave(lengths, output_size=size)
    starts += torch.arange(size, device=frames.device)
    return Pool(
        windows=windows,
        starts=starts.index_select(0, content.permutation),
        targets=content.targets.index_select(0, content.permutation).to(torch.int64),
    )
