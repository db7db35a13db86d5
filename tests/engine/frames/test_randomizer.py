import os
import threading
import zlib
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mariana_asr.engine.frames import frame_store
from mariana_asr.engine.frames.order import Blocks, EpochOrder, block_size
from mariana_asr.engine.frames.packing import PackOptions, pack_frames
from mariana_asr.engine.frames.pool import NO_TARGET
from mariana_asr.engine.frames.randomizer import Randomizer
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.errors import FormatError
from mariana_asr.features.splice import splice

LENGTHS = [1, 2, 3, 700, 5, 40, 41, 900, 350, 20, 1, 600, 77, 300, 2500, 13]
ORDER_CHECKSUM = 1940666760
"""CRC-32 of the frames' numbers (int64) in epoch 1, taken when the order was first laid down."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in which each frame tells its own number in the corpus, and so does its target."""

    def utterances():
        begin = 0
        for number, length in enumerate(LENGTHS):
            frames = np.arange(begin, begin + length)
            features = np.stack([frames, np.full(length, number)], axis=1).astype(np.float32)
            yield f"utt{number}", features, frames
            begin += length

    folder = tmp_path_factory.mktemp("store")
    return pack_frames(folder / "store", utterances(), num_outputs=sum(LENGTHS))


def randomizer(
    store, *, size=64, pool=1000, seed=3, left=2, right=3, chunk=1, shuffle=True, worker=(0, 1)
):
    return Randomizer(
        store,
        left_context=left,
        right_context=right,
        chunk_frames=chunk,
        minibatch_size=size,
        randomizer_size=pool,
        seed=seed,
        workers=Workers(*worker, torch.device("cpu"), worker[1]),
        shuffle=shuffle,
    )


def minibatches(source, epoch, first_step=0):
    with closing(source.epoch(epoch, first_step)) as made:
        # The next one is written over the inputs of the last.
        return [replace(minibatch, inputs=minibatch.inputs.clone()) for minibatch in made]


def test_windows_are_those_of_splicing_each_utterance(store):
    spliced = [
        splice(store.read_utterance(number)[0], 2, 3) for number in range(store.num_utterances)
    ]
    expected = np.concatenate(spliced)
    for minibatch in minibatches(randomizer(store), epoch=1):
        frames = minibatch.targets.numpy()
        np.testing.assert_array_equal(minibatch.inputs.numpy(), expected[frames])


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 1), (7, 0), (50, 60)])
def test_windows_of_any_width_are_those_of_splicing(store, left, right):
    spliced = [
        splice(store.read_utterance(number)[0], left, right)
        for number in range(store.num_utterances)
    ]
    expected = np.concatenate(spliced)
    for minibatch in minibatches(randomizer(store, left=left, right=right, size=333), epoch=0):
        np.testing.assert_array_equal(minibatch.inputs.numpy(), expected[minibatch.targets])


