"""The parts of scripts/bench_engine.py that measure the engine in one process."""

import os
import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engine_bench import Bench, Rows, table_of
from engine_rates import (
    LARGE,
    SMALL,
    NetworkSize,
    bare_rate,
    computing_threads,
    engine_rate,
    interleaved,
    loader_rate,
    matrix_rate,
    median_ratio,
    train_options,
)
from engine_workers import Setting, speed_up
from synthetic_store import measure_reading, write_synthetic_store

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.storage import StorageName
from mariana_asr.engine.options import EngineOptions, TrainOptions
from mariana_asr.parallel import available_cores

CPU = torch.device("cpu")
GPU = torch.device("cuda")

KALDI_RATE = 12_000
"""Frames a second of Kaldi's nnet-train-frmshuff with SMALL and minibatch 256 ..."""
KALDI_MATRIX_RATE = 350e9
"""... on two cores whose float32 matrix product reaches so many operations a second."""

MINIBATCHES = (256, 1024, 2048)

FLOAT32_FRAMES_MAX = 10**7
"""Larger stores have 16-bit values, so that they fit on a disk."""


def engine_beside_bare_loop(bench: Bench) -> tuple[Rows, str]:
    """Part a: the engine over a bare loop, and its rate beside the machine's."""
    own = bench.settings
    rows = []
    cores = available_cores()
    for threads in (cores,) if own.quick or cores == 1 else (1, cores):
        for minibatch in (1024,) if own.quick else MINIBATCHES:
            with computing_threads(threads):
                rows.append(_beside_bare_loop(bench, minibatch))
    if not own.quick:
        for options in ({"precision": "bfloat16"}, {"compile": True}):
            with computing_threads(cores):
                rows.append(_beside_bare_loop(bench, 1024, EngineOptions(**options)))
    table = table_of(
        rows,
        {
            "threads": "d",
            "minibatch": ",d",
            "precision": "s",
            "compiled": "",
            "engine, frames/s": ",.0f",
            "bare loop, frames/s": ",.0f",
            "engine over bare loop": ".3f",
            "matrix product, GFLOP/s": ".0f",
            "engine, GFLOP/s": ".0f",
            "share": ".0%",
            "at 350 GFLOP/s, frames/s": ",.0f",
            "of Kaldi's": ".2f",
        },
    )
    return rows, table + (
        "\n\nOperations: 6 a weight and frame, less 2 for the first layer's, whose inputs need no"
        f" gradient: {SMALL.flops_per_frame:,} for {SMALL}. Share: of the float32 matrix product"
        " (2048 x 2048) with the same threads, measured in turns with the rates. The last two"
        f" columns are a normalisation, not a measurement: the rate times {KALDI_MATRIX_RATE:.3g}"
        " over this machine's matrix product, to compare with Kaldi's"
        f" {KALDI_RATE:,} frames/s on a machine of that speed."
    )


def _beside_bare_loop(
    bench: Bench, minibatch: int, engine: EngineOptions | None = None
) -> dict[str, Any]:
    own, engine = bench.settings, engine or EngineOptions()
    options, stores = train_options(minibatch), bench.stores()
    rates = interleaved(
        {
            "matrix": partial(matrix_rate, CPU, torch.float32, 2048, own.seconds / 4),
            "bare": partial(bare_rate, SMALL, minibatch, own.seconds, CPU, engine),
            "engine": partial(_engine_frames, SMALL, stores, options, own.seconds, CPU, engine),
        },
        own.rounds,
    )
    rate = statistics.median(rates["engine"])
    matrix = statistics.median(rates["matrix"])
    flops = SMALL.flops_per_frame
    normalised = KALDI_MATRIX_RATE * median_ratio(rates["engine"], rates["matrix"])
    return {
        "threads": torch.get_num_threads(),
        "minibatch": minibatch,
        "precision": engine.precision,
        "compiled": engine.compile,
        "engine, frames/s": rate,
        "bare loop, frames/s": statistics.median(rates["bare"]),
        "engine over bare loop": median_ratio(rates["engine"], rates["bare"]),
        "matrix product, GFLOP/s": matrix / 1e9,
        "engine, GFLOP/s": rate * flops / 1e9,
        "share": flops * median_ratio(rates["engine"], rates["matrix"]),
        "at 350 GFLOP/s, frames/s": normalised,
        "of Kaldi's": normalised / KALDI_RATE,
        "rounds": rates,
    }


def _engine_frames(
    size: NetworkSize,
    stores: tuple[FrameStore, FrameStore],
    options: TrainOptions,
    seconds: float,
    device: torch.device,
    engine: EngineOptions | None = None,
) -> float:
    return engine_rate(size, stores, options, seconds, device, engine).frames_per_second


