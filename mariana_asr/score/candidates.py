"""Candidates for a network: epochs and averages of epochs, and which of them was chosen."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mariana_asr.errors import FormatError
from mariana_asr.files import read_json, write_json
from mariana_asr.score.results import Metric

SELECTION_FILE = "selection.json"

Criterion = Literal["loss", "wer"]
"""What decides: the held-out loss, or the error rate on the dev set."""


@dataclass(frozen=True)
class Candidate:
    """A set of weights that a network may end with.

    Attributes:
        epochs: The epochs whose weights are averaged; one alone is taken as it is.
        held_out_loss: Mean loss of the held-out frames, in nats.
        held_out_accuracy: Share of right held-out frames, 0 to 1.
        percent: Error rate on the dev set, in percent, where it decides.
        errors: Number of errors there.
        tokens: Words or characters in the references there.
    """

    epochs: tuple[int, ...]
    held_out_loss: float
    held_out_accuracy: float
    percent: float | None = None
    errors: int | None = None
    tokens: int | None = None

    @property
    def name(self) -> str:
        """What it is, in words."""
        numbers = ", ".join(map(str, self.epochs))
        return f"epoch {numbers}" if len(self.epochs) == 1 else f"mean of epochs {numbers}"


@dataclass(frozen=True)
class Selection:
    """The candidates, and which was chosen by what.

    Attributes:
        criterion: What decided.
        metric: The error rate that was measured, if it decided.
        candidates: All of them.
        chosen: Place of the chosen one.
    """

    criterion: Criterion
    metric: Metric
    candidates: tuple[Candidate, ...]
    chosen: int

    def write(self, path: Path) -> None:
        """Write a ``selection.json``."""
        write_json(path, asdict(self))


def choose(candidates: Sequence[Candidate], criterion: Criterion) -> int:
    """Place of the candidate with the fewest errors, or the lowest loss, which decides ties too."""

    def rank(place: int) -> tuple[float, float]:
        candidate = candidates[place]
        # What is not a number is below nothing.
        loss = candidate.held_out_loss if candidate.held_out_loss < float("inf") else float("inf")
        errors = candidate.errors if criterion == "wer" else 0
        return (float("inf") if errors is None else errors, loss)

    return min(range(len(candidates)), key=rank)


def read_selection(path: str | Path) -> Selection:
    """Read a ``selection.json``.

    Raises:
        FormatError: It is missing, or is something else.
    """
    tree: Any = read_json(path)
    try:
        candidates = tuple(
            Candidate(**{**entry, "epochs": tuple(entry["epochs"])}) for entry in tree["candidates"]
        )
        return Selection(**{**tree, "candidates": candidates})
    except (KeyError, TypeError) as error:
        raise FormatError(f"not a selection of a network: {error}", where=path) from error
