"""Utterances are dealt out as a function of seed, epoch and step."""

from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from sequence_tasks import make_data

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.sequence.source import UtteranceOrder, UtteranceSource


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), seed=1, utterances=23)


def source(data, *, rank=0, size=1, seed=5, shuffle=True):
    workers = Workers(rank, size, torch.device("cpu"), size)
    return UtteranceSource(data, utterances_per_step=6, seed=seed, workers=workers, shuffle=shuffle)


def minibatches(made, epoch, first_step=0):
    with closing(made.epoch(epoch, first_step)) as found:
        return list(found)


def numbers(found):
    return [[utterance.number for utterance in minibatch.utterances] for minibatch in found]


def test_every_utterance_with_a_lattice_comes_once_an_epoch(data):
    made = source(data)
    found = minibatches(made, 1)
    assert [len(minibatch.utterances) for minibatch in found] == [6, 6, 4, 3]
    assert sorted(flat(numbers(found))) == data.lattices.numbers.tolist()
    assert sum(minibatch.frames for minibatch in found) == made.order(1).num_frames
    for minibatch in found:
        for utterance in minibatch.utterances:
            frames, targets = data.frames.read_utterance(utterance.number)
            np.testing.assert_array_equal(utterance.frames.numpy(), frames)
            np.testing.assert_array_equal(utterance.targets.numpy(), targets)
            assert utterance.lattice.num_frames == len(frames)


def test_the_order_is_another_one_for_each_epoch_and_seed_and_the_same_again(data):
    orders = [
        numbers(minibatches(source(data, seed=seed), epoch))
        for seed, epoch in ((5, 1), (5, 1), (5, 2), (6, 1))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    unshuffled = numbers(minibatches(source(data, shuffle=False), 0))
    assert flat(unshuffled) == data.lattices.numbers.tolist()


def test_an_epoch_may_begin_at_any_step(data):
    whole = numbers(minibatches(source(data), 3))
    for step in range(5):
        assert numbers(minibatches(source(data), 3, step)) == whole[step:]


def flat(lists):
    return list(chain.from_iterable(lists))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_workers_share_out_the_minibatches_of_one(data, size):
    whole = minibatches(source(data), 2)
    parts = [minibatches(source(data, rank=rank, size=size), 2) for rank in range(size)]
    for step, minibatch in enumerate(whole):
        mine = [part[step] for part in parts]
        assert sorted(flat(numbers(mine))) == sorted(numbers([minibatch])[0])
        assert sum(part.frames for part in mine) == minibatch.frames
        assert {part.global_frames for part in mine} == {minibatch.frames}
        assert {part.step for part in mine} == {step}


def test_workers_get_about_as_many_frames():
    frames = np.array([100, 10, 20, 30, 40, 50, 30, 20])
    order = UtteranceOrder(frames, size=8, seed=0, epoch=0, shuffle=False)
    assert [frames[order.part(0, rank, 3)].sum() for rank in range(3)] == [100, 100, 100]


def test_pieces_are_all_of_a_part(data):
    for minibatch in minibatches(source(data), 1):
        for count in (1, 3, 10):
            pieces = [piece for _, (piece,) in minibatch.pieces(count)]
            assert len(pieces) == count
            assert flat(pieces) == minibatch.utterances


def test_a_reader_that_fails_says_so(data, tmp_path: Path, monkeypatch):
    def fail(place):
        raise OSError("no disk")

    monkeypatch.setattr(data.lattices, "read", fail)
    with pytest.raises(OSError, match="no disk"):
        minibatches(source(data), 1)
