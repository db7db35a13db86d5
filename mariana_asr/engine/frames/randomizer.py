"""From the frame store to minibatches on the device, with disk, CPU and device at work at once.

A background thread copies the blocks of the next pool side by side into (pinned) memory, sends
them to the device and lays them out there, while minibatches are gathered from the pool before.
All workers follow the same order; each gathers its own rows of every minibatch, and reads only
the pools that these come from.
"""

import queue
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.order import Blocks, EpochOrder, block_size, windows_of
from mariana_asr.engine.frames.pool import (
    Pool,
    frames_of_windows,
    lay_out,
    pool_utterances,
    read_pool,
)
from mariana_asr.engine.launch.workers import Workers

POOLS_AHEAD = 1
"""How many pools wait ready beside the one in use and the one being read."""


@dataclass
class Minibatch:
    """One worker's windows of a minibatch, and the targets of their frames."""

    step: int
    """Number of the minibatch in its epoch, from 0."""
    first_row: int
    """Place of the first of these windows in the minibatch of all workers."""
    frames: int
    """Number of frames that these windows give."""
    global_frames: int
    """Number of frames of the minibatch of all workers."""
    inputs: Tensor
    """(B, (left_context + chunk_frames + right_context) * dim) float32 on the device; B may be 0
    if there are more workers than windows. On a CPU the next minibatch is written over it."""
    targets: Tensor
    """(B * chunk_frames,) int64 on the device, window by window; NO_TARGET where there is no
    frame."""

    def pieces(self, count: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Cut it into ``count`` equal parts, to one window.

        Returns:
            Of each the place of its first window in the minibatch of all workers, its inputs and
            its targets.
        """
        windows = len(self.inputs)
        chunk = len(self.targets) // max(windows, 1)
        for piece in range(count):
            begin, end = windows * piece // count, windows * (piece + 1) // count
            part = self.inputs[begin:end], self.targets[begin * chunk : end * chunk]
            yield self.first_row + begin, part


@dataclass(frozen=True)
class _ReadyPool:
    """A pool and its place in the epoch's stream of frames."""

    begin: int
    end: int
    pool: Pool
    arrived: "torch.cuda.Event | None"


class Randomizer:
    """Makes a worker's parts of the minibatches of a frame store.

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
        workers: Workers,
        chunk_frames: int = 1,
        shuffle: bool = True,
    ) -> None:
        """Windows come in shuffled order, or without ``shuffle`` in the order of the store.

        Args:
            store: The packed frames.
            left_context: Frames of a window before those that it gives.
            right_context: Frames after them.
            minibatch_size: Frames of a minibatch of all workers.
            randomizer_size: About how many frames are shuffled among themselves.
            seed: Of the order.
            workers: Whom they are dealt to, and where this one's are made.
            chunk_frames: Frames that a window gives.
            shuffle: Whether to shuffle.
        """
        self.store = store
        self.device = workers.device
        self.seconds_waiting = 0.0
        self._context = (left_context, right_context)
        self._chunk_frames = chunk_frames
        self._blocks = Blocks.of(store, block_size(store.num_frames, randomizer_size), chunk_frames)
        self._sizes = {
            "minibatch_size": max(1, minibatch_size // chunk_frames),
            "randomizer_size": max(1, randomizer_size // chunk_frames),
        }
        self._seed, self._shuffle = seed, shuffle
        self._workers = workers
        on_gpu = self.device.type == "cuda"
        self._copy_stream = torch.cuda.Stream(self.device) if on_gpu else None

    def order(self, epoch: int) -> EpochOrder:
        """The order of windows in an epoch."""
        return EpochOrder(
            self._blocks, seed=self._seed, epoch=epoch, shuffle=self._shuffle, **self._sizes
        )

    def utterances_of(self, epoch: int, step: int) -> list[int]:
        """Number of the utterance that each window of this worker's part is of, row by row.

        They are found anew from the order, without reading any frame.

        Args:
            epoch: Number of the epoch.
            step: Number of the minibatch in it.
        """
        order = self.order(epoch)
        begin, end = self._part(order, step)
        found: list[int] = []
        for number in _pools_between(order, begin, end):
            utterances, lengths = pool_utterances(
                self.store, self._blocks, order.pool_blocks(number)
            )
            pool_begin = int(order.pool_begins[number])
            rows = slice(max(begin - pool_begin, 0), end - pool_begin)
            windows = order.pool_permutation(number)[rows]
            ends = np.cumsum(windows_of(lengths, self._chunk_frames))
            owners = np.searchsorted(ends, windows, side="right")
            found += utterances[owners].tolist()
        return found

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Minibatch, None, None]:
        """Yield this worker's parts of the minibatches of an epoch from ``first_step`` on.

        Nothing of the steps before is read but what lies in the same pool. Close the iterator
        (``contextlib.closing``) if it is left early, so that its thread ends.
        """
        order = self.order(epoch)
        if first_step >= order.num_steps:
            return
        ready: queue.Queue[_ReadyPool | BaseException] = queue.Queue(POOLS_AHEAD)
        stop = threading.Event()
        reader = threading.Thread(
            target=self._read_pools,
            args=(order, first_step, ready, stop),
            name="frame store reader",
            daemon=True,
        )
        reader.start()
        counts = _FrameCounts(self.store, self._blocks, order, self._chunk_frames)
        try:
            pools: list[_ReadyPool] = []
            inputs = torch.empty(0, device=self.device)
            for step in range(first_step, order.num_steps):
                first, last = order.minibatch(step)
                begin, end = self._part(order, step)
                if begin < end:
                    while not pools or pools[-1].end < end:
                        pools.append(self._next_pool(ready))
                    while pools[0].end <= begin:
                        del pools[0]
                inputs, targets = self._gather(pools, begin, end, inputs)
                yield Minibatch(
                    step,
                    begin - first,
                    counts.between(begin, end),
                    counts.between(first, last),
                    inputs,
                    targets,
                )
        finally:
            stop.set()
            reader.join()

    def _part(self, order: EpochOrder, step: int) -> tuple[int, int]:
        """Where this worker's part of a minibatch begins and ends in the stream."""
        begin, end = order.minibatch(step)
        part = self._workers.part_of(end - begin)
        return begin + part.start, begin + part.stop

    def _next_pool(self, ready: "queue.Queue[_ReadyPool | BaseException]") -> _ReadyPool:
        started = time.perf_counter()
        item = ready.get()
        self.seconds_waiting += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        if item.arrived is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(item.arrived)
            for tensor in (item.pool.windows, item.pool.starts, item.pool.targets):
                # Made on the copying stream: its memory must not be reused while this one reads.
                tensor.record_stream(current)
        return item

    def _gather(
        self, pools: list[_ReadyPool], begin: int, end: int, reusable: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the windows from ``begin`` to ``end`` of the stream.

        Memory that is fresh from the system costs a CPU ten times what the copy into it does, so
        that the last minibatch's is reused. On a GPU the allocator keeps memory ready itself, and
        knows until when it is in use.
        """
        width = (sum(self._context) + self._chunk_frames) * self.store.dim
        if reusable.shape != (end - begin, width) or self.device.type != "cpu":
            reusable = torch.empty((end - begin, width), device=self.device)
        targets = []
        for item in pools if begin < end else ():
            rows = slice(max(begin - item.begin, 0), min(end, item.end) - item.begin)
            if rows.start >= rows.stop:
                continue
            place = item.begin + rows.start - begin
            torch.index_select(
                item.pool.windows,
                0,
                item.pool.starts[rows],
                out=reusable[place : place + rows.stop - rows.start],
            )
            targets.append(item.pool.targets[rows].view(-1))
        if not targets:
            return reusable, torch.empty(0, dtype=torch.int64, device=self.device)
        return reusable, targets[0] if len(targets) == 1 else torch.cat(targets)

    def _read_pools(
        self,
        order: EpochOrder,
        first_step: int,
        ready: "queue.Queue[_ReadyPool | BaseException]",
        stop: threading.Event,
    ) -> None:
        """Body of the reader thread; an error is handed over in place of a pool."""
        # Of this thread alone: a second team of OpenMP threads, beside the one that computes,
        # slowed training on a CPU by a sixth.
        torch.set_num_threads(1)
        numbers = self._pools_needed(order, first_step)
        while not stop.is_set():
            item: _ReadyPool | BaseException
            try:
                number = next(numbers, None)
                if number is None:
                    return
                item = self._read_pool(order, number)
            except BaseException as error:
                item = error
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return

    def _pools_needed(self, order: EpochOrder, first_step: int) -> Iterator[int]:
        """Pools that this worker's parts come from, from a step on."""
        done = -1
        for step in range(first_step, order.num_steps):
            for number in _pools_between(order, *self._part(order, step)):
                if number > done:
                    yield number
                    done = number

    def _read_pool(self, order: EpochOrder, number: int) -> _ReadyPool:
        begin, end = map(int, order.pool_begins[number : number + 2])
        pinned = self._copy_stream is not None
        content = read_pool(self.store, self._blocks, order, number, pinned=pinned)
        if self._copy_stream is None:
            return _ReadyPool(
                begin, end, lay_out(content, *self._context, self._chunk_frames), None
            )
        with torch.cuda.stream(self._copy_stream):
            pool = lay_out(content.to(self.device), *self._context, self._chunk_frames)
            return _ReadyPool(begin, end, pool, self._copy_stream.record_event())


class _FrameCounts:
    """How many frames the windows of an epoch give.

    Windows are asked for in about their order: what was counted of the last pools is kept.
    """

    def __init__(
        self, store: FrameStore, blocks: Blocks, order: EpochOrder, chunk_frames: int
    ) -> None:
        self._place = (store, blocks, order)
        self._chunk_frames = chunk_frames
        self._before = lru_cache(maxsize=2)(self._count)

    def between(self, begin: int, end: int) -> int:
        """Frames of the windows from ``begin`` to ``end`` of the stream."""
        if self._chunk_frames == 1:
            return end - begin
        order, frames = self._place[2], 0
        for number in _pools_between(order, begin, end):
            pool_begin, before = int(order.pool_begins[number]), self._before(number)
            last = min(end - pool_begin, len(before) - 1)
            frames += int(before[last] - before[max(begin - pool_begin, 0)])
        return frames

    def _count(self, number: int) -> NDArray[np.int64]:
        """(W + 1,) frames of a pool before each of its windows, and of all."""
        return np.append(0, np.cumsum(frames_of_windows(*self._place, number, self._chunk_frames)))


def _pools_between(order: EpochOrder, begin: int, end: int) -> range:
    """The pools that some stretch of the stream lies in."""
    if begin >= end:
        return range(0)
    return range(order.pool_of(begin), order.pool_of(end - 1) + 1)
