"""From the frame store to minibatches on the device, with disk, CPU and device at work at once.

A background thread lays the blocks of the next pool side by side in (pinned) memory and sends
them to the device, while minibatches are made from the pool before. On the device a minibatch is
gathered by index: the frames in shuffled order, each with its context window.
"""

import queue
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.order import Blocks, EpochOrder, block_size
from mariana_asr.nnet.splicing import gather_windows, window_offsets

POOLS_AHEAD = 1
"""How many pools wait ready beside the one in use and the one being read."""


@dataclass
class Minibatch:
    """Frames with their context windows, and their targets."""

    step: int
    """Number of the minibatch in its epoch, from 0."""
    inputs: Tensor
    """(B, windows * dim) float32 on the device."""
    targets: Tensor
    """(B,) int64 on the device."""
    utterances: NDArray[np.int64] = field(repr=False)
    """(B,) number in the store of each frame's utterance."""


@dataclass
class _Pool:
    """Whole utterances on the device; tensors below are in the order of the epoch's stream."""

    begin: int
    frames: Tensor
    """(N, dim) in the type of the store, in the order of the store within each block."""
    windows: Tensor
    """(3, N) int32: row of the centre, of its utterance's first and of its last frame."""
    targets: Tensor
    utterances: NDArray[np.int64]
    arrived: "torch.cuda.Event | None"