@pytest.mark.parametrize("chunk", [2, 7, 40, 3000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_chunks_are_stretches_of_an_utterance_with_its_edges_repeated(store, chunk, shuffle):
    left, right = 4, 2
    begins = np.cumsum([0, *LENGTHS])
    source = randomizer(
        store, left=left, right=right, chunk=chunk, size=10 * chunk, pool=900, shuffle=shuffle
    )
    seen = []
    for minibatch in minibatches(source, epoch=2):
        targets = minibatch.targets.view(len(minibatch.inputs), chunk).numpy()
        owners = source.utterances_of(2, minibatch.step)
        assert len(owners) == len(targets) <= 10
        assert minibatch.frames == minibatch.global_frames == np.count_nonzero(targets >= 0)
        for inputs, frames, owner in zip(minibatch.inputs.numpy(), targets, owners, strict=True):
            first, last = begins[owner], begins[owner + 1] - 1
            assert (frames[0] - first) % chunk == 0
            wanted = np.arange(frames[0], frames[0] + chunk)
            np.testing.assert_array_equal(frames, np.where(wanted <= last, wanted, NO_TARGET))
            window = np.arange(frames[0] - left, frames[0] + chunk + right).clip(first, last)
            np.testing.assert_array_equal(inputs.reshape(-1, 2)[:, 0], window)
        seen.append(targets[targets >= 0])
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(sum(LENGTHS)))
    assert len(seen) == source.order(2).num_steps


def test_the_order_is_the_same_as_ever(store):
    # A run that is resumed by a later version must find the frames where it left off.
    made = minibatches(randomizer(store), 1)
    frames = np.concatenate([minibatch.targets.numpy() for minibatch in made]).astype("<i8")
    assert zlib.crc32(frames.tobytes()) == ORDER_CHECKSUM


@pytest.mark.parametrize("worker", [(0, 1), (0, 3), (2, 3)])
def test_utterances_of_a_minibatch_are_found_without_reading_it(store, worker):
    source = randomizer(store, size=300, pool=500, worker=worker)
    utterance = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for minibatch in minibatches(source, 1):
        expected = utterance[minibatch.targets].tolist()
        assert source.utterances_of(1, minibatch.step) == expected


@settings(max_examples=25, deadline=None)
@given(
    workers=st.sampled_from([2, 3, 5]),
    size=st.sampled_from([1, 4, 63, 64, 700, 4000, 100_000]),
    pool=st.sampled_from([1, 300, 1000, 100_000]),
    chunk=st.sampled_from([1, 1, 3, 50]),
    shuffle=st.booleans(),
    epoch=st.integers(0, 2),
    data=st.data(),
)
def test_workers_share_out_the_minibatches_of_one(
    store, workers, size, pool, chunk, shuffle, epoch, data
):
    options = {"size": size, "pool": pool, "chunk": chunk, "shuffle": shuffle}
    alone = randomizer(store, **options)
    steps = alone.order(epoch).num_steps
    first_step = data.draw(st.integers(max(0, steps - 40), steps))
    whole = minibatches(alone, epoch, first_step)
    parts = [
        minibatches(randomizer(store, worker=(rank, workers), **options), epoch, first_step)
        for rank in range(workers)
    ]
    assert [len(part) for part in parts] == [len(whole)] * workers == [steps - first_step] * workers
    for one, *shares in zip(whole, *parts, strict=True):
        rows = 0
        for rank, share in enumerate(shares):
            part = Workers(rank, workers, torch.device("cpu"), workers).part_of(len(one.inputs))
            assert (share.first_row, share.first_row + len(share.inputs)) == (part.start, part.stop)
            assert share.step == one.step
            assert share.global_frames == one.global_frames == (one.targets >= 0).sum()
            assert share.frames == (share.targets >= 0).sum()
            assert share.first_row == rows
            rows += len(share.inputs)
        assert rows == len(one.inputs)
        assert torch.equal(torch.cat([share.inputs for share in shares]), one.inputs)
        assert torch.equal(torch.cat([share.targets for share in shares]), one.targets)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize(("size", "pool"), [(3, 1000), (64, 1000), (4000, 700), (1000, 100_000)])
def test_every_frame_comes_exactly_once_an_epoch_to_one_worker(store, workers, size, pool):
    frames = [
        minibatch.targets.numpy()
        for rank in range(workers)
        for minibatch in minibatches(
            randomizer(store, size=size, pool=pool, worker=(rank, workers)), 1
        )
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(frames)), np.arange(store.num_frames))


def test_a_worker_reads_only_the_pools_that_its_frames_are_in(store, monkeypatch):
    source = randomizer(store, size=store.num_frames, pool=100, worker=(3, 4))
    read = []
    read_pool = source._read_pool
    monkeypatch.setattr(
        source, "_read_pool", lambda order, number: read.append(number) or read_pool(order, number)
    )
    minibatches(source, 1)
    pools = source.order(1).num_pools
    assert read == list(range(read[0], read[-1] + 1))
    assert read[0] > 1
    assert read[-1] == pools - 1


