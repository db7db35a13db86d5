import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mariana_asr.engine.frames.order import Blocks, EpochOrder, block_size
from mariana_asr.engine.frames.packing import PackOptions, pack_frames
from mariana_asr.engine.frames.randomizer import Randomizer
from mariana_asr.features.splice import splice

LENGTHS = [1, 2, 3, 700, 5, 40, 41, 900, 350, 20, 1, 600, 77, 300, 2500, 13]


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


def randomizer(store, *, size=64, pool=1000, seed=3, left=2, right=3, shuffle=True):
    return Randomizer(
        store,
        left_context=left,
        right_context=right,
        minibatch_size=size,
        randomizer_size=pool,
        seed=seed,
        device=torch.device("cpu"),
        shuffle=shuffle,
    )


def minibatches(source, epoch, first_step=0):
    with closing(source.epoch(epoch, first_step)) as made:
        return list(made)


def test_windows_are_those_of_splicing_each_utterance(store):
    spliced = [
        splice(store.read_utterance(number)[0], 2, 3) for number in range(store.num_utterances)
    ]
    expected = np.concatenate(spliced)
    utterance = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for minibatch in minibatches(randomizer(store), epoch=1):
        frames = minibatch.targets.numpy()
        np.testing.assert_array_equal(minibatch.inputs.numpy(), expected[frames])
        np.testing.assert_array_equal(minibatch.utterances, utterance[frames])


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
    for minibatch in minibatches(randomizer(store, pool=100_000), 1)[:10]:
        assert len(set(minibatch.utterances.tolist())) > 5


@pytest.mark.parametrize("first_step", [0, 1, 17, 60, 86, 87, 200])
def test_fast_forward_goes_on_as_if_the_steps_before_had_been_made(store, first_step):
    whole = minibatches(randomizer(store), 2)
    assert len(whole) == 87
    rest = minibatches(randomizer(store), 2, first_step)
    assert [m.step for m in rest] == list(range(first_step, 87))
    for one, other in zip(whole[first_step:], rest, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_half_precision_and_several_shards_give_the_same_minibatches(tmp_path: Path):
    rng = np.random.default_rng(0)
    lengths = rng.integers(100, 600, 30)
    # Small integers are exact in float16.
    data = [
        (f"u{n}", rng.integers(0, 50, (t, 64)).astype(np.float32), rng.integers(0, 5, t))
        for n, t in enumerate(lengths)
    ]
    stores = [
        pack_frames(tmp_path / f"{storage}{size}", data, num_outputs=5, options=options)
        for storage, size in [("float32", 1), ("float16", 1), ("float32", 1024)]
        for options in [PackOptions(storage=storage, shard_megabytes=size)]
    ]
    assert [len(store.shards) for store in stores] == [3, 2, 1]
    epochs = [minibatches(randomizer(store, shuffle=False), 0) for store in stores]
    for one, half, whole in zip(*epochs, strict=True):
        assert half.inputs.dtype == torch.float32
        assert torch.equal(one.inputs, half.inputs)
        assert torch.equal(one.inputs, whole.inputs)


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
    blocks = Blocks(zeros, np.arange(len(lengths) + 1), frames, np.zeros(1, dtype=np.int64))
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
