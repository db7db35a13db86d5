"""Frames a second, exchange and memory of several workers, through the engine's launcher."""

import json
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from engine_model import Link
from engine_rates import SMALL, NetworkSize, bare_rate, median_ratio, train_options
from process_memory import measure_peak_memory

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.options import EngineOptions
from mariana_asr.engine.training.summary import LOG_FILE
from mariana_asr.engine.training.train import train_network

MEASURED_EPOCHS = 2
PLAIN = "allreduce"

EXCHANGES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "bf16": {"exchange": {"type": "bf16"}},
    "fp16": {"exchange": {"type": "fp16"}},
    "powersgd, rank 4": {"exchange": {"type": "powersgd", "start_step": 2}},
    "sharded": {"exchange": {"type": "sharded"}},
    "local_sgd, 8 steps": {"exchange": {"type": "local_sgd"}},
    "bmuf, 16 steps": {"exchange": {"type": "bmuf"}},
    "allreduce, adagrad": {"optimiser": {"type": "adagrad"}},
    "allreduce, adagrad, exact": {"optimiser": {"type": "adagrad", "squares": "exact"}},
    "sharded, adagrad": {"exchange": {"type": "sharded"}, "optimiser": {"type": "adagrad"}},
    "sharded, adagrad, exact": {
        "exchange": {"type": "sharded"},
        "optimiser": {"type": "adagrad", "squares": "exact"},
    },
    "allreduce, 4 workers": {"workers": 4},
    "hierarchical, 2 hosts of 2 workers": {
        "workers": 4,
        "exchange": {"type": "hierarchical", "workers_per_host": 2},
    },
}
"""What is compared: options that differ from SGD, all-reduce and as many workers as asked for."""


@dataclass(frozen=True)
class Setting:
    """How workers train.

    Attributes:
        workers: How many processes.
        threads: Of each, on a CPU.
        minibatch_size: Frames of a step, of all workers together.
        exchange: Its options.
        optimiser: Its options.
        device: ``cpu`` or ``cuda``.
        precision: As in EngineOptions.
    """

    workers: int
    threads: int | None
    minibatch_size: int
    exchange: dict[str, Any] | None = None
    optimiser: dict[str, Any] | None = None
    device: str = "cpu"
    precision: str = "float32"

    def engine(self) -> EngineOptions:
        """The options of the engine."""
        return EngineOptions.model_validate(
            {
                "workers": self.workers,
                "threads": self.threads,
                "device": self.device,
                "precision": self.precision,
                "exchange": self.exchange or {"type": "allreduce"},
            }
        )


def train_epochs(
    setting: Setting, size: NetworkSize, train_dir: Path, held_out_dir: Path, epochs: int
) -> list[dict[str, Any]]:
    """Train as a user does; returns the log's records of the epochs but the first.

    In the first one memory is allocated, and gradients are exchanged in full before powersgd.
    """
    options = train_options(setting.minibatch_size, epochs=epochs + 1)
    if setting.optimiser is not None:
        options = options.model_validate(
            {**options.model_dump(), "optimiser": setting.optimiser, "learning_rate": 1e-4}
        )
    with tempfile.TemporaryDirectory() as folder:
        stores = FrameStore.open(train_dir), FrameStore.open(held_out_dir)
        train_network(size.network(), *stores, options, folder, setting.engine())
        lines = (Path(folder) / LOG_FILE).read_text().splitlines()
    return [json.loads(line) for line in lines[2:]]


def speed_up(
    settings: tuple[Setting, Setting],
    size: NetworkSize,
    train_dir: Path,
    held_out_dir: Path,
    *,
    rounds: int,
    epochs: int = MEASURED_EPOCHS,
) -> dict[str, Any]:
    """How many times as fast the second setting is as the first, in interleaved rounds."""
    rates: tuple[list[float], list[float]] = ([], [])
    records: list[dict[str, Any]] = []
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            found = train_epochs(settings[which], size, train_dir, held_out_dir, epochs)
            rates[which].append(statistics.median(r["frames_per_second"] for r in found))
            if which == 1:
                records += found
    return {
        "workers": settings[1].workers,
        "threads": settings[1].threads,
        "minibatch_size": settings[1].minibatch_size,
        "one": statistics.median(rates[0]),
        "several": statistics.median(rates[1]),
        "speed_up": median_ratio(rates[1], rates[0]),
        "rounds": rates,
        **_medians(records, ("data_wait_share", "exchange_wait_share", "exchange_overlap")),
    }


