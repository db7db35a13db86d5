"""Frame stores of any size with random content, to see how the engine's data path scales.

python scripts/synthetic_store.py store --frames 1e8                   # 16 GB of random frames
python scripts/synthetic_store.py store --frames 5e9 --sparse          # 800 GB that take 0.2
python scripts/synthetic_store.py store --measure                      # memory and speed of reading

A sparse store has holes in place of its frames and targets, which read as zeros and take no disk
space; its offsets and names are real, so that opening it and finding a minibatch costs what it
costs for real data of that size.
"""

import json
import tempfile
import time
import zlib
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import click
import numpy as np
import torch
from numpy.typing import NDArray
from process_memory import measure_peak_memory

from mariana_asr.engine.frames.frame_store import TARGET_TYPE, FrameStore, Shard, shard_files
from mariana_asr.engine.frames.packing import write_meta
from mariana_asr.engine.frames.randomizer import Randomizer
from mariana_asr.engine.frames.storage import STORAGE_TYPES, StorageName, to_storage
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.files import atomic_directory

_FRAMES_AT_ONCE = 1 << 17
_NAMES_AT_ONCE = 1 << 16
_ZEROS_AT_ONCE = 1 << 20


def write_synthetic_store(
    directory: str | Path,
    *,
    frames: int,
    dim: int = 40,
    num_outputs: int = 1000,
    storage: StorageName = "float32",
    utterance_frames: int = 500,
    shard_megabytes: int = 1024,
    sparse: bool = False,
    seed: int = 0,
) -> FrameStore:
    """Write a store of random frames and targets and open it.

    Frames are drawn from the standard normal distribution and targets uniformly; the description
    states the moments and counts of these distributions. Utterances have half to one and a half
    times ``utterance_frames``.

    Args:
        directory: Where the store is to be; replaced as a whole if it exists.
        frames: Number of frames.
        dim: Values a frame.
        num_outputs: Number of classes.
        storage: Type of a stored value.
        utterance_frames: Mean length of an utterance.
        shard_megabytes: A shard is closed once its features have this size.
        sparse: Leave holes in place of the frames and targets.
        seed: Of everything random.
    """
    rng = np.random.default_rng(seed)
    directory = Path(directory)
    offsets = _utterance_offsets(frames, utterance_frames, rng)
    row_bytes = dim * STORAGE_TYPES[storage].itemsize
    shards: list[Shard] = []
    with atomic_directory(directory) as temporary:
        first, num_utterances = 0, len(offsets) - 1
        while first < num_utterances:
            full = offsets[first] + (shard_megabytes << 20) // row_bytes
            last = min(int(np.searchsorted(offsets, full)), num_utterances)
            size = int(offsets[last] - offsets[first])
            paths = shard_files(temporary, len(shards))
            if sparse:
                sums = [
                    _write_hole(path, size * width)
                    for path, width in zip(paths, (row_bytes, TARGET_TYPE.itemsize), strict=True)
                ]
            else:
                sums = _write_random(paths, size, dim, num_outputs, storage, rng)
            shards.append(Shard(size, last - first, *sums))
            first = last
        np.save(temporary / "offsets.npy", offsets)
        np.save(temporary / "class_counts.npy", _even_counts(frames, num_outputs))
        with open(temporary / "utterances.txt", "w", encoding="utf-8") as file:
            for begin in range(0, num_utterances, _NAMES_AT_ONCE):
                numbers = range(begin, min(begin + _NAMES_AT_ONCE, num_utterances))
                file.write("".join(f"u{number}\n" for number in numbers))
        write_meta(
            temporary,
            dim=dim,
            num_outputs=num_outputs,
            storage=storage,
            shards=shards,
            mean=np.zeros(dim),
            std=np.ones(dim),
        )
    return FrameStore.open(directory)


