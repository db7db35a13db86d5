"""The order of windows in an epoch: a function of (seed, epoch, step), and of nothing else.

A window is what a network is given at once: a frame with its context or, for networks that are
trained on chunks, that many frames of an utterance with their context. An utterance's last chunk
may reach over its end.

An epoch is one long stream of windows. Blocks, which are groups of whole utterances that lie side
by side in the store, come in random order; each run of blocks of about ``randomizer_size`` windows
is a pool, and the windows of a pool are shuffled among themselves. Minibatches are cut from the
stream one after the other; one may take the end of a pool and the beginning of the next. So the
minibatch of any step can be found without making those before it, which is what makes a resumed
run go on exactly, and what lets any number of workers deal out the same global minibatches.

Nothing is kept per frame or utterance, and 28 bytes per block; an epoch's order keeps 8 more, and
needs 24 beside them while it is made. 5 billion frames are 2.4 million blocks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mariana_asr.engine.frames.frame_store import FrameStore

MAX_BLOCK_FRAMES = 2048
"""A block has at most about so many frames: enough to read at a stretch from a slow disk."""

MIN_BLOCKS = 4096
"""Blocks are made smaller to have so many, down to single utterances: a store that small stays in
memory after the first epoch, so that only how well it is mixed matters."""

MIN_POOL_BLOCKS = 16
"""Blocks are made smaller to mix so many places of the corpus in one pool."""


_UTTERANCES_AT_ONCE = 1 << 18
"""How many offsets are looked at in one go when a store is cut into blocks."""


def block_size(num_frames: int, randomizer_size: int) -> int:
    """About how many frames the blocks of a store should have."""
    return max(
        1, min(MAX_BLOCK_FRAMES, num_frames // MIN_BLOCKS, randomizer_size // MIN_POOL_BLOCKS)
    )


def windows_of(lengths: NDArray[np.int64], chunk_frames: int) -> NDArray[np.int64]:
    """How many windows utterances of some lengths in frames are cut into."""
    return -(-lengths // chunk_frames)


def minibatch_bounds(total: int, size: int, step: int) -> tuple[int, int]:
    """Where the minibatch of a step begins and ends in a stream.

    All minibatches have the same size but the last two, which share what is left evenly:
    everything comes exactly once an epoch, and no minibatch is so small that its gradient or its
    batch statistics are noise.

    Args:
        total: Length of the stream.
        size: Of a minibatch.
        step: Number of the minibatch.
    """
    steps = -(-total // size)
    if step < steps - 2 or total % size == 0:
        return step * size, (step + 1) * size
    begin = max(steps - 2, 0) * size
    middle = (begin + total + 1) // 2
    if steps == 1:
        return 0, total
    return (begin, middle) if step == steps - 2 else (middle, total)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a store: whole utterances side by side in one shard."""

    shard: NDArray[np.int32]
    """(blocks,) shard of each block."""
    utterances: NDArray[np.int64]
    """(blocks + 1,) block b is utterances ``utterances[b]`` to ``utterances[b + 1] - 1``."""
    frames: NDArray[np.int64]
    """(blocks + 1,) block b is frames ``frames[b]`` to ``frames[b + 1] - 1`` of the store."""
    windows: NDArray[np.int64]
    """(blocks + 1,) block b gives windows ``windows[b]`` to ``windows[b + 1] - 1``."""
    shard_frames: NDArray[np.int64]
    """(shards,) first frame of each shard, counted in the store."""

    @classmethod
    def of(cls, store: FrameStore, block_frames: int, chunk_frames: int = 1) -> "Blocks":
        """Group a store's utterances into blocks of about ``block_frames`` frames.

        A block ends where a multiple of ``block_frames`` is passed, or the shard. A window gives
        ``chunk_frames`` frames.
        """
        shard_utterances = np.cumsum([0] + [shard.utterances for shard in store.shards])
        shard_frames = np.cumsum([0] + [shard.frames for shard in store.shards])[:-1]
        firsts, windows_before = [], []
        group_before, num_windows = -1, 0
        for begin in range(0, store.num_utterances, _UTTERANCES_AT_ONCE):
            end = min(begin + _UTTERANCES_AT_ONCE, store.num_utterances)
            group = store.offsets[begin:end] // block_frames
            is_first = np.diff(group, prepend=group_before) != 0
            inside = (shard_utterances >= begin) & (shard_utterances < end)
            is_first[shard_utterances[inside] - begin] = True
            firsts.append(begin + np.flatnonzero(is_first))
            windows = windows_of(np.diff(store.offsets[begin : end + 1]), chunk_frames)
            windows_before.append((num_windows + np.cumsum(windows) - windows)[is_first])
            group_before, num_windows = group[-1], num_windows + int(windows.sum())
        utterances = np.concatenate([*firsts, [store.num_utterances]])
        shard = np.searchsorted(shard_utterances, utterances[:-1], side="right") - 1
        return cls(
            shard=shard.astype(np.int32),
            utterances=utterances,
            frames=store.offsets[utterances],
            windows=np.concatenate([*windows_before, [num_windows]]),
            shard_frames=shard_frames,
        )

    def __len__(self) -> int:
        return len(self.shard)


