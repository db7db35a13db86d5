"""Speed of the engine beside plain loops, alone and with several workers, and what exchanges cost.

python scripts/bench_engine.py --json engine.json      # all parts, some 30 minutes on two cores
python scripts/bench_engine.py --quick                 # ratios only, about a minute
python scripts/bench_engine.py --parts c --workers 6 --threads 2       # on 16 cores
python scripts/bench_engine.py --predict               # the table of docs/scaling.md

Sigmoid networks learn random frames. Ratios are of rates that were measured in turns within one
run, because the speed of a machine drifts; if it does other work meanwhile they mean little.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from benchmark_record import begin_record, finish_record, markdown_table
from engine_alone_parts import (
    engine_beside_bare_loop,
    engine_beside_data_loader,
    gpu,
    sizes_of_store,
)
from engine_bench import Bench, BenchSettings, Rows
from engine_model import PREDICTION_HEADER, prediction_rows
from engine_workers_parts import exchanges, memory, model_beside_measurement, workers_over_one

from mariana_asr.errors import MarianaError

PARTS: dict[str, tuple[str, Callable[[Bench], tuple[Rows, str]]]] = {
    "a": ("engine over bare loop", engine_beside_bare_loop),
    "b": ("engine over DataLoader", engine_beside_data_loader),
    "c": ("several workers over one", workers_over_one),
    "d": ("exchanges", exchanges),
    "e": ("memory", memory),
    "f": ("sizes of the store", sizes_of_store),
    "g": ("GPU", gpu),
    "m": ("model beside measurement", model_beside_measurement),
}
"""By its letter what each part is called, and what returns its figures and a table of them."""

QUICK_PARTS = "ac"


def headline(figures: dict[str, Rows]) -> dict[str, Any]:
    """The ratios that a run is about; None where they were not measured.

    Returns:
        ``engine_over_bare_loop``: the lowest of all minibatch sizes, with all cores and in plain
        float32; ``two_workers_over_one``, or ``workers_over_one`` if there were more, at the first
        minibatch size.
    """
    plain = [
        row for row in figures.get("a", []) if row["precision"] == "float32" and not row["compiled"]
    ]
    threads = max((row["threads"] for row in plain), default=0)
    ratios = [row["engine over bare loop"] for row in plain if row["threads"] == threads]
    several = figures.get("c", [])[:1]
    two = several and several[0]["workers"] == 2
    return {
        "engine_over_bare_loop": min(ratios, default=None),
        "two_workers_over_one": several[0]["speed_up"] if two else None,
        **({"workers_over_one": several[0]["speed_up"]} if several and not two else {}),
    }


def _chosen_parts(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    if value is None:
        if context.params.get("quick"):
            return QUICK_PARTS
        return "".join(part for part in PARTS if part != "g" or torch.cuda.is_available())
    names = value.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise click.BadParameter(f"{', '.join(unknown)} is none of {', '.join(PARTS)}")
    if "g" in names and not torch.cuda.is_available():
        raise click.BadParameter("part g needs a GPU, and torch finds none")
    return "".join(part for part in PARTS if part in names)


@contextmanager
def _work_folder(given: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench_engine.", dir=given) as folder:
        yield Path(folder)


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
@click.option("--quick", is_flag=True, is_eager=True, help="Less of all, by default a and c only.")
@click.option(
    "--parts",
    callback=_chosen_parts,
    help="Letters of parts, joined by commas: "
    + "; ".join(f"{letter} {name}" for letter, (name, _) in PARTS.items())
    + ".",
)
@click.option("--workers", type=click.IntRange(min=2), default=2, show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of each worker."
)
@click.option(
    "--minibatch",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Frames a step of all workers.",
)
@click.option("--frames-max", type=float, default=1e8, show_default=True, help="For part f.")
@click.option("--seconds", type=float, help="Length of a round.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of what is compared.")
@click.option("--epoch-frames", type=click.IntRange(min=1), help="Of several workers.")
@click.option(
    "--work",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder for temporary files, up to 9 GB with part f.",
)
@click.option("--predict", is_flag=True, help="Measure nothing; print what the model predicts.")
def command(
    json_file: Path | None,
    quick: bool,
    parts: str,
    workers: int,
    threads: int,
    minibatch: int,
    frames_max: float,
    seconds: float | None,
    rounds: int | None,
    epoch_frames: int | None,
    work: Path | None,
    predict: bool,
) -> None:
    """Measure the engine's speed, and what its exchanges cost."""
    if predict:
        click.echo(markdown_table(PREDICTION_HEADER, prediction_rows()))
        return
    settings = BenchSettings(
        quick=quick,
        workers=workers,
        threads=threads,
        minibatch_size=minibatch,
        frames_max=int(frames_max),
        seconds=seconds or (1.5 if quick else 2.0),
        rounds=rounds or (3 if quick else 7),
        epoch_frames=epoch_frames or (30_000 if quick else 60_000),
    )
    record = begin_record("engine", asdict(settings) | {"parts": parts})
    figures: dict[str, Rows] = {}
    try:
        with _work_folder(work) as folder:
            bench = Bench(folder, settings)
            for part in parts:
                name, measure = PARTS[part]
                figures[part], table = measure(bench)
                click.echo(f"## {part}: {name}\n\n{table}\n")
    except MarianaError as error:
        raise click.ClickException(str(error)) from error
    ratios = headline(figures)
    click.echo("\n".join(f"{name}: {value}" for name, value in ratios.items()))
    if json_file is not None:
        parts_by_name = {PARTS[part][0]: rows for part, rows in figures.items()}
        finish_record(json_file, record, ratios | {"parts": parts_by_name})


if __name__ == "__main__":
    command()
