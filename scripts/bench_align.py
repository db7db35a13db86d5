"""Time, error rates and memory of GMM training on AN4, rung by rung, beside Kaldi's.

python scripts/bench_align.py --json align.json             # times and error rates
python scripts/bench_align.py --memory --json memory.json   # peak memory as the corpus grows

Needs AN4 (``--corpora`` or MARIANA_CORPORA; else it is downloaded). Kaldi's figures are of its own
recipe on the same recordings with 2 cores.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from align_ladder import (
    DECODING,
    RUNGS,
    decode_rung,
    prepare_an4,
    repeated,
    shortened,
    time_rung,
    train_rung,
)
from benchmark_record import begin_record, finish_record, markdown_table
from process_memory import measure_peak_memory

from mariana_asr.errors import MarianaError
from mariana_asr.parallel import available_cores

_TIMES_HEADER = (
    "rung",
    "seed",
    "seconds",
    "Kaldi, seconds",
    "CPU seconds",
    "iterations with realignment",
    "other iterations",
    "before and after",
)
_ERRORS_HEADER = (
    "system",
    "seed",
    "WER",
    "errors",
    "Kaldi, WER",
    "difference",
    "LM weight / penalty",
)


def time_ladder(
    corpus_dir: Path | None,
    work: Path,
    rungs: list[str],
    seeds: list[int],
    *,
    jobs: int,
    decodes: bool,
) -> list[dict[str, Any]]:
    """Train and test the rungs with each seed."""
    prepared = prepare_an4(corpus_dir, work, jobs)
    measured = []
    for seed in seeds:
        folder = work / f"seed{seed}"
        for name in rungs:
            figures = {"rung": name, "seed": seed}
            figures |= time_rung(name, prepared, folder, seed=seed, jobs=jobs)
            figures["kaldi_seconds"] = RUNGS[name].kaldi_seconds
            figures["tests"] = decode_rung(name, prepared, folder, jobs=jobs) if decodes else []
            click.echo(f"seed {seed}, {name}: {figures['seconds']:.1f} s", err=True)
            measured.append(figures)
    return measured


def measure_memory(
    corpus_dir: Path | None, work: Path, rungs: list[str], repeats: list[int], *, jobs: int
) -> list[dict[str, Any]]:
    """Train the rungs in a few iterations on the corpus repeated, each in a process of its own."""
    prepared = prepare_an4(corpus_dir, work, jobs)
    measured = []
    for times in repeats:
        folder = work / f"repeat{times}"
        data = repeated(prepared.train, times, folder / "data")
        data.write()
        for name in rungs:
            options = shortened(RUNGS[name].options)
            places = (data.path, prepared.lang_dir, folder)
            peak = measure_peak_memory(train_rung, name, *places, options, jobs)
            click.echo(f"{times} times AN4, {name}: {peak}", err=True)
            utterances = len(data.utt2spk)
            measured.append(
                {"rung": name, "repeat": times, "utterances": utterances, **asdict(peak)}
            )
    return measured


def ladder_tables(measured: list[dict[str, Any]]) -> str:
    """Times and error rates as tables, beside Kaldi's."""
    times, errors = [], []
    for seed in dict.fromkeys(figures["seed"] for figures in measured):
        own = [figures for figures in measured if figures["seed"] == seed]
        for figures in own:
            parts = [f"{seconds:.1f}" for seconds in figures["parts"].values()]
            times.append(_time_row(figures["rung"], seed, [figures], parts))
        times.append(_time_row("all", seed, own, [""] * 3))
        for test in (test for figures in own for test in figures["tests"]):
            errors.append(
                (
                    test["decoding"],
                    seed,
                    f"{test['wer']:.2f}",
                    f"{test['errors']} of {test['words']}",
                    f"{test['kaldi_wer']:.2f}",
                    f"{test['wer'] - test['kaldi_wer']:+.2f}",
                    f"{test['lm_weight']:g} / {test['word_insertion_penalty']:g}",
                )
            )
    tables = [markdown_table(_TIMES_HEADER, times)]
    if errors:
        tables.append(markdown_table(_ERRORS_HEADER, errors))
    return "\n\n".join(tables)


def _time_row(
    name: str, seed: int, measured: list[dict[str, Any]], parts: list[str]
) -> tuple[object, ...]:
    low, high = (sum(figures["kaldi_seconds"][i] for figures in measured) for i in (0, 1))
    seconds, cpu = (sum(f[key] for f in measured) for key in ("seconds", "cpu_seconds"))
    return name, seed, f"{seconds:.1f}", f"{low} to {high}", f"{cpu:.1f}", *parts


def memory_table(measured: list[dict[str, Any]]) -> str:
    """Peak memory in MiB: rungs by rows, sizes of the corpus by columns."""
    sizes = list(dict.fromkeys(figures["repeat"] for figures in measured))
    cells = {
        (figures["rung"], part, figures["repeat"]): f"{figures[part]:.0f}"
        for figures in measured
        for part in ("parent", "worker")
    }
    rows = [
        (rung, process, *(cells.get((rung, part, size)) for size in sizes))
        for rung in dict.fromkeys(figures["rung"] for figures in measured)
        for part, process in (("parent", "main"), ("worker", "largest worker"))
    ]
    return markdown_table(("rung", "process", *(f"{size}x" for size in sizes)), rows)


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        return [int(number) for number in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not whole numbers joined by commas") from error


def _rung_names(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    names = value.split(",")
    if unknown := [name for name in names if name not in RUNGS]:
        raise click.BadParameter(f"{', '.join(unknown)} is none of {', '.join(RUNGS)}")
    return [name for name in RUNGS if name in names]


@contextmanager
def _work_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="bench_align.") as folder:
        yield Path(folder)


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
@click.option(
    "--corpora",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="MARIANA_CORPORA",
    help="Folder with an4/; by default what MARIANA_CORPORA names.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=available_cores, help="Processes.")
@click.option("--seeds", default="0,1,2", callback=_numbers, show_default=True)
@click.option("--rungs", default=",".join(RUNGS), callback=_rung_names, show_default=True)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Folder for all outputs, kept; by default a temporary one.",
)
@click.option("--no-decode", is_flag=True, help="Only train.")
@click.option("--memory", is_flag=True, help="Measure peak memory in place of time and errors.")
@click.option(
    "--repeat",
    default="1,4,16",
    callback=_numbers,
    show_default=True,
    help="For --memory: how many times the corpus is repeated.",
)
def command(
    json_file: Path | None,
    corpora: Path | None,
    jobs: int,
    seeds: list[int],
    rungs: list[str],
    work: Path | None,
    no_decode: bool,
    memory: bool,
    repeat: list[int],
) -> None:
    """Time every rung of GMM training on AN4 and compare its error rates with Kaldi's."""
    corpus_dir = corpora / "an4" if corpora else None
    settings: dict[str, Any] = {"jobs": jobs}
    if memory:
        settings["schedule"] = "shortened to 5 iterations"
    elif not no_decode:
        settings["decoding"] = DECODING.model_dump(mode="json")
    record = begin_record("align", settings)
    try:
        with _work_folder(work) as folder:
            if memory:
                measured = measure_memory(corpus_dir, folder, rungs, repeat, jobs=jobs)
            else:
                measured = time_ladder(
                    corpus_dir, folder, rungs, seeds, jobs=jobs, decodes=not no_decode
                )
    except MarianaError as error:
        raise click.ClickException(str(error)) from error
    click.echo(memory_table(measured) if memory else ladder_tables(measured))
    if json_file is not None:
        finish_record(json_file, record, {"memory_mib" if memory else "ladder": measured})


if __name__ == "__main__":
    command()
