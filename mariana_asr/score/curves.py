"""Training curves as SVG that takes its colours from the page's style sheet."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

Record = Mapping[str, Any]
"""A line of a training's log: an epoch of a network or an iteration of a GMM."""

# Colours that occur nowhere else, to be replaced by the style sheet's variables: so one drawing
# serves light and dark pages.
_COLOURS = {
    "#010203": "var(--series-1)",
    "#010204": "var(--series-2)",
    "#010205": "var(--ink-muted)",
    "#010206": "var(--line)",
    "#010207": "var(--surface)",
}
_SERIES = ("#010203", "#010204")
_MUTED, _LINE, _SURFACE = "#010205", "#010206", "#010207"


_LOSSES = {
    None: "Cross-entropy in nats a frame",
    "smbr": "Share of frames that the lattices expect to be wrong",
    "mmi": "Likelihood of the lattices over that of the reference, in nats a frame",
}
_ACCURACIES = {
    None: "Percent of frames",
    "smbr": "Percent of frames that the lattices expect to be right",
    "mmi": "Percent of frames that the lattices expect to be right",
}
"""What the charts of a network show, by the criterion that it was trained with."""


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption; ``svg`` is safe to put into HTML as it is."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class _Series:
    label: str
    points: list[tuple[int, float]]
    hollow: frozenset[int] = frozenset()
    """Epochs that are drawn as hollow points."""
    marked: int | None = None
    """An epoch whose point has a ring around it."""


def network_charts(log: Sequence[Record]) -> list[Chart]:
    """Loss, frame accuracy and learning rate of a network's training, by epoch.

    Args:
        log: Objects of ``log.jsonl`` with ``epoch`` and any of ``train_loss``, ``held_out_loss``,
            ``train_accuracy``, ``held_out_accuracy`` (0 to 1), ``learning_rate``, ``accepted``
            and ``best``.
    """
    epochs = [record for record in log if isinstance(record.get("epoch"), int)]
    rejected = frozenset(rejected_epochs(epochs))
    kept = kept_epoch(epochs)
    criterion = next((r["criterion"] for r in epochs if "criterion" in r), None)

    def pair(key: str, factor: float = 1.0) -> list[_Series]:
        return [
            _Series("training", _points(epochs, "epoch", f"train_{key}", factor), rejected),
            _Series(
                "held out", _points(epochs, "epoch", f"held_out_{key}", factor), rejected, kept
            ),
        ]

    rates = [_Series("learning rate", _points(epochs, "epoch", "learning_rate"), rejected)]
    drawings = [
        ("Loss", f"{_LOSSES[criterion]}, by epoch.", pair("loss"), False),
        ("Frame accuracy", f"{_ACCURACIES[criterion]}, by epoch.", pair("accuracy", 100.0), False),
        ("Learning rate", "By epoch; logarithmic scale.", rates, True),
    ]
    return [
        Chart(title, note, _draw(title, series, logarithmic=logarithmic))
        for title, note, series, logarithmic in drawings
        if any(line.points for line in series)
    ]


def rejected_epochs(log: Sequence[Record]) -> list[int]:
    """The epochs that were undone because the held-out loss had become worse."""
    return [record["epoch"] for record in log if record.get("accepted") is False]


def kept_epoch(log: Sequence[Record]) -> int | None:
    """The epoch whose weights are the result, where training went on from later ones.

    None where the last epoch that was not undone is the best one, as it always is with newbob.
    """
    best = [record["epoch"] for record in log if record.get("best")]
    accepted = [record["epoch"] for record in log if record.get("accepted")]
    return best[-1] if best and best[-1:] != accepted[-1:] else None


def gmm_chart(name: str, log: Sequence[Record]) -> Chart | None:
    """Log-likelihood a frame of a GMM's training, by iteration; None if the log has none.

    Args:
        name: The system's name, the chart's title.
        log: Objects with ``iteration`` and ``log_likelihood_per_frame``.
    """
    points = _points(log, "iteration", "log_likelihood_per_frame")
    if not points:
        return None
    svg = _draw(f"Log-likelihood of {name}", [_Series("log-likelihood", points)], markers=False)
    return Chart(name, "Log-likelihood a frame, on the training set, by iteration.", svg)


def _points(
    log: Sequence[Record], across: str, key: str, factor: float = 1.0
) -> list[tuple[int, float]]:
    return [
        (int(record[across]), factor * float(record[key]))
        for record in log
        if isinstance(record.get(across), int)
        and isinstance(record.get(key), int | float)
        and math.isfinite(record[key])
    ]


def _draw(
    title: str, series: Sequence[_Series], *, logarithmic: bool = False, markers: bool = True
) -> str:
    style: dict[Any, Any] = {
        # Text stays text, in the page's own typeface.
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(3.7, 2.4), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        for line, colour in zip(series, _SERIES, strict=False):
            _plot(axes, line, colour, markers=markers)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        axes.tick_params(colors=_MUTED, which="both", length=0)
        axes.grid(axis="y", color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.03, y=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(FixedLocator(_logarithmic_ticks(series)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        if len(series) > 1:
            axes.legend(
                frameon=False,
                labelcolor=_MUTED,
                ncols=2,
                loc="lower right",
                bbox_to_anchor=(1.0, 1.0),
                borderpad=0.0,
                borderaxespad=0.2,
            )
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Title": title})
    svg = file.getvalue()
    for placeholder, colour in _COLOURS.items():
        svg = svg.replace(placeholder, colour)
    # The XML declaration and the document type do not belong inside HTML.
    return svg[svg.index("<svg") :]


def _logarithmic_ticks(series: Sequence[_Series], at_most: int = 9) -> list[float]:
    """Ticks at the values themselves: a rate that is halved gives evenly spaced ones.

    Of values that are near to each other on the axis only the greatest has one.
    """
    values = sorted({v for line in series for _, v in line.points if v > 0}, reverse=True)
    if not values:
        return []
    distance = math.log(values[0] / values[-1]) / at_most
    ticks = values[:1]
    for value in values[1:]:
        if math.log(ticks[-1] / value) >= distance > 0.0:
            ticks.append(value)
    return ticks


def _plot(axes: Any, line: _Series, colour: str, *, markers: bool) -> None:
    if not line.points:
        return
    across, values = zip(*line.points, strict=True)
    axes.plot(across, values, color=colour, linewidth=2, label=line.label)
    if markers:
        filled = [_SURFACE if x in line.hollow else colour for x in across]
        axes.scatter(across, values, s=22, c=filled, edgecolors=colour, linewidths=1.5, zorder=3)
        if line.marked in across:
            value = values[across.index(line.marked)]
            axes.scatter(
                [line.marked], [value], s=90, facecolors="none", edgecolors=colour, linewidths=1.5
            )
