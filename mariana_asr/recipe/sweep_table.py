"""The tables of a sweep: a row a variant and system, means over what was varied."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from mariana_asr.errors import RecipeError
from mariana_asr.files import write_json, write_text
from mariana_asr.recipe.sweep import Outcome, Sweep
from mariana_asr.recipe.variants import Variant
from mariana_asr.score.results import Metric, Result
from mariana_asr.score.tuning import DEV_SET

ItemT = TypeVar("ItemT")
KeyT = TypeVar("KeyT")

ALL_SYSTEMS = "all"
"""Stands for every system, where systems are chosen."""

UNKNOWN = "-"
"""Stands in a table for what is not there."""


@dataclass(frozen=True)
class Rate:
    """An error rate of several runs that differ in the seed, or of several variants.

    Attributes:
        percents: That of each, in percent.
        errors: Number of errors of all together.
        tokens: Words or characters in the references of all together.
    """

    percents: list[float]
    errors: int
    tokens: int

    @property
    def mean(self) -> float:
        """The mean of the error rates, in percent."""
        return fmean(self.percents)

    @property
    def pooled(self) -> float:
        """The error rate of everything together, in percent."""
        return 100.0 * self.errors / self.tokens

    def to_json(self) -> dict[str, Any]:
        """The rate as the sweep's JSON holds it."""
        return {
            "mean": round(self.mean, 2),
            "each": self.percents,
            "errors": self.errors,
            "tokens": self.tokens,
        }


