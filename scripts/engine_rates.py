"""Frames a second of the engine in this process, and of plain loops to compare it with.

All train the same network for some seconds. The engine runs its own training loop, on a frame
store; the plain loops are what one writes down in a few lines of torch.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from mariana_asr.engine.frames.frame_store import TARGET_TYPE, FrameStore, shard_files
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions, TrainOptions
from mariana_asr.engine.options.optimisers import OptimiserOptions, SgdOptions
from mariana_asr.engine.options.schedules import ExponentialOptions
from mariana_asr.engine.training.frame_task import FrameTask
from mariana_asr.engine.training.loop import HEARTBEAT_STEPS, Training
from mariana_asr.engine.training.stopping import Stopped, StopSignal
from mariana_asr.nnet.dnn import Dnn, DnnOptions

CONTEXT = 5

MEAN_LEARNING_RATE = 0.5
"""Of SGD, on the mean gradient of a minibatch: random targets teach nothing, but must not make
anything infinite either."""


@dataclass(frozen=True)
class NetworkSize:
    """A network of sigmoid layers on eleven frames, without batch norm and dropout."""

    frame_dim: int
    hidden_layers: int
    hidden_dim: int
    num_outputs: int

    @property
    def inputs(self) -> int:
        """Values of a window."""
        return (2 * CONTEXT + 1) * self.frame_dim

    @property
    def weights(self) -> int:
        """Number of weights, without biases."""
        square = (self.hidden_layers - 1) * self.hidden_dim**2
        return self.hidden_dim * (self.inputs + self.num_outputs) + square

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.weights + self.hidden_layers * self.hidden_dim + self.num_outputs

    @property
    def flops_per_frame(self) -> int:
        """Floating-point operations to learn from a frame.

        Two for each weight in each of three products: forward, the gradient of the weights, and
        the gradient of the layer's inputs, which the first layer does without. All else, a percent
        or so, is not counted.
        """
        return 6 * self.weights - 2 * self.inputs * self.hidden_dim

    def network(self) -> Dnn:
        """A network of this size."""
        options = DnnOptions(
            hidden_layers=self.hidden_layers,
            hidden_dim=self.hidden_dim,
            activation="sigmoid",
            normalisation="none",
            dropout=0.0,
            left_context=CONTEXT,
            right_context=CONTEXT,
        )
        return Dnn(options, self.frame_dim, self.num_outputs)

    def __str__(self) -> str:
        return f"{self.inputs}-{self.hidden_layers}x{self.hidden_dim}-{self.num_outputs}"


SMALL = NetworkSize(39, 4, 512, 704)
"""The network of which Kaldi's speed is known."""

LARGE = NetworkSize(40, 6, 2048, 10000)
"""The network for GPUs."""