@pytest.mark.parametrize(
    ("size", "pool"),
    [(1, 1000), (64, 1), (64, 1000), (64, 100_000), (100, 999), (5000, 1000), (100_000, 1000)],
)
def test_every_frame_comes_exactly_once_an_epoch(store, size, pool):
    made = minibatches(randomizer(store, size=size, pool=pool), epoch=1)
    frames = np.concatenate([minibatch.targets.numpy() for minibatch in made])
    np.testing.assert_array_equal(np.sort(frames), np.arange(store.num_frames))
    assert {len(minibatch.targets) for minibatch in made[:-2]} <= {size}


def test_order_differs_by_seed_and_epoch_and_by_nothing_else(store):
    def order(seed, epoch):
        made = minibatches(randomizer(store, seed=seed), epoch)
        return np.concatenate([minibatch.targets.numpy() for minibatch in made]).tolist()

    first = order(3, 1)
    assert order(3, 1) == first
    assert order(3, 2) != first
    assert order(4, 1) != first
    assert first != sorted(first)


def test_without_shuffling_frames_come_in_the_order_of_the_store(store):
    made = minibatches(randomizer(store, shuffle=False), 0)
    frames = np.concatenate([minibatch.targets.numpy() for minibatch in made])
    np.testing.assert_array_equal(frames, np.arange(store.num_frames))


def test_frames_of_a_minibatch_come_from_many_places(store):
    source = randomizer(store, pool=100_000)
    for step in range(10):
        assert len(set(source.utterances_of(1, step))) > 5


