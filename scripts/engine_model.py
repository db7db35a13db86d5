"""How fast several workers should be: the model of docs/scaling.md, and what it predicts.

python scripts/bench_engine.py --predict
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Literal

from engine_rates import LARGE, SMALL, NetworkSize

from mariana_asr.engine.exchange.ddp import BUCKET_MEGABYTES

ExchangeName = Literal["allreduce", "hierarchical", "sharded", "powersgd", "bmuf"]

BACKWARD_SHARE = 2 / 3
"""Of a step's computing: what gradients can be exchanged beside."""

POOL_FRAMES = 32768
"""``train.randomizer_size``."""

POWERSGD_RANK = 4
BLOCK_STEPS = 16

HOST_FRAMES_PER_SECOND = 15e6
"""Frames of 40 16-bit values that one reader thread fetches a second from files in memory, and
permutes, as measured; all else is done by the GPU."""


@dataclass(frozen=True)
class Link:
    """What a worker, or a host, sends by.

    Attributes:
        bandwidth: Bytes a second in each direction; infinite where nothing is sent.
        latency: Seconds that each of a ring's rounds takes besides.
    """

    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Cluster:
    """Workers on one or several hosts.

    Attributes:
        name: What it is called in tables.
        hosts: How many hosts.
        workers: Workers of each host.
        rate: Floating-point operations a second of a worker while it computes.
        inside: A worker's link to its neighbours inside a host.
        between: A host's link to other hosts, which its workers share.
    """

    name: str
    hosts: int
    workers: int
    rate: float
    inside: Link
    between: Link = Link(inf, 0.0)

    @property
    def size(self) -> int:
        """Number of workers."""
        return self.hosts * self.workers


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step, and what follows from them.

    Attributes:
        compute: Forward, backward and update of a worker's part.
        exchange: All exchange of a step, a mean where it is not done in every step.
        exposed: The part of it that computing does not hide.
        read: What the reader of a worker takes for the frames of a step, beside the computing.
        frames_read: Frames that a worker reads a step.
        speed_up: Over one worker that learns from the same global minibatch alone.
        efficiency: That a worker.
        frames_per_second: Of all workers.
    """

    compute: float
    exchange: float
    exposed: float
    read: float
    frames_read: int
    speed_up: float
    efficiency: float
    frames_per_second: float


def predict(
    cluster: Cluster,
    network: NetworkSize,
    exchange: ExchangeName,
    *,
    value_bytes: int,
    minibatch_per_worker: int,
    reader_rate: float = HOST_FRAMES_PER_SECOND,
) -> Prediction:
    """Predict a step by the formulas of docs/scaling.md.

    Args:
        cluster: The workers.
        network: What they train.
        exchange: How they exchange.
        value_bytes: Bytes of a gradient's value on its way.
        minibatch_per_worker: Frames a step and worker.
        reader_rate: Frames a second that a worker can read.
    """
    frames = minibatch_per_worker * cluster.size
    alone = network.flops_per_frame * frames / cluster.rate
    compute = alone / cluster.size
    duration, exposed = exchange_seconds(
        cluster, network, exchange, value_bytes, BACKWARD_SHARE * compute
    )
    frames_read = min(frames, minibatch_per_worker + POOL_FRAMES) if cluster.size > 1 else frames
    read = frames_read / reader_rate
    step = max(compute + exposed, read)
    alone = max(alone, frames / reader_rate)
    return Prediction(
        compute=compute,
        exchange=duration,
        exposed=exposed,
        read=read,
        frames_read=frames_read,
        speed_up=alone / step,
        efficiency=alone / step / cluster.size,
        frames_per_second=frames / step,
    )


def exchange_seconds(
    cluster: Cluster,
    network: NetworkSize,
    exchange: ExchangeName,
    value_bytes: int,
    backward: float,
) -> tuple[float, float]:
    """Seconds that a step's exchange takes, and those of them that ``backward`` does not hide."""
    payload = network.parameters * value_bytes
    pieces = _num_buckets(network)
    # Gradients of the first layer are ready last: nothing is left to hide them behind.
    last = network.inputs * network.hidden_dim / network.weights

    def exposed(seconds: float) -> float:
        return max(seconds - (1 - last) * backward, last * seconds)

    if exchange == "powersgd":
        # Two factors of each layer, of rank values a row and a column, in two rounds of float32;
        # they are taken from whole gradients, so that no backward pass is left.
        sides = _sides(network)
        payload = 4 * (POWERSGD_RANK * sum(map(sum, sides)) + network.parameters - network.weights)
        seconds = all_reduce_seconds(cluster, payload, 3)
        return seconds, seconds
    if exchange == "bmuf":
        seconds = all_reduce_seconds(cluster, network.parameters * 4, 1) / BLOCK_STEPS
        return seconds, seconds
    if exchange == "hierarchical":
        seconds = _hierarchical_seconds(cluster, payload, pieces)
        return seconds, exposed(seconds)
    whole = all_reduce_seconds(cluster, payload, pieces)
    if exchange == "sharded":
        # Half of the way with the gradients, the other half, never hidden, with the parameters.
        return whole, exposed(whole / 2) + whole / 2
    return whole, exposed(whole)


def all_reduce_seconds(cluster: Cluster, payload: float, pieces: int) -> float:
    """A ring over all workers; where it leaves a host, the host's link carries it."""
    rounds = 2 * (cluster.size - 1)
    bandwidth = min(cluster.inside.bandwidth, cluster.between.bandwidth)
    latency = max(cluster.inside.latency, cluster.between.latency)
    return rounds / cluster.size * payload / bandwidth + rounds * latency * pieces


