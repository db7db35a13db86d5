"""The log of a training, and what it came to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mariana_asr.engine.options import LearningOptions
from mariana_asr.errors import StageError
from mariana_asr.files import write_text

LOG_FILE = "log.jsonl"


@dataclass(frozen=True)
class TrainSummary:
    """What a training came to."""

    epochs: int
    """Epochs trained."""
    best_epoch: int
    """The epoch whose weights were kept."""
    initial_loss: float
    """Held-out loss before training, in nats a frame."""
    held_out_loss: float
    """Held-out loss of the weights kept."""
    held_out_accuracy: float
    """Held-out frame accuracy of the weights kept, 0 to 1."""
    train_loss: float
    """Mean loss over the kept epoch's minibatches, each before its step."""
    train_accuracy: float
    """Frame accuracy over the same."""
    frames_per_second: float
    """Frames trained a second, over all epochs, evaluation not counted."""
    data_wait_share: float
    """Share of the training time that was spent waiting for data."""
    skipped_steps: int
    """Steps left out because their loss was not finite."""
    stopped_because: str
    """Why training ended."""


def write_log(history: Sequence[dict[str, Any]], out_dir: Path) -> None:
    """Write ``log.jsonl``: one object an epoch, the first for the network before training."""
    write_text(out_dir / LOG_FILE, "".join(json.dumps(record) + "\n" for record in history))


def summary_of(
    history: Sequence[dict[str, Any]], options: LearningOptions, out_dir: Path
) -> TrainSummary:
    """What the records of a finished training add up to.

    Raises:
        StageError: No epoch was kept.
    """
    epochs = history[1:]
    kept = [record for record in epochs if record["best"]]
    if not kept:
        raise StageError(
            f"no epoch lowered the held-out loss below {history[0]['held_out_loss']:.4f}, "
            "so nothing was learnt",
            where=out_dir / LOG_FILE,
            remedy=f"Lower {options.SECTION}.learning_rate (now "
            f"{options.initial_learning_rate:g}), and remove {out_dir}",
        )
    best = kept[-1]
    seconds = max(sum(record["seconds"] for record in epochs), 1e-9)
    waiting = sum(record["data_wait_share"] * record["seconds"] for record in epochs)
    return TrainSummary(
        epochs=len(epochs),
        best_epoch=best["epoch"],
        initial_loss=history[0]["held_out_loss"],
        held_out_loss=best["held_out_loss"],
        held_out_accuracy=best["held_out_accuracy"],
        train_loss=best["train_loss"],
        train_accuracy=best["train_accuracy"],
        frames_per_second=sum(record["frames"] for record in epochs) / seconds,
        data_wait_share=waiting / seconds,
        skipped_steps=sum(record["skipped_steps"] for record in epochs),
        stopped_because=epochs[-1]["decision"],
    )