def engine_beside_data_loader(bench: Bench) -> tuple[Rows, str]:
    """Part b: the engine over a plain DataLoader whose workers splice each frame."""
    own = bench.settings
    rows = []
    stores, cores = bench.stores(), available_cores()
    for minibatch in (1024,) if own.quick else MINIBATCHES:
        options = train_options(minibatch)
        rates = interleaved(
            {
                "loader": partial(loader_rate, SMALL, stores[0], minibatch, own.seconds, cores),
                "engine": partial(_engine_frames, SMALL, stores, options, own.seconds, CPU),
            },
            own.rounds,
        )
        rows.append(
            {
                "threads": torch.get_num_threads(),
                "loader's workers": cores,
                "minibatch": minibatch,
                "engine, frames/s": statistics.median(rates["engine"]),
                "DataLoader, frames/s": statistics.median(rates["loader"]),
                "engine over DataLoader": median_ratio(rates["engine"], rates["loader"]),
                "rounds": rates,
            }
        )
    return rows, table_of(
        rows,
        {
            "threads": "d",
            "loader's workers": "d",
            "minibatch": ",d",
            "engine, frames/s": ",.0f",
            "DataLoader, frames/s": ",.0f",
            "engine over DataLoader": ".2f",
        },
    )


def sizes_of_store(bench: Bench) -> tuple[Rows, str]:
    """Part f: the data path alone and the engine, as the store grows; files are read from disk."""
    own = bench.settings
    rows = []
    frames = 10**5
    while frames <= own.frames_max:
        storage: StorageName = "float32" if frames <= FLOAT32_FRAMES_MAX else "bfloat16"
        folder = bench.work / f"frames_{frames}"
        store = write_synthetic_store(
            folder,
            frames=frames,
            dim=SMALL.frame_dim,
            num_outputs=SMALL.num_outputs,
            storage=storage,
        )
        try:
            drop_from_memory(folder)
            reading = measure_reading(folder)
            drop_from_memory(folder)
            options = train_options(1024)
            rate = engine_rate(SMALL, (store, bench.held_out()), options, own.seconds, CPU)
        finally:
            shutil.rmtree(folder)
        rows.append(
            {
                "frames": frames,
                "storage": storage,
                "open, s": reading.open_seconds,
                "first minibatch, s": reading.first_minibatch_seconds,
                "data path alone, frames/s": reading.frames_per_second,
                "its peak memory, MiB": reading.peak_mib,
                "engine, frames/s": rate.frames_per_second,
                "engine waits for data": rate.data_wait_share,
            }
        )
        frames *= 10
    return rows, table_of(
        rows,
        {
            "frames": ",d",
            "storage": "s",
            "open, s": ".3f",
            "first minibatch, s": ".3f",
            "data path alone, frames/s": ",.0f",
            "its peak memory, MiB": ",.0f",
            "engine, frames/s": ",.0f",
            "engine waits for data": ".1%",
        },
    )


def drop_from_memory(folder: Path) -> None:
    """Let the system forget what it keeps in memory of a folder's files."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def gpu(bench: Bench) -> tuple[Rows, str]:
    """Part g: the large network in bfloat16 on a GPU, and on all GPUs of this host."""
    own = bench.settings
    rows = []
    train = bench.store("train_gpu", 2**22, LARGE, "bfloat16")
    stores = train, bench.held_out(LARGE)
    for minibatch in (8192,) if own.quick else (8192, 16384, 32768):
        for compiled in (False,) if own.quick else (False, True):
            engine = EngineOptions(precision="bfloat16", compile=compiled)
            options = train_options(minibatch)
            rates = interleaved(
                {
                    "matrix": partial(matrix_rate, GPU, torch.bfloat16, 8192, own.seconds / 4),
                    "bare": partial(bare_rate, LARGE, minibatch, own.seconds, GPU, engine),
                    "engine": partial(
                        _engine_frames, LARGE, stores, options, own.seconds, GPU, engine
                    ),
                },
                own.rounds,
            )
            flops = LARGE.flops_per_frame
            rows.append(
                {
                    "minibatch": minibatch,
                    "compiled": compiled,
                    "engine, frames/s": statistics.median(rates["engine"]),
                    "engine over bare loop": median_ratio(rates["engine"], rates["bare"]),
                    "matrix product, TFLOP/s": statistics.median(rates["matrix"]) / 1e12,
                    "share": flops * median_ratio(rates["engine"], rates["matrix"]),
                    "rounds": rates,
                }
            )
    table = table_of(
        rows,
        {
            "minibatch": ",d",
            "compiled": "",
            "engine, frames/s": ",.0f",
            "engine over bare loop": ".3f",
            "matrix product, TFLOP/s": ".0f",
            "share": ".1%",
        },
    )
    count = torch.cuda.device_count()
    if count > 1:
        one, several = (
            Setting(n, None, 8192 * count, device="cuda", precision="bfloat16") for n in (1, count)
        )
        folders = train.directory, bench.held_out(LARGE).directory
        row = speed_up((one, several), LARGE, *folders, rounds=own.rounds)
        rows.append(row)
        table += "\n\n" + table_of(
            [row],
            {
                "workers": "d",
                "minibatch_size": ",d",
                "one": ",.0f",
                "several": ",.0f",
                "speed_up": ".3f",
            },
        )
    return rows, table