def compare_exchanges(
    setting: Setting,
    size: NetworkSize,
    train_dir: Path,
    held_out_dir: Path,
    names: list[str],
) -> list[dict[str, Any]]:
    """What each exchange sends, how long it takes, and how fast training is."""
    records: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        own = Setting(**{**vars(setting), **EXCHANGES[name]})
        records[name] = train_epochs(own, size, train_dir, held_out_dir, MEASURED_EPOCHS)
    columns = (
        "workers",
        "frames_per_second",
        "gradient_bytes_per_step",
        "parameter_bytes_per_step",
        "adaptive_bytes_per_step",
        "between_hosts_bytes_per_step",
        "exchange_ms_per_step",
        "exchange_overlap",
        "exchange_wait_share",
    )
    return [{"exchange": name, **_medians(found, columns)} for name, found in records.items()]


def _medians(records: list[dict[str, Any]], columns: tuple[str, ...]) -> dict[str, float]:
    return {
        column: statistics.median(record[column] for record in records)
        for column in columns
        if all(column in record for record in records)
    }


def peak_memory(
    setting: Setting, size: NetworkSize, train_dir: Path, held_out_dir: Path
) -> dict[str, Any]:
    """Peak resident memory of a worker in MiB, training for two epochs."""
    peak = measure_peak_memory(train_once, setting, size, train_dir, held_out_dir)
    return {
        "workers": setting.workers,
        "minibatch_size": setting.minibatch_size,
        "exchange": (setting.exchange or {"type": "allreduce"})["type"],
        "main_mib": peak.parent,
        "worker_mib": peak.worker if setting.workers > 1 else peak.parent,
    }


def train_once(setting: Setting, size: NetworkSize, train_dir: Path, held_out_dir: Path) -> None:
    """Train for two epochs; a function of its own so that another process can call it."""
    train_epochs(setting, size, train_dir, held_out_dir, 1)


def concurrent_bare_rate(processes: int, threads: int, minibatch: int, seconds: float) -> float:
    """Frames a second of so many bare loops side by side that have nothing to do with each other.

    Each learns from its share of ``minibatch``. Over the rate of one this is what the machine
    gives to several processes at all.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    pipes, started = [], []
    for _ in range(processes):
        receiver, sender = context.Pipe(duplex=False)
        arguments = (sender, barrier, threads, minibatch // processes, seconds)
        process = context.Process(target=_run_bare_loop, args=arguments)
        process.start()
        sender.close()
        pipes.append(receiver)
        started.append(process)
    rates = [pipe.recv() for pipe in pipes]
    for process in started:
        process.join()
    return sum(rates)


def _run_bare_loop(
    pipe: Connection, barrier: Barrier, threads: int, minibatch: int, seconds: float
) -> None:
    torch.set_num_threads(threads)
    barrier.wait()
    pipe.send(bare_rate(SMALL, minibatch, seconds, torch.device("cpu")))


def measure_link(workers: int) -> Link:
    """How fast gloo's all-reduces are between processes of this machine that do nothing else.

    One of S bytes over N workers is taken to last
    ``2 (N - 1) latency + 2 (N - 1) / N S / bandwidth``.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_time_all_reduces, args=(sender, folder, rank, workers))
            for rank in range(workers)
        ]
        for process in processes:
            process.start()
        sender.close()
        small, large, payload = receiver.recv()
        for process in processes:
            process.join()
    passes = 2 * (workers - 1)
    bandwidth = passes / workers * payload / max(large - small, 1e-9)
    return Link(bandwidth, small / passes)


def _time_all_reduces(pipe: Connection, folder: str, rank: int, workers: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting_point",
        rank=rank,
        world_size=workers,
        timeout=timedelta(seconds=60),
    )
    try:
        small, large = torch.zeros(1), torch.zeros(SMALL.parameters)
        seconds = []
        for tensor in (small, large):
            times = []
            for _ in range(30):
                dist.all_reduce(torch.zeros(1))
                start = time.perf_counter()
                dist.all_reduce(tensor)
                times.append(time.perf_counter() - start)
            seconds.append(statistics.median(times))
        if rank == 0:
            pipe.send((*seconds, large.nbytes))
    finally:
        dist.destroy_process_group()