@pytest.mark.parametrize("first_step", [0, 1, 17, 60, 86, 87, 200])
def test_fast_forward_goes_on_as_if_the_steps_before_had_been_made(store, first_step):
    whole = minibatches(randomizer(store), 2)
    assert len(whole) == 87
    rest = minibatches(randomizer(store), 2, first_step)
    assert [m.step for m in rest] == list(range(first_step, 87))
    for one, other in zip(whole[first_step:], rest, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_all_storages_and_several_shards_give_the_same_minibatches(tmp_path: Path):
    rng = np.random.default_rng(0)
    lengths = rng.integers(100, 600, 30)
    # Small integers are exact in 16 bits, too.
    data = [
        (f"u{n}", rng.integers(0, 50, (t, 64)).astype(np.float32), rng.integers(0, 5, t))
        for n, t in enumerate(lengths)
    ]
    stores = [
        pack_frames(tmp_path / f"{storage}{size}", data, num_outputs=5, options=options)
        for storage, size in [("float32", 1024), ("float32", 1), ("float16", 1), ("bfloat16", 1)]
        for options in [PackOptions(storage=storage, shard_megabytes=size)]
    ]
    assert [len(store.shards) for store in stores] == [1, 3, 2, 2]
    everything = np.concatenate([splice(features, 2, 3) for _, features, _ in data])
    epochs = [minibatches(randomizer(store, shuffle=False), 0) for store in stores]
    for first, *others in zip(*epochs, strict=True):
        begin = first.step * 64 if first.step < len(epochs[0]) - 1 else -len(first.targets)
        if begin >= 0:
            expected = everything[begin : begin + len(first.targets)]
        else:
            expected = everything[begin:]
        np.testing.assert_array_equal(first.inputs.numpy(), expected)
        for other in others:
            assert other.inputs.dtype == torch.float32
            assert torch.equal(first.inputs, other.inputs)
            assert torch.equal(first.targets, other.targets)


def test_more_shards_than_may_be_open_are_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(frame_store, "MAX_OPEN_SHARDS", 2)
    data = [(f"u{n}", np.full((600, 512), n, dtype=np.float32), np.full(600, n)) for n in range(7)]
    store = pack_frames(
        tmp_path / "store", data, num_outputs=7, options=PackOptions(shard_megabytes=1)
    )
    assert len(store.shards) == 7
    for minibatch in minibatches(randomizer(store, pool=100_000, left=0, right=0), 1):
        assert (minibatch.inputs == minibatch.targets[:, None]).all()
    assert len(store._files) == 2


def test_a_shard_cut_short_while_it_is_read_ends_the_epoch(tmp_path: Path):
    data = [("u", np.zeros((600, 5), dtype=np.float32), np.zeros(600, dtype=np.int32))]
    store = pack_frames(tmp_path / "store", data, num_outputs=7)
    os.truncate(tmp_path / "store" / "features-00000.bin", 1000)
    with pytest.raises(FormatError, match=r"features-00000.bin: torn shard"):
        minibatches(randomizer(store), 1)


def test_a_reader_that_fails_ends_the_epoch_with_its_error(store, monkeypatch):
    source = randomizer(store)
    monkeypatch.setattr(
        source, "_read_pool", lambda *_: (_ for _ in ()).throw(OSError("unplugged"))
    )
    with pytest.raises(OSError, match="unplugged"):
        minibatches(source, 1)


def test_leaving_an_epoch_early_ends_its_thread(store):
    threads = threading.active_count()
    with closing(randomizer(store).epoch(1)) as made:
        next(made)
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    size=st.integers(1, 700),
    pool=st.integers(1, 5000),
    epoch=st.integers(0, 3),
)
def test_minibatches_are_equally_large_and_cover_the_stream(lengths, size, pool, epoch):
    frames = np.concatenate([[0], np.cumsum(lengths)])
    zeros = np.zeros(len(lengths), dtype=np.int32)
    blocks = Blocks(zeros, np.arange(len(lengths) + 1), frames, frames, np.zeros(1, dtype=int))
    order = EpochOrder(blocks, seed=1, epoch=epoch, minibatch_size=size, randomizer_size=pool)
    bounds = [order.minibatch(step) for step in range(order.num_steps)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == sum(lengths)
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    sizes = [end - begin for begin, end in bounds]
    assert set(sizes[:-2]) <= {size}
    assert all(size / 2 <= length <= size for length in sizes[-2:]) or len(sizes) == 1
    # Pools are whole blocks, all of them, each once; none is empty.
    laid = np.concatenate([order.pool_blocks(number) for number in range(order.num_pools)])
    assert sorted(laid.tolist()) == list(range(len(lengths)))
    assert (np.diff(order.pool_begins) > 0).all()
    for number in range(order.num_pools):
        begin, end = order.pool_begins[number : number + 2]
        assert sum(lengths[block] for block in order.pool_blocks(number)) == end - begin
        assert order.pool_of(begin) == order.pool_of(end - 1) == number
        assert sorted(order.pool_permutation(number).tolist()) == list(range(end - begin))
    assert max(np.diff(order.pool_begins)) <= 1.5 * pool + max(lengths)


@pytest.mark.parametrize("block_frames", [1, 100, 2048])
def test_blocks_are_whole_utterances_in_one_shard(tmp_path: Path, block_frames):
    rng = np.random.default_rng(0)
    data = [
        (f"u{n}", np.zeros((t, 512), dtype=np.float32), np.zeros(t, dtype=np.int32))
        for n, t in enumerate(rng.integers(1, 600, 20))
    ]
    store = pack_frames(
        tmp_path / "store", data, num_outputs=1, options=PackOptions(shard_megabytes=1)
    )
    blocks = Blocks.of(store, block_frames)
    assert blocks.utterances[0] == 0
    assert blocks.utterances[-1] == 20
    assert blocks.frames.tolist() == store.offsets[blocks.utterances].tolist()
    shard_ends = np.cumsum([shard.frames for shard in store.shards])
    for number in range(len(blocks)):
        begin, end = blocks.frames[number : number + 2]
        assert begin >= blocks.shard_frames[blocks.shard[number]]
        assert end <= shard_ends[blocks.shard[number]]
    if block_frames == 1:
        assert len(blocks) == 20


def test_small_stores_are_mixed_by_utterances_and_large_ones_read_at_a_stretch():
    assert block_size(250_000, 32768) == 61
    assert block_size(5_000_000_000, 32768) == 2048
    assert block_size(5_000_000_000, 1000) == 62