def _hierarchical_seconds(cluster: Cluster, payload: float, pieces: int) -> float:
    """Rings inside the hosts; between them one for each worker of a host, which share its link."""
    inside = 2 * (cluster.workers - 1)
    between = 2 * (cluster.hosts - 1)
    return (
        inside / cluster.workers * payload / cluster.inside.bandwidth
        + between / cluster.hosts * payload / cluster.between.bandwidth
        + (inside * cluster.inside.latency + between * cluster.between.latency) * pieces
    )


def _num_buckets(network: NetworkSize) -> int:
    """In how many pieces gradients are exchanged: layers from the last one on, until full."""
    count, filled = 0, 0.0
    for inputs, outputs in reversed(_sides(network)):
        filled += 4 * inputs * outputs / 2**20
        if filled >= BUCKET_MEGABYTES:
            count, filled = count + 1, 0.0
    return count + (filled > 0)


def _sides(network: NetworkSize) -> list[tuple[int, int]]:
    hidden = network.hidden_dim
    inner = [(hidden, hidden)] * (network.hidden_layers - 1)
    return [(network.inputs, hidden), *inner, (hidden, network.num_outputs)]


GPU_SHARE = 0.60
"""Part of a GPU's bf16 matrix rate that training reaches: the goal, not yet measured."""

PCIE_MATRIX_RATE = 250e12
NVLINK_MATRIX_RATE = 700e12
"""bf16 matrix products of an A100 on PCIe (312e12 at best) and of an H100 with NVLink (989e12)."""

PCIE = Link(20e9, 10e-6)
NVLINK = Link(300e9, 5e-6)
ETHERNET_100 = Link(0.85 * 100e9 / 8, 20e-6)
ETHERNET_400 = Link(0.85 * 400e9 / 8, 20e-6)

CPU_RATE = 260e9
"""Of two threads: 75% of 350 GFLOP/s."""
GLOO = Link(1.1e9, 0.15e-3)
"""Between processes of a host, as measured with two."""

CLUSTERS = (
    Cluster("6 PCIe GPUs", 1, 6, GPU_SHARE * PCIE_MATRIX_RATE, PCIE),
    Cluster("8 NVLink GPUs", 1, 8, GPU_SHARE * NVLINK_MATRIX_RATE, NVLINK),
    Cluster("4 x 8, 100 Gbit/s", 4, 8, GPU_SHARE * NVLINK_MATRIX_RATE, NVLINK, ETHERNET_100),
    Cluster("4 x 8, 400 Gbit/s", 4, 8, GPU_SHARE * NVLINK_MATRIX_RATE, NVLINK, ETHERNET_400),
)
SIX_CPU_WORKERS = Cluster("6 x 2 CPU threads", 1, 6, CPU_RATE, GLOO)

Way = tuple[ExchangeName, int, tuple[int, ...]]
"""An exchange, the bytes of a value on its way, and frames a step and worker."""

ONE_HOST_WAYS: tuple[Way, ...] = (
    ("allreduce", 4, (2048, 8192, 32768)),
    ("allreduce", 2, (2048, 8192, 32768)),
)
SEVERAL_HOSTS_WAYS: tuple[Way, ...] = (
    ("allreduce", 4, (8192, 32768)),
    ("allreduce", 2, (8192, 32768)),
    ("hierarchical", 4, (8192, 32768)),
    ("hierarchical", 2, (8192, 32768)),
    ("powersgd", 4, (8192,)),
    ("bmuf", 4, (8192,)),
)

PREDICTION_HEADER = (
    "workers",
    "network",
    "exchange",
    "frames a step and worker",
    "compute, ms",
    "exchange, ms",
    "exposed, ms",
    "frames/s",
    "speed-up",
    "efficiency",
    "frames read/s and worker",
)


def prediction_rows() -> Iterator[tuple[str, ...]]:
    """What docs/scaling.md states, as rows of a table."""
    for cluster in CLUSTERS:
        ways = ONE_HOST_WAYS if cluster.hosts == 1 else SEVERAL_HOSTS_WAYS
        for exchange, value_bytes, minibatches in ways:
            for frames in minibatches:
                yield _row(cluster, LARGE, exchange, value_bytes, frames, HOST_FRAMES_PER_SECOND)
    for frames in (2048, 8192):
        yield _row(SIX_CPU_WORKERS, SMALL, "allreduce", 4, frames // 6, inf)


def _row(
    cluster: Cluster,
    network: NetworkSize,
    exchange: ExchangeName,
    value_bytes: int,
    frames: int,
    reader_rate: float,
) -> tuple[str, ...]:
    prediction = predict(
        cluster,
        network,
        exchange,
        value_bytes=value_bytes,
        minibatch_per_worker=frames,
        reader_rate=reader_rate,
    )
    steps_per_second = prediction.frames_per_second / (frames * cluster.size)
    frames_read = prediction.frames_read * steps_per_second
    named: str = exchange
    if exchange in ("allreduce", "hierarchical"):
        named += ", float32" if value_bytes == 4 else ", bf16"
    return (
        cluster.name,
        str(network),
        named,
        f"{frames:,}",
        f"{1e3 * prediction.compute:.2f}",
        f"{1e3 * prediction.exchange:.2f}",
        f"{1e3 * prediction.exposed:.2f}",
        f"{float(f'{prediction.frames_per_second:.3g}'):,.0f}",
        f"{prediction.speed_up:.1f}",
        f"{prediction.efficiency:.0%}",
        f"{float(f'{frames_read:.3g}'):,.0f}",
    )
