"""How a network was trained, in a few figures from its log."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
"""A line of a training's log: an epoch of a network."""


@dataclass(frozen=True)
class Figure:
    """A line of the table: what it is, its value, and what the name leaves open."""

    name: str
    value: str
    note: str = ""


def training_figures(log: Sequence[Record]) -> list[Figure]:
    """What the log says of speed, waiting and exchange; nothing of what it does not have.

    Shares are of the training time; figures of a step are means over the epochs, weighted by
    their frames.

    Args:
        log: Objects of ``log.jsonl``.
    """
    epochs = _epochs(log)
    if not epochs:
        return []
    seconds = sum(record["seconds"] for record in epochs)
    frames = sum(record["frames"] for record in epochs)
    figures = []
    if any("workers" in record for record in epochs):
        figures.append(_workers(epochs))
    figures += [
        Figure("Frames trained", f"{frames:,}", f"in {len(epochs)} epochs, {seconds:,.0f} s"),
        Figure("Frames a second", f"{frames / seconds:,.0f}", "of all workers"),
    ]
    for name, key, note in (
        ("Waiting for data", "data_wait_share", "of the time"),
        ("Waiting for the exchange", "exchange_wait_share", "of the time, with nothing to compute"),
        ("Efficiency", "efficiency", "of the time spent on computing"),
    ):
        share = _mean(epochs, key, "seconds")
        if share is not None and (key != "exchange_wait_share" or _exchanged(epochs)):
            figures.append(Figure(name, f"{share:.1%}", note))
    figures += _exchange(epochs)
    if any("skipped_steps" in record for record in epochs):
        skipped = sum(record.get("skipped_steps", 0) for record in epochs)
        figures.append(Figure("Steps skipped", f"{skipped:,}", "whose loss was not finite"))
    return figures


def frames_per_second(log: Sequence[Record]) -> float | None:
    """Frames trained a second by all workers, evaluation not counted; None if the log is silent.

    Args:
        log: Objects of ``log.jsonl``.
    """
    epochs = _epochs(log)
    if not epochs:
        return None
    frames, seconds = (sum(record[key] for record in epochs) for key in ("frames", "seconds"))
    return round(frames / seconds, 1)


def _epochs(log: Sequence[Record]) -> list[Record]:
    """Records of epochs that tell how much was trained, and in what time."""
    return [record for record in log if record.get("frames") and record.get("seconds")]


def _exchanged(epochs: Sequence[Record]) -> bool:
    return any("exchange_ms_per_step" in record for record in epochs)


def _workers(epochs: Sequence[Record]) -> Figure:
    """How many; where a run was resumed with more or fewer, one number after the other."""
    numbers = dict.fromkeys(str(record["workers"]) for record in epochs if "workers" in record)
    exchanges = dict.fromkeys(record["exchange"] for record in epochs if "exchange" in record)
    note = f"exchange: {', '.join(exchanges)}" if exchanges else ""
    return Figure("Workers", ", then ".join(numbers), note)


def _exchange(epochs: Sequence[Record]) -> list[Figure]:
    figures = []
    for name, key in (
        ("Sent for gradients", "gradient_bytes_per_step"),
        ("Sent for parameters", "parameter_bytes_per_step"),
        ("Sent for adaptive rates", "adaptive_bytes_per_step"),
        ("Of these to other hosts", "between_hosts_bytes_per_step"),
    ):
        sent = _mean(epochs, key, "frames")
        if sent is not None and (sent or key != "between_hosts_bytes_per_step"):
            figures.append(Figure(name, format_bytes(sent), "by each worker, a step"))
    milliseconds = _mean(epochs, "exchange_ms_per_step", "frames")
    if milliseconds is not None:
        overlap = _mean(epochs, "exchange_overlap", "frames")
        note = "a step" if overlap is None else f"a step, {overlap:.0%} of it behind computing"
        figures.append(Figure("Exchange under way", f"{milliseconds:.2f} ms", note))
    return figures


def _mean(epochs: Sequence[Record], key: str, weight: str) -> float | None:
    known = [
        (record[key], record[weight])
        for record in epochs
        if isinstance(record.get(key), int | float) and math.isfinite(record[key])
    ]
    return sum(v * w for v, w in known) / sum(w for _, w in known) if known else None


def format_bytes(number: float) -> str:
    """Bytes for people: ``0``, ``812 B``, ``12.5 kB``, ``3.40 MB``, in powers of 1000."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f} B" if number else "0"