def _utterance_offsets(frames: int, mean: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(utterances + 1,) first frame of each utterance; lengths are spread around a mean."""
    utterances = max(1, frames // mean)
    offsets = np.zeros(utterances + 1, dtype=np.int64)
    half = mean // 2
    np.cumsum(rng.integers(mean - half, mean + half + 1, utterances), out=offsets[1:])
    # Stretched to the very number of frames: the ends move by a thousandth or so.
    offsets = np.rint(offsets * (frames / offsets[-1])).astype(np.int64)
    if (np.diff(offsets) <= 0).any():
        raise ValueError(f"utterances of {mean} frames are too short")
    return offsets


def _even_counts(frames: int, num_outputs: int) -> NDArray[np.int64]:
    return np.diff(np.arange(num_outputs + 1) * frames // num_outputs)


def _write_hole(path: Path, size: int) -> int:
    """Write a file of zeros that takes no space; returns its checksum."""
    with open(path, "wb") as file:
        file.truncate(size)
    return _checksum_of_zeros(size)


def _checksum_of_zeros(size: int) -> int:
    whole, rest = divmod(size, _ZEROS_AT_ONCE)
    return zlib.crc32(bytes(rest), _checksum_of_pieces(whole))


@lru_cache
def _checksum_of_pieces(count: int) -> int:
    """Checksum of so many mebibytes of zeros; shards differ by less, so that few are asked for."""
    zeros, checksum = bytes(_ZEROS_AT_ONCE), 0
    for _ in range(count):
        checksum = zlib.crc32(zeros, checksum)
    return checksum


def _write_random(
    paths: tuple[Path, Path],
    size: int,
    dim: int,
    num_outputs: int,
    storage: StorageName,
    rng: np.random.Generator,
) -> list[int]:
    """Write a shard of random content; returns the checksums of its two files."""
    sums = [0, 0]
    with open(paths[0], "wb") as features, open(paths[1], "wb") as targets:
        files: tuple[IO[bytes], IO[bytes]] = (features, targets)
        for begin in range(0, size, _FRAMES_AT_ONCE):
            count = min(_FRAMES_AT_ONCE, size - begin)
            values = rng.standard_normal((count, dim), dtype=np.float32)
            classes = rng.integers(0, num_outputs, count, dtype=TARGET_TYPE.type)
            for which, rows in enumerate((to_storage(values, storage), classes)):
                files[which].write(rows.data)
                sums[which] = zlib.crc32(rows.data, sums[which])
    return sums


@dataclass(frozen=True)
class ReadingFigures:
    """What it costs to read a store: seconds, and memory in MiB."""

    frames: int
    open_seconds: float
    """Until the store is open, its blocks are known and so is the order of an epoch."""
    first_minibatch_seconds: float
    """From then until the first minibatch is there."""
    frames_per_second: float
    """Of the minibatches after it, made one after the other with nothing else to do."""
    start_mib: float
    """Resident memory before the store is opened."""
    peak_mib: float
    """Most resident memory; the offsets, mapped from their file, count too."""


def measure_reading(
    directory: str | Path,
    *,
    minibatches: int = 300,
    minibatch_size: int = 1024,
    randomizer_size: int = 32768,
    context: int = 5,
) -> ReadingFigures:
    """Read some minibatches of a store on the CPU in a process of its own, with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds.json"
        memory = measure_peak_memory(
            _read_minibatches,
            directory,
            minibatches,
            minibatch_size,
            randomizer_size,
            context,
            result,
        )
        seconds = json.loads(result.read_text())
    return ReadingFigures(**seconds, start_mib=memory.start, peak_mib=memory.parent)


def _read_minibatches(
    directory: str | Path,
    minibatches: int,
    minibatch_size: int,
    randomizer_size: int,
    context: int,
    result: Path,
) -> None:
    torch.set_num_threads(1)
    begin = time.perf_counter()
    store = FrameStore.open(directory)
    randomizer = Randomizer(
        store,
        left_context=context,
        right_context=context,
        minibatch_size=minibatch_size,
        randomizer_size=randomizer_size,
        seed=0,
        workers=Workers.alone(torch.device("cpu")),
    )
    randomizer.order(0)
    opened = time.perf_counter()
    frames = 0
    with closing(randomizer.epoch(0)) as made:
        next(made)
        first = time.perf_counter()
        for minibatch, _ in zip(made, range(minibatches), strict=False):
            frames += len(minibatch.targets)
    seconds = time.perf_counter() - first
    figures = {
        "frames": store.num_frames,
        "open_seconds": opened - begin,
        "first_minibatch_seconds": first - opened,
        "frames_per_second": frames / seconds,
    }
    result.write_text(json.dumps(figures))


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--frames", type=float, help="Write a store of so many frames, for example 1e8.")
@click.option("--dim", default=40, show_default=True)
@click.option("--num-outputs", default=1000, show_default=True)
@click.option("--storage", type=click.Choice(list(STORAGE_TYPES)), default="float32")
@click.option("--utterance-frames", default=500, show_default=True, help="Mean length.")
@click.option("--sparse", is_flag=True, help="Leave holes in place of frames and targets.")
@click.option("--measure", is_flag=True, help="Print memory and speed of reading as JSON.")
def main(
    directory: Path,
    frames: float | None,
    dim: int,
    num_outputs: int,
    storage: StorageName,
    utterance_frames: int,
    sparse: bool,
    measure: bool,
) -> None:
    """Write a frame store of random content, or measure how one is read, or both."""
    if frames is not None:
        begin = time.perf_counter()
        store = write_synthetic_store(
            directory,
            frames=int(frames),
            dim=dim,
            num_outputs=num_outputs,
            storage=storage,
            utterance_frames=utterance_frames,
            sparse=sparse,
        )
        seconds = time.perf_counter() - begin
        disk = sum(path.stat().st_blocks for path in directory.iterdir()) * 512 >> 20
        click.echo(
            f"{directory}: {store.num_frames} frames of {store.num_utterances} utterances in "
            f"{len(store.shards)} shards, {disk} MiB of disk, {seconds:.1f} s",
            err=True,
        )
    if measure:
        click.echo(json.dumps(asdict(measure_reading(directory)), indent=2))


if __name__ == "__main__":
    main()
