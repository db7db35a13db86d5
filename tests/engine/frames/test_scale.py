"""A store of 5 billion frames, of which the disk holds a few: what it takes to begin an epoch."""

import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.order import Blocks, block_size
from mariana_asr.engine.frames.pool import pool_utterances
from mariana_asr.engine.frames.randomizer import Randomizer
from mariana_asr.engine.launch.workers import Workers

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
from process_memory import measure_peak_memory
from synthetic_store import measure_reading, write_synthetic_store

FRAMES, DIM = 5_000_000_000, 40


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    with open(folder / "hole", "wb") as file:
        file.truncate(1 << 30)
    if (folder / "hole").stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes in files")
    (folder / "hole").unlink()
    # Long utterances, to keep the index small; blocks are what they would be.
    return write_synthetic_store(
        folder / "store",
        frames=FRAMES,
        dim=DIM,
        storage="bfloat16",
        utterance_frames=2000,
        sparse=True,
    )


def make(store, rank=0, size=1):
    return Randomizer(
        store,
        left_context=1,
        right_context=1,
        minibatch_size=1024,
        randomizer_size=32768,
        seed=1,
        workers=Workers(rank, size, torch.device("cpu"), size),
    )


def begin_an_epoch(directory: Path) -> None:
    with closing(make(FrameStore.open(directory)).epoch(0)) as made:
        next(made)


def do_nothing(directory: Path) -> None:
    FrameStore.open(directory)


def test_memory_does_not_grow_with_the_frames(store):
    idle = measure_peak_memory(do_nothing, store.directory)
    begun = measure_peak_memory(begin_an_epoch, store.directory)
    blocks = Blocks.of(store, block_size(FRAMES, 32768))
    # Bytes of the blocks and an order, as order.py states them, the mapped offsets, and some
    # megabytes for three pools and what torch needs to begin.
    stated = (20 + 8 + 24) * len(blocks) + store.offsets.nbytes
    assert stated < 200 << 20
    assert begun.parent - idle.parent < stated / 2**20 + 100


def test_a_minibatch_of_five_billion_frames_holds_the_right_ones(store):
    source = make(store)
    order, blocks = source.order(0), source._blocks
    assert order.num_frames == FRAMES
    # Frames that tell their place in the pool are written where the first pool is read.
    numbers = order.pool_blocks(0)
    pool = np.arange(order.pool_begins[1])
    done = 0
    for number in numbers:
        shard = int(blocks.shard[number])
        begin, end = (int(frame) for frame in blocks.frames[number : number + 2])
        rows = slice(*(np.array([begin, end]) - blocks.shard_frames[shard]))
        places = pool[done : done + end - begin]
        done += end - begin
        bits = (places.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        for name, values in [
            (f"features-{shard:05d}.bin", np.repeat(bits[:, None], DIM, axis=1).astype("<u2")),
            (f"targets-{shard:05d}.bin", places.astype("<i4")),
        ]:
            with open(store.directory / name, "r+b") as file:
                file.seek(rows.start * (values.nbytes // len(values)))
                file.write(values.tobytes())
    assert done == len(pool)
    assert len(np.unique(blocks.shard[numbers])) > 5
    utterances, lengths = pool_utterances(store, blocks, numbers)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    last = np.repeat(np.cumsum(lengths) - 1, lengths)
    values = pool.astype(np.float32).view(np.uint32) & 0xFFFF0000
    values = values.astype(np.uint32).view(np.float32)
    with closing(source.epoch(0)) as made:
        minibatch = next(made)
    places = order.pool_permutation(0)[:1024]
    np.testing.assert_array_equal(minibatch.targets.numpy(), places)
    for window, neighbour in enumerate((-1, 0, 1)):
        expected = values[np.clip(places + neighbour, first[places], last[places])]
        rows = minibatch.inputs.numpy().reshape(1024, 3, DIM)[:, window]
        np.testing.assert_array_equal(rows, np.repeat(expected[:, None], DIM, axis=1))
    owners = np.searchsorted(np.cumsum(lengths), places, side="right")
    assert source.utterances_of(0, 0) == utterances[owners].tolist()
    with closing(make(store, rank=2, size=3).epoch(0)) as made:
        part = next(made)
    assert torch.equal(part.targets, minibatch.targets[part.first_row :])
    assert torch.equal(part.inputs, minibatch.inputs[part.first_row :])


def test_a_synthetic_store_is_a_whole_one(tmp_path: Path):
    for sparse in (False, True):
        store = write_synthetic_store(
            tmp_path / f"store{sparse}",
            frames=30_000,
            dim=20,
            num_outputs=7,
            storage="float16",
            utterance_frames=100,
            shard_megabytes=1,
            sparse=sparse,
        )
        store.verify()
        assert (store.num_frames, store.num_utterances, len(store.shards)) == (30_000, 300, 2)
        assert store.class_counts.sum() == 30_000
        assert store.utterance_names([0, 299]) == ["u0", "u299"]
        features, targets = zip(*map(store.read_utterance, range(300)), strict=True)
        assert abs(np.concatenate(features).std() - (not sparse)) < 0.01
        assert len(np.unique(np.concatenate(targets))) == (1 if sparse else 7)
    figures = measure_reading(tmp_path / "storeFalse", minibatches=5)
    assert figures.frames == 30_000
    assert figures.frames_per_second > 0