class Randomizer:
    """Makes the minibatches of a frame store.

    Attributes:
        seconds_waiting: How long :meth:`epoch` has waited for the reader in all.
    """

    def __init__(
        self,
        store: FrameStore,
        *,
        left_context: int,
        right_context: int,
        minibatch_size: int,
        randomizer_size: int,
        seed: int,
        device: torch.device,
        shuffle: bool = True,
    ) -> None:
        """Frames come in shuffled order, or without ``shuffle`` in the order of the store."""
        self.store = store
        self.device = device
        self.seconds_waiting = 0.0
        self._blocks = Blocks.of(store, block_size(store.num_frames, randomizer_size))
        self._sizes = {"minibatch_size": minibatch_size, "randomizer_size": randomizer_size}
        self._seed, self._shuffle = seed, shuffle
        self._offsets = window_offsets(left_context, right_context, device)
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def order(self, epoch: int) -> EpochOrder:
        """The order of frames in an epoch."""
        return EpochOrder(
            self._blocks, seed=self._seed, epoch=epoch, shuffle=self._shuffle, **self._sizes
        )

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Minibatch, None, None]:
        """Yield the minibatches of an epoch from ``first_step`` on.

        Nothing of the steps before is read but what lies in the same pool. Close the iterator
        (``contextlib.closing``) if it is left early, so that its thread ends.
        """
        order = self.order(epoch)
        if first_step >= order.num_steps:
            return
        first_pool = order.pool_of(order.minibatch(first_step)[0])
        ready: queue.Queue[_Pool | BaseException] = queue.Queue(POOLS_AHEAD)
        stop = threading.Event()
        reader = threading.Thread(
            target=self._read_pools,
            args=(order, first_pool, ready, stop),
            name="frame store reader",
            daemon=True,
        )
        reader.start()
        try:
            pools: list[_Pool] = []
            for step in range(first_step, order.num_steps):
                begin, end = order.minibatch(step)
                while not pools or pools[-1].begin + len(pools[-1].targets) < end:
                    pools.append(self._next_pool(ready))
                while pools[0].begin + len(pools[0].targets) <= begin:
                    del pools[0]
                yield self._minibatch(step, pools, begin, end)
        finally:
            stop.set()
            reader.join()

    def _next_pool(self, ready: "queue.Queue[_Pool | BaseException]") -> _Pool:
        started = time.perf_counter()
        pool = ready.get()
        self.seconds_waiting += time.perf_counter() - started
        if isinstance(pool, BaseException):
            raise pool
        if pool.arrived is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(pool.arrived)
            for tensor in (pool.frames, pool.windows, pool.targets):
                # Made on the copying stream: its memory must not be reused while this one reads.
                tensor.record_stream(current)
        return pool

    def _minibatch(self, step: int, pools: list[_Pool], begin: int, end: int) -> Minibatch:
        parts = []
        for pool in pools:
            rows = slice(max(begin - pool.begin, 0), max(end - pool.begin, 0))
            if len(targets := pool.targets[rows]):
                centre, first, last = pool.windows[:, rows]
                inputs = gather_windows(pool.frames, centre, first, last, self._offsets)
                parts.append((inputs, targets, pool.utterances[rows]))
        if len(parts) == 1:
            return Minibatch(step, *parts[0])
        return Minibatch(
            step,
            torch.cat([part[0] for part in parts]),
            torch.cat([part[1] for part in parts]),
            np.concatenate([part[2] for part in parts]),
        )

    def _read_pools(
        self,
        order: EpochOrder,
        first_pool: int,
        ready: "queue.Queue[_Pool | BaseException]",
        stop: threading.Event,
    ) -> None:
        """Body of the reader thread; an error is handed over in place of a pool."""
        for number in range(first_pool, order.num_pools):
            item: _Pool | BaseException
            try:
                item = self._read_pool(order, number)
            except BaseException as error:
                item = error
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or isinstance(item, BaseException):
                return

    def _read_pool(self, order: EpochOrder, number: int) -> _Pool:
        blocks = order.pool_blocks(number)
        size = int(order.pool_begins[number + 1] - order.pool_begins[number])
        pinned = self._copy_stream is not None
        storage = torch.float16 if self.store.storage.itemsize == 2 else torch.float32
        frames = torch.empty((size, self.store.dim), dtype=storage, pin_memory=pinned)
        windows = torch.empty((3, size), dtype=torch.int32, pin_memory=pinned)
        targets = torch.empty(size, dtype=torch.int64, pin_memory=pinned)

        permutation = order.pool_permutation(number)
        laid = np.empty(size, dtype=np.int64)
        first, last = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
        utterances = np.empty(size, dtype=np.int64)
        position = 0
        for block in blocks:
            rows = slice(position, position + self._read_block(int(block), position, frames, laid))
            bounds = slice(self._blocks.utterances[block], self._blocks.utterances[block + 1] + 1)
            offsets = np.asarray(self.store.offsets[bounds])
            lengths = np.diff(offsets)
            begins = offsets[:-1] - offsets[0] + position
            first[rows] = np.repeat(begins, lengths)
            last[rows] = np.repeat(begins + lengths - 1, lengths)
            utterances[rows] = np.repeat(np.arange(bounds.start, bounds.stop - 1), lengths)
            position = rows.stop
        windows.numpy()[:] = permutation, first[permutation], last[permutation]
        np.take(laid, permutation, out=targets.numpy())
        begin = int(order.pool_begins[number])
        if self._copy_stream is None:
            return _Pool(begin, frames, windows, targets, utterances[permutation], None)
        with torch.cuda.stream(self._copy_stream):
            frames = frames.to(self.device, non_blocking=True)
            windows = windows.to(self.device, non_blocking=True)
            targets = targets.to(self.device, non_blocking=True)
            arrived = self._copy_stream.record_event()
        return _Pool(begin, frames, windows, targets, utterances[permutation], arrived)

    def _read_block(
        self, block: int, position: int, frames: Tensor, targets: NDArray[np.int64]
    ) -> int:
        """Copy a block from its shard into the pool; returns its number of frames."""
        shard = int(self._blocks.shard[block])
        begin, end = self._blocks.frames[block : block + 2] - self._blocks.shard_frames[shard]
        shard_features, shard_targets = self.store.shard_maps(shard)
        rows = slice(position, position + int(end - begin))
        np.copyto(frames.numpy()[rows], shard_features[begin:end])
        np.copyto(targets[rows], shard_targets[begin:end])
        return int(end - begin)