class EpochOrder:
    """Which windows each minibatch of one epoch holds.

    Attributes:
        num_frames: Number of frames of the epoch.
        num_windows: Number of windows.
        num_steps: Number of minibatches.
        num_pools: Number of pools.
        pool_begins: (num_pools + 1,) positions in the stream where the pools begin.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        seed: int,
        epoch: int,
        minibatch_size: int,
        randomizer_size: int,
        shuffle: bool = True,
    ) -> None:
        """Without ``shuffle`` the stream is the store from its first to its last window.

        Both sizes are in windows.
        """
        self.minibatch_size = minibatch_size
        self._seed, self._epoch, self._shuffle = seed, epoch, shuffle
        lengths = np.diff(blocks.windows)
        self._order = (
            self._generator().permutation(len(blocks)) if shuffle else np.arange(len(blocks))
        )
        ends = np.cumsum(lengths[self._order])
        self.num_frames, self.num_windows = int(blocks.frames[-1]), int(ends[-1])
        # Equally large pools, each a whole number of blocks: no small last one that mixes badly.
        wanted = max(1, round(self.num_windows / randomizer_size))
        marks = np.arange(1, wanted) * (self.num_windows / wanted)
        cuts = np.unique(np.searchsorted(ends, marks, side="left") + 1)
        self._pools = np.concatenate([[0], cuts[cuts < len(blocks)], [len(blocks)]])
        self.pool_begins = np.concatenate([[0], ends])[self._pools]
        self.num_pools = len(self._pools) - 1
        self.num_steps = -(-self.num_windows // minibatch_size)

    def minibatch(self, step: int) -> tuple[int, int]:
        """Positions in the stream where the minibatch of a step begins and ends."""
        return minibatch_bounds(self.num_windows, self.minibatch_size, step)

    def pool_of(self, position: int) -> int:
        """The pool that a position in the stream falls into."""
        return int(np.searchsorted(self.pool_begins, position, side="right")) - 1

    def pool_blocks(self, pool: int) -> NDArray[np.int64]:
        """Numbers of the blocks of a pool, in the order in which they are laid into it."""
        return self._order[self._pools[pool] : self._pools[pool + 1]]

    def pool_permutation(self, pool: int) -> NDArray[np.int64]:
        """The order in which the windows of a pool come."""
        size = int(self.pool_begins[pool + 1] - self.pool_begins[pool])
        return self._generator(pool).permutation(size) if self._shuffle else np.arange(size)

    def _generator(self, *pool: int) -> np.random.Generator:
        # Philox through a SeedSequence: the same numbers on every machine, for any two epochs or
        # pools independent ones.
        return np.random.Generator(np.random.Philox([self._seed, self._epoch, *pool]))
