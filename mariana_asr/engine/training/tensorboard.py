"""TensorBoard scalars of a training, in one event file that a resumed run continues.

torch's SummaryWriter begins a new file whenever a run is resumed, in which the steps since the
last checkpoint come a second time; so records are appended with TensorBoard's own writer.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mariana_asr.engine.training.totals import Totals
from mariana_asr.errors import MarianaError, MissingPackageError

FOLDER = "tensorboard"
EVENT_FILE = "events.out.tfevents.mariana-asr"
"""TensorBoard reads files with ``tfevents`` in their names."""

EVERY_STEPS = 100
"""Steps between two points of the curves that run on within an epoch."""

_FRAMING_BYTES = 16
"""What a TFRecord adds to its content: the length and two checksums."""

_OF_EPOCH = {
    "held_out_loss": "held_out/loss",
    "held_out_accuracy": "held_out/accuracy",
    "train_loss": "epoch/train_loss",
    "train_accuracy": "epoch/train_accuracy",
    "learning_rate": "epoch/learning_rate",
    "frames_per_second": "epoch/frames_per_second",
    "data_wait_share": "epoch/data_wait_share",
    "exchange_wait_share": "epoch/exchange_wait_share",
    "efficiency": "epoch/efficiency",
    "skipped_steps": "epoch/skipped_steps",
    "gradient_bytes_per_step": "exchange/gradient_bytes_per_step",
    "parameter_bytes_per_step": "exchange/parameter_bytes_per_step",
    "adaptive_bytes_per_step": "exchange/adaptive_bytes_per_step",
    "between_hosts_bytes_per_step": "exchange/between_hosts_bytes_per_step",
    "exchange_ms_per_step": "exchange/ms_per_step",
    "exchange_overlap": "exchange/overlap",
}
"""Keys of the log, and the names of their curves."""


def check_tensorboard() -> None:
    """See to it that TensorBoard is there, before anything runs.

    Raises:
        MissingPackageError: It is not installed.
    """
    if find_spec("tensorboard") is None:
        raise MissingPackageError(
            "engine.tensorboard needs the package tensorboard, which is not installed",
            remedy="pip install 'mariana-asr[tensorboard]', or leave engine.tensorboard out",
        )


@dataclass(frozen=True)
class _Sums:
    """Totals as they were at some step of an epoch."""

    loss: float = 0.0
    measure: float = 0.0
    frames: int = 0
    seconds: float = 0.0
    seconds_waiting: float = 0.0
    exposed_seconds: float = 0.0

    @classmethod
    def of(cls, totals: Totals) -> "_Sums":
        return cls(
            totals.loss,
            totals.measure,
            totals.frames,
            totals.seconds,
            totals.seconds_waiting,
            totals.exchange.exposed_seconds,
        )


class Scalars:
    """The event file of one training; where TensorBoard is not asked for, does nothing."""

    def __init__(self, out_dir: Path, *, wanted: bool) -> None:
        """``wanted``: whether this worker is the one that writes, and the user wants it."""
        self.path = out_dir / FOLDER / EVENT_FILE
        self._wanted = wanted
        self._written: dict[str, int] = {}
        self._before = _Sums()

    def start(self, step: int | None, totals: Totals) -> None:
        """Begin a file anew, or go on with the one there is.

        Args:
            step: The global step of the checkpoint that the run goes on from; what a run that was
                killed wrote after it is cut off. None for a new training.
            totals: Of the part of the epoch that is done.

        Raises:
            MarianaError: The file cannot be written.
        """
        if not self._wanted:
            return
        self._before = _Sums.of(totals)
        whole = 0 if step is None else self._read_until(step)
        try:
            if whole:
                os.truncate(self.path, whole)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise MarianaError(f"cannot write: {error.strerror}", where=self.path) from error
        from tensorboard.compat.proto.event_pb2 import Event

        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_steps(self, step: int, learning_rate: float, totals: Totals) -> None:
        """Points of the curves within an epoch: means over the steps since the last ones.

        Args:
            step: Global steps done; points are written every ``EVERY_STEPS``.
            learning_rate: Of the last step.
            totals: Of the epoch so far.
        """
        if not self._wanted or step % EVERY_STEPS:
            return
        now, before = _Sums.of(totals), self._before
        self._before = now
        seconds = max(now.seconds - before.seconds, 1e-9)
        frames = now.frames - before.frames
        values = {
            "train/learning_rate": learning_rate,
            "train/frames_per_second": frames / seconds,
            "train/data_wait_share": (now.seconds_waiting - before.seconds_waiting) / seconds,
            "train/exchange_wait_share": (now.exposed_seconds - before.exposed_seconds) / seconds,
        }
        if frames:
            values["train/loss"] = (now.loss - before.loss) / frames
            values["train/accuracy"] = (now.measure - before.measure) / frames
        self._add(step, values)

    def add_epoch(self, step: int, record: Mapping[str, Any]) -> None:
        """Points of the curves over epochs, from the epoch's line of the log."""
        if not self._wanted:
            return
        self._before = _Sums()
        self._add(step, {name: record[key] for key, name in _OF_EPOCH.items() if key in record})

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        new = {
            name: value
            for name, value in values.items()
            if step > self._written.get(name, -1) and math.isfinite(value)
        }
        if not new:
            return
        self._written.update(dict.fromkeys(new, step))
        summary = Summary(
            value=[Summary.Value(tag=name, simple_value=value) for name, value in new.items()]
        )
        self._append(Event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        try:
            with open(self.path, "ab") as file:
                RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            # What is torn is cut off when the training goes on.
            raise MarianaError(f"cannot write: {error.strerror}", where=self.path) from error

    def _read_until(self, step: int) -> int:
        """Note what was written up to a step; returns how many bytes that is."""
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event

        if not self.path.exists() or not self.path.stat().st_size:
            return 0
        end = 0
        # It stops at a record that is torn or damaged.
        for content in RawEventFileLoader(str(self.path)).Load():
            event = Event.FromString(content)
            if event.step > step:
                break
            self._written.update((value.tag, event.step) for value in event.summary.value)
            end += _FRAMING_BYTES + len(content)
        return end
