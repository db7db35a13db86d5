"""Lattices written once and read at random; damage is told."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_sequences import lattice_of, random_sequence_lattice

from mariana_asr.engine.frames.packing import pack_frames
from mariana_asr.engine.sequence.lattice_store import (
    LatticeStore,
    LatticeStoreWriter,
    write_lattices,
)
from mariana_asr.errors import DataError, FormatError, StageError

CLASSES = 7
LENGTHS = [3, 8, 1, 5, 4]


@pytest.fixture
def frames(tmp_path: Path):
    return make_frames(tmp_path / "frames")


def make_frames(folder: Path, value: float = 0.0):
    utterances = (
        (f"utt{number}", np.full((length, 2), value, dtype=np.float32), np.zeros(length, np.int32))
        for number, length in enumerate(LENGTHS)
    )
    return pack_frames(folder, utterances, num_outputs=CLASSES)


def made_lattices(numbers):
    rng = np.random.default_rng(3)
    return {n: random_sequence_lattice(rng, LENGTHS[n], CLASSES) for n in numbers}


@pytest.mark.parametrize("shard_bytes", [1, 500, 1 << 20])
def test_lattices_come_back_as_they_were(frames, tmp_path: Path, shard_bytes):
    made = made_lattices([0, 1, 3, 4])
    with LatticeStoreWriter(tmp_path / "store", frames, shard_bytes=shard_bytes) as writer:
        for number, lattice in made.items():
            writer.add(number, lattice)
    store = LatticeStore.open(tmp_path / "store")
    store.verify()
    store.check(frames)
    assert store.numbers.tolist() == [0, 1, 3, 4]
    assert store.frames.tolist() == [3, 8, 5, 4]
    assert store.num_arcs == sum(len(lattice.source) for lattice in made.values())
    for place in (2, 0, 3, 1):
        lattice, expected = store.read(place), made[int(store.numbers[place])]
        for name, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(lattice, name), values, err_msg=name)
        assert lattice.num_frames == store.frames[place]


def test_a_lattice_that_cannot_be_the_utterances_is_refused(frames, tmp_path: Path):
    short = lattice_of(3, [(0, 1, 2, 0, 0.0), (1, 2, 2, 1, 0.0)])
    with pytest.raises(DataError, match="utt0: a lattice of 2 frames and classes up to 2"):
        write_lattices(tmp_path / "store", frames, [(0, short)])
    other = lattice_of(2, [(0, 1, CLASSES, 0, 0.0)])
    with pytest.raises(DataError, match="utt2: a lattice of 1 frames and classes up to 7"):
        write_lattices(tmp_path / "store", frames, [(2, other)])
    with pytest.raises(StageError, match="a lattice of no utterance"):
        write_lattices(tmp_path / "store", frames, [])
    assert not (tmp_path / "store").exists()


def test_lattices_of_other_frames_are_refused(frames, tmp_path: Path):
    store = write_lattices(tmp_path / "store", frames, made_lattices([0, 1]).items())
    with pytest.raises(DataError, match="lattices are of other frames than those in"):
        store.check(make_frames(tmp_path / "others", value=1.0))


def test_damage_is_told(frames, tmp_path: Path):
    folder = tmp_path / "store"
    write_lattices(folder, frames, made_lattices([0, 1, 2]).items())
    shard = folder / "lattices-00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FormatError, match="checksum is wrong"):
        LatticeStore.open(folder).verify()
    shard.write_bytes(content[:-4])
    with pytest.raises(FormatError, match="torn shard"):
        LatticeStore.open(folder)
    shard.write_bytes(content)
    meta = json.loads((folder / "meta.json").read_text())
    for changed, message in (
        (meta | {"version": 2}, "version 2"),
        (meta | {"format": "x"}, "not the description"),
        ({k: v for k, v in meta.items() if k != "shards"}, "damaged lattice store"),
        (meta | {"shards": []}, "damaged lattice store"),
    ):
        (folder / "meta.json").write_text(json.dumps(changed))
        with pytest.raises(FormatError, match=message):
            LatticeStore.open(folder)