def train_options(
    minibatch_size: int, *, epochs: int = 1000, optimiser: OptimiserOptions | None = None
) -> TrainOptions:
    """Options that train on, whatever the held-out loss does."""
    optimiser = optimiser or SgdOptions()
    return TrainOptions(
        minibatch_size=minibatch_size,
        optimiser=optimiser,
        learning_rate=MEAN_LEARNING_RATE / minibatch_size if optimiser.type == "sgd" else 1e-4,
        schedule=ExponentialOptions(epochs=epochs, final_factor=1.0),
    )


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> float:
    """Operations a second (2 side^3 a product) of products of square matrices, the median."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty(side, side, device=device, dtype=dtype)
    rates: list[float] = []
    stop = time.perf_counter() + seconds
    repeats = 20 if device.type == "cuda" else 1
    while len(rates) < 4 or time.perf_counter() < stop:
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right, out=product)
        _wait_for(device)
        rates.append(repeats * 2 * side**3 / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def bare_rate(
    size: NetworkSize,
    minibatch_size: int,
    seconds: float,
    device: torch.device,
    engine: EngineOptions | None = None,
) -> float:
    """Frames a second of a bare loop, on one minibatch of random numbers.

    Of ``engine`` it takes precision and compilation.
    """
    inputs = torch.randn(minibatch_size, size.inputs, device=device)
    targets = torch.randint(size.num_outputs, (minibatch_size,), device=device)
    return _plain_rate(size, cycle([(inputs, targets)]), seconds, device, engine)


def loader_rate(
    size: NetworkSize, store: FrameStore, minibatch_size: int, seconds: float, workers: int
) -> float:
    """Frames a second of the same loop on a DataLoader whose workers splice each frame."""
    loader = DataLoader(SplicedFrames(store), minibatch_size, shuffle=True, num_workers=workers)

    def minibatches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    made = minibatches()
    try:
        return _plain_rate(size, made, seconds, torch.device("cpu"))
    finally:
        made.close()  # type: ignore[attr-defined]


class SplicedFrames(Dataset[tuple[Tensor, int]]):
    """The frames of a store of one shard, each with its window."""

    def __init__(self, store: FrameStore) -> None:
        if len(store.shards) != 1 or store.storage != "float32":
            raise ValueError("a store of one shard of float32 is needed")
        features, targets = shard_files(store.directory, 0)
        self._features = np.memmap(features, "<f4", "r", shape=(store.num_frames, store.dim))
        self._targets = np.memmap(targets, TARGET_TYPE, "r")
        self._offsets = store.offsets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        offsets = self._offsets
        utterance = int(np.searchsorted(offsets, number, side="right")) - 1
        rows = np.arange(number - CONTEXT, number + CONTEXT + 1)
        rows = rows.clip(offsets[utterance], offsets[utterance + 1] - 1)
        return torch.from_numpy(self._features[rows].reshape(-1)), int(self._targets[number])


def _plain_rate(
    size: NetworkSize,
    minibatches: Iterator[tuple[Tensor, Tensor]],
    seconds: float,
    device: torch.device,
    engine: EngineOptions | None = None,
) -> float:
    engine = engine or EngineOptions()
    network: nn.Module = size.network().to(device)
    if engine.compile:
        network.compile()
    optimiser = torch.optim.SGD(network.parameters(), lr=MEAN_LEARNING_RATE)

    def learn() -> int:
        inputs, targets = next(minibatches)
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=engine.precision == "bfloat16"):
            logits = network(inputs)
        cross_entropy(logits.float(), targets).backward()
        optimiser.step()
        return len(targets)

    for _ in range(3):
        learn()
    _wait_for(device)
    frames, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(HEARTBEAT_STEPS if device.type == "cuda" else 1):
            frames += learn()
        _wait_for(device)
    return frames / (time.perf_counter() - start)


@dataclass(frozen=True)
class EngineRate:
    """What a stretch of training came to."""

    frames_per_second: float
    data_wait_share: float


def engine_rate(
    size: NetworkSize,
    stores: tuple[FrameStore, FrameStore],
    options: TrainOptions,
    seconds: float,
    device: torch.device,
    engine: EngineOptions | None = None,
) -> EngineRate:
    """Frames a second of the engine's training loop, with all that it does, in this process.

    The steps until the first heartbeat are left out, in which memory is allocated and the first
    pool is read.

    Args:
        size: The network.
        stores: Frames to train on, and held-out ones.
        options: Of training.
        seconds: How long to train.
        device: Where.
        engine: Precision and compilation.
    """
    stop = Deadline(seconds)
    with tempfile.TemporaryDirectory() as folder:
        network, workers = size.network().to(device), Workers.alone(device)
        engine = engine or EngineOptions()
        task = FrameTask(network, *stores, options, engine, workers)
        training = Training(network, task, options, engine, Path(folder), workers, stop)
        stop.training = training
        with suppress(Stopped):
            training.run()
    if len(stop.heartbeats) < 2:
        raise ValueError(f"{stores[0].num_frames} frames are too few to measure a rate")
    first, last = stop.heartbeats[0], stop.heartbeats[-1]
    elapsed = last.time - first.time
    return EngineRate(
        (last.step - first.step) * options.minibatch_size / elapsed,
        (last.seconds_waiting - first.seconds_waiting) / elapsed,
    )


@dataclass(frozen=True)
class Heartbeat:
    """How far a training was at some time."""

    time: float
    step: int
    seconds_waiting: float


class Deadline(StopSignal):
    """Tells a training to stop after some seconds, and notes when it looks: at each heartbeat.

    Attributes:
        training: The training.
        heartbeats: Those of its first epoch.
    """

    def __init__(self, seconds: float) -> None:
        """The seconds are counted from the first heartbeat, and end with a later one."""
        self.training: Training | None = None
        self.heartbeats: list[Heartbeat] = []
        self._seconds = seconds
        super().__init__()

    @property
    def received(self) -> bool:
        """Whether it is time to stop."""
        assert self.training is not None
        step, waiting = self.training.global_step, self.training.task.source.seconds_waiting
        if step % HEARTBEAT_STEPS or (self.heartbeats and step == self.heartbeats[-1].step):
            return True  # it looks once more when the epoch is over
        self.heartbeats.append(Heartbeat(time.perf_counter(), step, waiting))
        elapsed = self.heartbeats[-1].time - self.heartbeats[0].time
        return len(self.heartbeats) > 1 and elapsed >= self._seconds

    @received.setter
    def received(self, value: bool) -> None:
        """Signals are not waited for."""


def interleaved(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each of several rates in each of some rounds.

    The order is turned round from one round to the next, so that a machine whose speed drifts
    favours none.
    """
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in list(measures) if number % 2 == 0 else reversed(list(measures)):
            rates[name].append(measures[name]())
    return rates


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@contextmanager
def computing_threads(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
