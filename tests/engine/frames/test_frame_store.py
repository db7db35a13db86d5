from pathlib import Path

import numpy as np
import pytest
import torch

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.packing import FrameStoreWriter, PackOptions, pack_frames
from mariana_asr.engine.frames.storage import from_storage, to_storage
from mariana_asr.errors import DataError, FormatError, StageError


def utterances(count, dim=5, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        length = int(rng.integers(1, 60))
        features = rng.standard_normal((length, dim)).astype(np.float32)
        yield f"utt{number:03d}", features, rng.integers(0, classes, length)


def one(length=10, dim=5, targets=None):
    features = np.arange(length * dim, dtype=np.float32).reshape(length, dim)
    return features, np.zeros(length, dtype=np.int32) if targets is None else np.array(targets)


@pytest.mark.parametrize("shard_megabytes", [1, 1024])
def test_what_was_packed_is_read_back(tmp_path: Path, shard_megabytes):
    packed = list(utterances(40, dim=500))
    store = pack_frames(
        tmp_path / "store",
        packed,
        num_outputs=np.int64(9),
        options=PackOptions(shard_megabytes=shard_megabytes),
    )
    assert (len(store.shards) > 1) == (shard_megabytes == 1)
    store.verify()
    assert store.utterance_names([3, 1]) == ["utt001", "utt003"]
    for number, (_, features, targets) in enumerate(packed):
        read, read_targets = store.read_utterance(number)
        np.testing.assert_array_equal(read, features)
        np.testing.assert_array_equal(read_targets, targets)
    everything = np.concatenate([features for _, features, _ in packed]).astype(np.float64)
    np.testing.assert_allclose(store.mean, everything.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(store.std, everything.std(axis=0), atol=1e-9)
    counts = np.bincount(np.concatenate([targets for _, _, targets in packed]), minlength=9)
    np.testing.assert_array_equal(store.class_counts, counts)
    assert (tmp_path / "store" / "skipped.txt").read_text() == ""


def test_half_precision_storage_halves_the_file_and_keeps_eleven_bits(tmp_path: Path):
    packed = list(utterances(5))
    single = pack_frames(tmp_path / "single", packed, num_outputs=7)
    half = pack_frames(
        tmp_path / "half", packed, num_outputs=7, options=PackOptions(storage="float16")
    )
    sizes = [(s.directory / "features-00000.bin").stat().st_size for s in (single, half)]
    assert sizes[0] == 2 * sizes[1]
    np.testing.assert_allclose(half.read_utterance(0)[0], packed[0][1], rtol=2**-11, atol=1e-7)
    assert half.fingerprint != single.fingerprint


def test_bfloat16_is_rounded_to_nearest_even_as_torch_does(tmp_path: Path):
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    # Ties, the largest values that do not become infinite, the first that do, and the smallest.
    special = [0x3F808000, 0x3F818000, 0x7F7F7FFF, 0x7F7F8000, 0xFF7FFFFF, 1, 0x8000, 0x8001]
    special += [0x7F800000, 0xFF800000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x80000000]
    values = np.concatenate([bits, np.array(special, dtype=np.uint32)]).view(np.float32)
    ours = from_storage(to_storage(values, "bfloat16"), "bfloat16")
    theirs = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(values))
    np.testing.assert_array_equal(ours, theirs)
    known = ~np.isnan(values)
    np.testing.assert_array_equal(np.signbit(ours[known]), np.signbit(theirs[known]))


def test_bfloat16_store_keeps_large_values_and_refuses_what_is_not_finite(tmp_path: Path):
    features, targets = one(10)
    bad = {}
    for name, value in [("nan", np.nan), ("inf", np.inf), ("rounds_to_inf", 3.4e38)]:
        bad[name] = features.copy()
        bad[name][3, 2] = value
    store = pack_frames(
        tmp_path / "store",
        [
            ("huge", features * 1e30, targets),
            *((name, rows, targets) for name, rows in bad.items()),
        ],
        num_outputs=1,
        options=PackOptions(storage="bfloat16"),
    )
    assert store.num_utterances == 1
    listed = (tmp_path / "store" / "skipped.txt").read_text().splitlines()
    assert sorted(line.split()[0] for line in listed) == sorted(bad)
    assert all("1 of 10 frames hold NaN or infinite values as bfloat16" in line for line in listed)
    size = (tmp_path / "store" / "features-00000.bin").stat().st_size
    assert size == features.size * 2
    read = store.read_utterance(0)[0]
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, features * 1e30, rtol=2**-8)
    np.testing.assert_allclose(store.mean, read.astype(np.float64).mean(axis=0))
    store.verify()


