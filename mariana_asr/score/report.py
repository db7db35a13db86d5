"""The report of an experiment: one HTML file with its results and training curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from mariana_asr import __version__
from mariana_asr.errors import FormatError
from mariana_asr.files import write_text
from mariana_asr.score.candidates import Selection
from mariana_asr.score.results import Result
from mariana_asr.score.training_figures import Figure, training_figures

if TYPE_CHECKING:
    from mariana_asr.score.curves import Chart

REPORT_FILE = "index.html"


@dataclass(frozen=True)
class _Training:
    """What the page shows of the training of a network, or of all GMMs."""

    name: str
    charts: list["Chart"]
    rejected: list[int] = field(default_factory=list)
    kept: int | None = None
    figures: list[Figure] = field(default_factory=list)
    selection: Selection | None = None


def write_report(
    out_dir: str | Path,
    title: str,
    results: Sequence[Result],
    *,
    network_logs: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    gmm_logs: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    selections: Mapping[str, Selection] | None = None,
    stages: Mapping[str, float] | None = None,
    recipe_text: str = "",
) -> Path:
    """Write ``index.html``: a page that needs no other file, no script and no network.

    Args:
        out_dir: Folder to write to, such as ``exp/NAME/report``.
        title: The experiment's name.
        results: Error rates; those tuned on dev are emphasised, those tuned on the set that they
            are of are marked as such.
        network_logs: Name of each network to the objects of its ``log.jsonl``
            (see ``curves.network_charts`` and ``training_figures``).
        gmm_logs: The same for GMMs (see ``curves.gmm_chart``).
        selections: For networks whose weights were chosen among epochs and averages: the choice.
        stages: Seconds that each stage took.
        recipe_text: The recipe, as it was written.

    Returns:
        The file written.
    """
    # Only here: importing matplotlib takes longer than most commands.
    from mariana_asr.score.curves import gmm_chart, kept_epoch, network_charts, rejected_epochs

    charts = [gmm_chart(name, log) for name, log in (gmm_logs or {}).items()]
    trainings = [_Training("GMM systems", [chart for chart in charts if chart])]
    trainings += [
        _Training(
            name,
            network_charts(log),
            rejected_epochs(log),
            kept_epoch(log),
            [*_size(name, results), *training_figures(log)],
            (selections or {}).get(name),
        )
        for name, log in (network_logs or {}).items()
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = format_duration
    template = files("mariana_asr.score") / "templates" / "report.html"
    page = environment.from_string(template.read_text(encoding="utf-8")).render(
        title=title,
        version=__version__,
        headlines=_headlines(results),
        groups=_by_test_set(results),
        worst=max((result.percent for result in results), default=0.0),
        fixed=any(result.tuned_on == "fixed" for result in results),
        trainings=[training for training in trainings if training.charts],
        stages=stages or {},
        longest=max((stages or {}).values(), default=0.0),
        recipe_text=recipe_text,
    )
    path = Path(out_dir) / REPORT_FILE
    write_text(path, page)
    return path


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a ``log.jsonl``: one JSON object a line.

    Raises:
        FormatError: The file is missing, or a line is no JSON object.
    """
    path = Path(path)
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise FormatError("no such file", where=path) from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise FormatError(f"not JSON: {error}", where=f"{path}:{number}") from error
        if not isinstance(record, dict):
            raise FormatError("not a JSON object", where=f"{path}:{number}")
        records.append(record)
    return records


def format_duration(seconds: float) -> str:
    """A time for people: ``0.4 s``, ``41 s``, ``2 min 05 s``, ``3 h 12 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _headlines(results: Sequence[Result]) -> list[Result]:
    """The results that come first: of test sets, or of the dev set where nothing else is scored."""
    of_tests = [result for result in results if result.tuned_on in ("dev", "fixed")]
    return of_tests or [result for result in results if result.tuned_on == "itself"]


def _size(network: str, results: Sequence[Result]) -> list[Figure]:
    """The number of a network's parameters, where its results tell."""
    known = [r.parameters for r in results if r.system == network and r.parameters is not None]
    return [Figure("Parameters", f"{number:,}") for number in known[:1]]


def _by_test_set(results: Sequence[Result]) -> list[tuple[str, str, list[Result]]]:
    """Group results by test set and metric, in the order in which they first come."""
    order: dict[tuple[str, str], int] = {}
    for result in results:
        order.setdefault((result.test_set, result.metric), len(order))

    def place(result: Result) -> int:
        return order[result.test_set, result.metric]

    groups = groupby(sorted(results, key=place), key=place)
    names = list(order)
    return [(*names[number], list(rows)) for number, rows in groups]
