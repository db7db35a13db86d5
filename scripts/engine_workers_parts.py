"""The parts of scripts/bench_engine.py that measure several workers."""

from functools import partial

from engine_bench import Bench, Rows, table_of
from engine_model import BACKWARD_SHARE, Cluster, exchange_seconds
from engine_rates import SMALL, interleaved, median_ratio
from engine_workers import (
    EXCHANGES,
    MEASURED_EPOCHS,
    PLAIN,
    Setting,
    compare_exchanges,
    concurrent_bare_rate,
    measure_link,
    peak_memory,
    speed_up,
)


def workers_over_one(bench: Bench) -> tuple[Rows, str]:
    """Part c: several workers over one of the same threads, at the same global minibatch."""
    own = bench.settings
    rows = []
    sizes = [own.minibatch_size] if own.quick else [own.minibatch_size, 2048, 512]
    for minibatch in sizes:
        settings = tuple(Setting(n, own.threads, minibatch) for n in (1, own.workers))
        row = speed_up(
            (settings[0], settings[1]),
            SMALL,
            *bench.folders(),
            rounds=1 + own.rounds // 3,
            epochs=1 if own.quick else MEASURED_EPOCHS,
        )
        if not own.quick:
            loops = {
                str(n): partial(concurrent_bare_rate, n, own.threads, minibatch, own.seconds)
                for n in (1, own.workers)
            }
            bare = interleaved(loops, 1 + own.rounds // 3)
            row["bare loops"] = median_ratio(bare[str(own.workers)], bare["1"])
        rows.append(row)
    table = table_of(
        rows,
        {
            "workers": "d",
            "threads": "d",
            "minibatch_size": ",d",
            "one": ",.0f",
            "several": ",.0f",
            "speed_up": ".3f",
            "bare loops": ".3f",
            "data_wait_share": ".1%",
            "exchange_wait_share": ".1%",
        },
    )
    return rows, table + (
        "\n\nBare loops: the same ratio of as many bare loops side by side, each with its share of"
        " the minibatch, that exchange nothing: what the machine gives to several processes."
    )


def exchanges(bench: Bench) -> tuple[Rows, str]:
    """Part d: what each exchange sends, and how long it takes."""
    own = bench.settings
    names = ["allreduce", "bf16", "sharded"] if own.quick else list(EXCHANGES)
    setting = Setting(own.workers, own.threads, own.minibatch_size)
    rows = compare_exchanges(setting, SMALL, *bench.folders(), names)
    return rows, table_of(
        rows,
        {
            "exchange": "s",
            "workers": ".0f",
            "gradient_bytes_per_step": ",.0f",
            "parameter_bytes_per_step": ",.0f",
            "adaptive_bytes_per_step": ",.0f",
            "between_hosts_bytes_per_step": ",.0f",
            "exchange_ms_per_step": ".2f",
            "exchange_overlap": ".0%",
            "exchange_wait_share": ".1%",
            "frames_per_second": ",.0f",
        },
    )


def model_beside_measurement(bench: Bench) -> tuple[Rows, str]:
    """Part m: what the model of docs/scaling.md predicts for this machine, and what is so."""
    own = bench.settings
    rows = []
    minibatch = own.minibatch_size
    for workers in (own.workers,) if own.quick else (own.workers, 2 * own.workers):
        link = measure_link(workers)
        rate = concurrent_bare_rate(workers, own.threads, minibatch, own.seconds)
        compute = minibatch / rate
        cluster = Cluster("this machine", 1, workers, 0.0, link)
        exchange, exposed = exchange_seconds(
            cluster, SMALL, "allreduce", 4, BACKWARD_SHARE * compute
        )
        setting = Setting(workers, own.threads, minibatch)
        measured = compare_exchanges(setting, SMALL, *bench.folders(), [PLAIN])[0]
        rows.append(
            {
                "workers": workers,
                "latency, ms": 1e3 * link.latency,
                "bandwidth, GB/s": link.bandwidth / 1e9,
                "compute, ms": 1e3 * compute,
                "exchange, ms": 1e3 * exchange,
                "exposed, ms": 1e3 * exposed,
                "predicted, frames/s": minibatch / (compute + exposed),
                "measured, frames/s": measured["frames_per_second"],
                "measured exchange, ms": measured["exchange_ms_per_step"],
            }
        )
    return rows, table_of(
        rows,
        {
            "workers": "d",
            "latency, ms": ".2f",
            "bandwidth, GB/s": ".2f",
            "compute, ms": ".1f",
            "exchange, ms": ".1f",
            "exposed, ms": ".1f",
            "predicted, frames/s": ",.0f",
            "measured, frames/s": ",.0f",
            "measured exchange, ms": ".1f",
        },
    )


def memory(bench: Bench) -> tuple[Rows, str]:
    """Part e: peak memory of a worker."""
    own = bench.settings
    rows = []
    for workers in (1, own.workers):
        for kind in ("allreduce",) if own.quick or workers == 1 else ("allreduce", "sharded"):
            setting = Setting(workers, own.threads, own.minibatch_size, {"type": kind})
            rows.append(peak_memory(setting, SMALL, *bench.folders()))
    columns = {"workers": "d", "minibatch_size": ",d", "exchange": "s", "worker_mib": ",.0f"}
    return rows, table_of(rows, columns | {"main_mib": ",.0f"})