def test_a_few_frames_of_difference_are_cut_and_counted(tmp_path: Path):
    features, _ = one(10)
    with FrameStoreWriter(tmp_path / "store", num_outputs=2) as writer:
        assert writer.add("shorter", features, np.zeros(6, dtype=np.int32))
        assert writer.add("longer", features, np.ones(14, dtype=np.int32))
        # Kaldi's nnet1 --length-tolerance=5 refuses a difference of 5 as well.
        assert not writer.add("five", features, np.zeros(15, dtype=np.int32))
    assert writer.num_truncated == 2
    assert writer.class_counts.tolist() == [6, 10]
    reason = writer.skipped.reasons["five"]
    assert "10 frames of features" in reason
    assert "15 targets" in reason
    store = FrameStore.open(tmp_path / "store")
    assert [len(store.read_utterance(n)[1]) for n in (0, 1)] == [6, 10]


def test_unusable_utterances_are_skipped_with_a_reason(tmp_path: Path):
    features, targets = one(10)
    broken = features.copy()
    broken[3, 2] = np.nan
    store = pack_frames(
        tmp_path / "store",
        [
            ("good", features, targets),
            ("nan", broken, targets),
            ("wide", *one(10, dim=6)),
            ("empty", np.zeros((0, 5), dtype=np.float32), np.zeros(0, dtype=np.int32)),
            ("flat", np.zeros(10, dtype=np.float32), targets),
            ("huge", features * 1e4, targets),
        ],
        num_outputs=1,
        options=PackOptions(storage="float16"),
    )
    assert store.num_utterances == 1
    listed = dict(
        line.split(" ", 1) for line in (tmp_path / "store/skipped.txt").read_text().splitlines()
    )
    assert sorted(listed) == ["empty", "flat", "huge", "nan", "wide"]
    assert "1 of 10 frames" in listed["nan"]
    assert "6 dimensions, others have 5" in listed["wide"]
    assert "float16" in listed["huge"]


def test_a_target_that_is_no_class_stops_the_packing_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(DataError, match=r"utterance b: target 7 is not one of the 3 classes"):
        pack_frames(
            tmp_path / "store", [("a", *one(4)), ("b", *one(2, targets=[0, 7]))], num_outputs=3
        )
    with pytest.raises(DataError, match="target -1"):
        pack_frames(tmp_path / "store", [("b", *one(2, targets=[0, -1]))], num_outputs=3)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_usable_utterances_is_an_error_that_says_why(tmp_path: Path):
    with pytest.raises(
        StageError, match=r"none of 1 utterances.*gone 10 frames of features but 99"
    ):
        pack_frames(
            tmp_path / "store", [("gone", one(10)[0], np.zeros(99, dtype=int))], num_outputs=3
        )
    with pytest.raises(StageError, match="none of 0 utterances"):
        pack_frames(tmp_path / "store", [], num_outputs=3)
    assert not (tmp_path / "store").exists()


def test_a_failed_packing_leaves_the_old_store_as_it_was(tmp_path: Path):
    before = pack_frames(tmp_path / "store", utterances(3), num_outputs=7)

    def failing():
        yield from utterances(2, seed=1)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        pack_frames(tmp_path / "store", failing(), num_outputs=7)
    after = FrameStore.open(tmp_path / "store")
    after.verify()
    assert after.fingerprint == before.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("name", ["features-00000.bin", "targets-00000.bin", "offsets.npy"])
def test_a_torn_or_missing_file_is_noticed_on_opening(tmp_path: Path, name):
    pack_frames(tmp_path / "store", utterances(3), num_outputs=7)
    path = tmp_path / "store" / name
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(FormatError, match="store"):
        FrameStore.open(tmp_path / "store")
    path.unlink()
    with pytest.raises(FormatError, match=name):
        FrameStore.open(tmp_path / "store")


def test_a_flipped_bit_is_found_by_verify(tmp_path: Path):
    store = pack_frames(tmp_path / "store", utterances(3), num_outputs=7)
    path = tmp_path / "store" / "targets-00000.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"targets-00000.bin: the file's checksum is wrong"):
        store.verify()


@pytest.mark.parametrize(
    "meta",
    [
        "not json",
        "[]",
        '{"format": "something else"}',
        '{"format": "mariana-asr frame store", "version": 9}',
        '{"format": "mariana-asr frame store", "version": 1}',
    ],
)
def test_a_foreign_description_is_refused(tmp_path: Path, meta):
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(FormatError):
        FrameStore.open(tmp_path)


def test_a_missing_store_is_refused(tmp_path: Path):
    with pytest.raises(FormatError, match="no such file"):
        FrameStore.open(tmp_path / "nowhere")


def test_an_utterance_that_is_not_there_is_an_error(tmp_path: Path):
    store = pack_frames(tmp_path / "store", utterances(3), num_outputs=7)
    with pytest.raises(DataError, match="no utterance 3; there are 3"):
        store.read_utterance(3)