@dataclass(frozen=True)
class Row:
    """A system of a variant, over its seeds.

    Attributes:
        variant: The variant.
        system: Name of the system.
        metric: Which error rate.
        seeds: The seeds that did not fail; empty where the recipe's own is used.
        rates: Name of each set to the error rate, with decoding weights chosen on dev.
        parameters: Number of a network's parameters.
        frames_per_second: Frames that a network was trained on a second, mean over seeds.
        real_time_factor: That of decoding the dev set in one process, mean over seeds.
        training_seconds: Seconds of the system's own training, mean over seeds.
        seconds: Seconds of all stages, those that are shared with others too, mean over seeds.
    """

    variant: Variant
    system: str
    metric: Metric
    seeds: list[int]
    rates: dict[str, Rate]
    parameters: int | None
    frames_per_second: float | None
    real_time_factor: float
    training_seconds: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The row as the sweep's JSON holds it."""
        return {
            "variant": self.variant.label,
            "choices": dict(self.variant.choices),
            "changes": dict(self.variant.changes),
            "system": self.system,
            "metric": self.metric,
            "seeds": self.seeds,
            "rates": {name: rate.to_json() for name, rate in self.rates.items()},
            "parameters": self.parameters,
            "frames_per_second": self.frames_per_second,
            "real_time_factor": self.real_time_factor,
            "training_seconds": self.training_seconds,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class MeanRow:
    """A system over several variants.

    Attributes:
        label: What the variants have in common.
        system: Name of the system.
        metric: Which error rate.
        rates: Name of each set to the variants' error rates, each a mean over its seeds.
    """

    label: str
    system: str
    metric: Metric
    rates: dict[str, Rate]

    def to_json(self) -> dict[str, Any]:
        """The row as the sweep's JSON holds it."""
        return {
            "variants": self.label,
            "system": self.system,
            "metric": self.metric,
            "rates": {
                name: {**rate.to_json(), "pooled": round(rate.pooled, 2)}
                for name, rate in self.rates.items()
            },
        }


@dataclass(frozen=True)
class Table:
    """A table in words.

    Attributes:
        title: What it shows.
        header: Names of the columns.
        rows: The cells of each row.
        numeric: The columns that hold numbers.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    numeric: set[int] = field(default_factory=set)

    def markdown(self) -> str:
        """The table in Markdown, under its title."""
        rule = ["---:" if column in self.numeric else "---" for column in range(len(self.header))]
        cells = [self.header, rule, *self.rows]
        lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"


def check_choices(sweep: Sweep, systems: Sequence[str], keys: Sequence[str]) -> None:
    """Check the names of systems for ``choose_systems`` and the keys for ``make_means``.

    Raises:
        RecipeError: No variant has such a system, or such a key is not varied.
    """
    for wanted, known, problem in (
        (
            systems,
            [*(s for run in sweep.runs for s in run.experiment.recipe.systems), ALL_SYSTEMS],
            "there is no system {}",
        ),
        (keys, [key for run in sweep.runs for key in run.variant.choices], "{} is not varied"),
    ):
        if unknown := [name for name in wanted if name not in known]:
            raise RecipeError(
                problem.format(unknown[0]),
                where="command line",
                remedy=f"Choose of {', '.join(dict.fromkeys(known)) or 'nothing'}",
            )


def make_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each variant that did not fail, each of its systems and each metric."""
    rows = []
    for _, runs in _grouped(outcomes, lambda outcome: outcome.run.variant.name):
        variant = runs[0].run.variant
        finished = [outcome for outcome in runs if not outcome.error]
        headlines = [
            (outcome, result)
            for outcome in finished
            for result in outcome.results
            if result.tuned_on != "test"
        ]
        for (system, metric), pairs in _grouped(headlines, lambda p: (p[1].system, p[1].metric)):
            rows.append(_row(variant, system, metric, finished, pairs))
    return rows


def choose_systems(rows: Sequence[Row], systems: Sequence[str]) -> list[Row]:
    """The rows of some systems, or of each variant's last one where none is named."""
    if systems:
        return [row for row in rows if row.system in systems or ALL_SYSTEMS in systems]
    last = {row.variant.name: row.system for row in rows}
    return [row for row in rows if row.system == last[row.variant.name]]


def make_means(rows: Sequence[Row], keys: Sequence[str]) -> list[MeanRow]:
    """Means of the rows over some of the things varied, for each choice of the others."""
    groups = _grouped(rows, lambda row: (row.variant.label_without(keys), row.system, row.metric))
    return [
        MeanRow(
            label,
            system,
            metric,
            {
                name: Rate(
                    [round(row.rates[name].mean, 4) for row in group],
                    sum(row.rates[name].errors for row in group),
                    sum(row.rates[name].tokens for row in group),
                )
                for name in group[0].rates
                if all(name in row.rates for row in group)
            },
        )
        for (label, system, metric), group in groups
    ]


def tables_of(rows: Sequence[Row], means: Sequence[MeanRow]) -> list[Table]:
    """The rows in words, a table a metric; then the means."""
    tables = []
    for metric, group in _grouped(rows, lambda row: row.metric):
        tables.append(_table_of_rows(metric, group))
    for metric, means_group in _grouped(means, lambda row: row.metric):
        tables.append(_table_of_means(metric, means_group))
    return tables


def write_tables(
    out_dir: Path,
    name: str,
    command: str,
    outcomes: Sequence[Outcome],
    rows: Sequence[Row],
    means: Sequence[MeanRow],
) -> None:
    """Write ``NAME.md`` with the tables and ``NAME.json`` with all figures of a sweep.

    Args:
        out_dir: Where to write.
        name: Name of both files.
        command: The command that made them.
        outcomes: What came of the runs.
        rows: Rows of the table; JSON has those of all systems.
        means: Rows of the means.
    """
    failed = [(o.run.variant.label, o.run.seed, o.error) for o in outcomes if o.error]
    parts = [f"# {out_dir.parent.name}: {name}\n", f"    {command}\n"]
    parts += [table.markdown() for table in tables_of(rows, means)]
    if failed:
        lines = [
            f"- {label}{'' if seed is None else f', seed {seed}'}: {' '.join(error.split())}"
            for label, seed, error in failed
        ]
        parts.append("## Failed\n\n" + "\n".join(lines) + "\n")
    write_text(out_dir / f"{name}.md", "\n".join(parts))
    tree = {
        "command": command,
        "rows": [row.to_json() for row in make_rows(outcomes)],
        "means": [row.to_json() for row in means],
        "failed": [
            {"variant": label, "seed": seed, "error": error} for label, seed, error in failed
        ],
    }
    write_json(out_dir / f"{name}.json", tree)


def _row(
    variant: Variant,
    system: str,
    metric: Metric,
    finished: Sequence[Outcome],
    pairs: Sequence[tuple[Outcome, Result]],
) -> Row:
    results = [result for _, result in pairs]
    of_dev = [result for result in results if result.test_set == DEV_SET]
    speeds = [r.frames_per_second for r in of_dev if r.frames_per_second is not None]
    stages = (system, f"train_{system}")
    return Row(
        variant,
        system,
        metric,
        [outcome.run.seed for outcome in finished if outcome.run.seed is not None],
        {
            name: Rate(
                [result.percent for result in group],
                sum(result.errors for result in group),
                sum(result.tokens for result in group),
            )
            for name, group in _grouped(results, lambda result: result.test_set)
        },
        of_dev[0].parameters,
        round(fmean(speeds), 1) if speeds else None,
        round(fmean(result.rtf for result in of_dev), 5),
        round(fmean(sum(o.seconds.get(name, 0.0) for name in stages) for o in finished), 1),
        round(fmean(sum(o.seconds.values()) for o in finished), 1),
    )


def _table_of_rows(metric: Metric, rows: Sequence[Row]) -> Table:
    rate, sets = metric.upper(), _sets(rows)
    several_systems = len({row.system for row in rows}) > 1
    several_seeds = any(len(row.seeds) > 1 for row in rows)
    words = ["variant", *(["system"] if several_systems else [])]
    figures = [
        *(f"{name} {rate} %{' of each seed' if each else ''}"
          for name in sets for each in ((False, True) if several_seeds else (False,))),
        "parameters", "frames/s", "real-time factor", "training s", "all stages s",
    ]  # fmt: skip
    cells = []
    for row in rows:
        rates: list[str] = []
        for name in sets:
            known = row.rates.get(name)
            rates.append(UNKNOWN if known is None else f"{known.mean:.2f}")
            if several_seeds:
                each = [] if known is None else known.percents
                rates.append(" ".join(f"{percent:.2f}" for percent in each) or UNKNOWN)
        cells.append(
            [
                row.variant.label,
                *([row.system] if several_systems else []),
                *rates,
                _shown(row.parameters, ",d"),
                _shown(row.frames_per_second, ",.0f"),
                f"{row.real_time_factor:.4f}",
                f"{row.training_seconds:,.0f}",
                f"{row.seconds:,.0f}",
            ]
        )
    header = [*words, *figures]
    return Table(f"{rate} of the variants", header, cells, set(range(len(words), len(header))))


def _table_of_means(metric: Metric, rows: Sequence[MeanRow]) -> Table:
    rate, sets = metric.upper(), _sets(rows)
    header = ["variants", "system", "number"]
    for name in sets:
        header += [f"{name} mean {rate} %", f"{name} least to most", f"{name} pooled {rate} %"]
    cells = []
    for row in rows:
        number = max(len(known.percents) for known in row.rates.values())
        line = [row.label, row.system, str(number)]
        for name in sets:
            known = row.rates.get(name)
            if known is None:
                line += [UNKNOWN] * 3
                continue
            extent = f"{min(known.percents):.2f} to {max(known.percents):.2f}"
            line += [f"{known.mean:.2f}", extent, f"{known.pooled:.2f}"]
        cells.append(line)
    return Table(f"Mean {rate}", header, cells, set(range(2, len(header))))


def _sets(rows: Iterable[Row | MeanRow]) -> list[str]:
    """Names of the sets that rows have rates of, dev first."""
    names = dict.fromkeys(name for row in rows for name in row.rates)
    return sorted(names, key=lambda name: name != DEV_SET)


def _shown(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _grouped(
    items: Iterable[ItemT], key: Callable[[ItemT], KeyT]
) -> list[tuple[KeyT, list[ItemT]]]:
    """Items by key, in the order in which keys first come."""
    groups: dict[KeyT, list[ItemT]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())
