"""Minibatches of whole utterances with their lattices, dealt out to workers."""

import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.order import minibatch_bounds
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.sequence.lattice import SequenceLattice
from mariana_asr.engine.sequence.lattice_store import LatticeStore


class LatticeData(NamedTuple):
    """Frames, and lattices of utterances that they are of; the others are left out."""

    frames: FrameStore
    """Frames with their reference classes."""
    lattices: LatticeStore
    """The lattices."""


@dataclass(frozen=True)
class Utterance:
    """An utterance to learn from."""

    number: int
    """In the frame store."""
    frames: Tensor
    """(T, dim) float32 on the device."""
    targets: Tensor
    """(T,) int64 on the device."""
    lattice: SequenceLattice


@dataclass
class UtteranceMinibatch:
    """One worker's utterances of a minibatch; there may be none."""

    step: int
    """Number of the minibatch in its epoch, from 0."""
    frames: int
    """Number of frames of these utterances."""
    global_frames: int
    """Number of frames of the minibatch of all workers."""
    utterances: list[Utterance]

    def pieces(self, count: int) -> Iterator[tuple[int, tuple[list[Utterance]]]]:
        """Cut it into ``count`` parts of as many utterances, to one; each with the place 0."""
        total = len(self.utterances)
        for piece in range(count):
            begin, end = total * piece // count, total * (piece + 1) // count
            yield 0, (self.utterances[begin:end],)


class UtteranceOrder:
    """The order of utterances in an epoch: a function of (seed, epoch, step), and nothing else.

    Attributes:
        num_frames: Number of frames of the epoch.
        num_steps: Number of minibatches.
    """

    def __init__(
        self, frames: NDArray[np.int64], *, size: int, seed: int, epoch: int, shuffle: bool
    ) -> None:
        """Without ``shuffle`` utterances come in the order of the store.

        Args:
            frames: (U,) number of frames of each utterance.
            size: Utterances of a minibatch.
            seed: Of the order.
            epoch: Number of the epoch.
            shuffle: Whether to shuffle.
        """
        self.num_frames = int(frames.sum())
        self.num_steps = -(-len(frames) // size)
        self._frames, self._size = frames, size
        generator = np.random.Generator(np.random.Philox([seed, epoch]))
        self._order = generator.permutation(len(frames)) if shuffle else np.arange(len(frames))

    def minibatch(self, step: int) -> NDArray[np.int64]:
        """Places in the store of the utterances of a minibatch."""
        begin, end = minibatch_bounds(len(self._order), self._size, step)
        return self._order[begin:end]

    def part(self, step: int, rank: int, workers: int) -> NDArray[np.int64]:
        """Those of one worker of ``workers``.

        The longest comes first, and each goes to the worker that has the fewest frames so far, so
        that none waits long for another.
        """
        places = self.minibatch(step)
        loads, owners = [0] * workers, np.empty(len(places), dtype=np.int64)
        for place in np.argsort(-self._frames[places], kind="stable").tolist():
            owners[place] = loads.index(min(loads))
            loads[owners[place]] += int(self._frames[places[place]])
        return places[owners == rank]


class UtteranceSource:
    """Makes a worker's parts of minibatches of utterances.

    Attributes:
        seconds_waiting: How long :meth:`epoch` has waited for the reader in all.
    """

    def __init__(
        self,
        data: LatticeData,
        *,
        utterances_per_step: int,
        seed: int,
        workers: Workers,
        shuffle: bool = True,
    ) -> None:
        """Utterances come in shuffled order, or without ``shuffle`` in the order of the store."""
        self.seconds_waiting = 0.0
        self._data, self._workers = data, workers
        self._size, self._seed, self._shuffle = utterances_per_step, seed, shuffle

    def order(self, epoch: int) -> UtteranceOrder:
        """The order of an epoch."""
        return UtteranceOrder(
            self._data.lattices.frames,
            size=self._size,
            seed=self._seed,
            epoch=epoch,
            shuffle=self._shuffle,
        )

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[UtteranceMinibatch, None, None]:
        """Yield this worker's parts of the minibatches of an epoch from ``first_step`` on.

        A thread reads the next one meanwhile. Close the iterator (``contextlib.closing``) if it is
        left early, so that it ends.
        """
        order = self.order(epoch)
        with ThreadPoolExecutor(1, "lattice store reader") as reader:
            coming = reader.submit(self._read, order, first_step)
            for step in range(first_step, order.num_steps):
                started = time.perf_counter()
                minibatch = coming.result()
                self.seconds_waiting += time.perf_counter() - started
                if step + 1 < order.num_steps:
                    coming = reader.submit(self._read, order, step + 1)
                yield minibatch

    def _read(self, order: UtteranceOrder, step: int) -> UtteranceMinibatch:
        frames = self._data.lattices.frames
        places = order.part(step, self._workers.rank, self._workers.size)
        return UtteranceMinibatch(
            step,
            int(frames[places].sum()),
            int(frames[order.minibatch(step)].sum()),
            [self._read_utterance(place) for place in places.tolist()],
        )

    def _read_utterance(self, place: int) -> Utterance:
        number = int(self._data.lattices.numbers[place])
        frames, targets = self._data.frames.read_utterance(number)
        lattice = self._data.lattices.read(place)
        lattice.prepare()
        device = self._workers.device
        return Utterance(
            number,
            torch.from_numpy(frames).to(device),
            torch.from_numpy(targets).to(device, torch.int64),
            lattice,
        )
