"""What a user sees while an epoch runs: a bar on a terminal, elsewhere a line now and then."""

import logging
import sys
import time
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mariana_asr.engine.training.totals import Totals

logger = logging.getLogger(__name__)

LINE_SECONDS = 30.0
"""Where there is no terminal, a line at most this often."""

BAR_SECONDS = 0.2
"""The bar is moved at most this often."""


class EpochProgress:
    """Progress through the minibatches of one epoch; a context manager."""

    def __init__(self, title: str, num_frames: int, done: int = 0, *, shown: bool = True) -> None:
        """``done`` frames of ``num_frames`` were trained before, by a run that was stopped."""
        self._title, self._num_frames = title, num_frames
        self._is_shown = shown
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f}% {task.fields[figures]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(title, total=num_frames, completed=done, figures="")
        self._started = self._shown = time.perf_counter()
        self._first = done

    def __enter__(self) -> "EpochProgress":
        """Show the bar, where there is one."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, totals: Totals, device: torch.device) -> None:
        """Show how far the epoch is, where the last time is long enough ago."""
        now = time.perf_counter()
        pause = LINE_SECONDS if self._bar is None else BAR_SECONDS
        if not self._is_shown or now - self._shown < pause:
            return
        self._shown = now
        seconds = now - self._started
        rate = (totals.frames - self._first) / seconds
        figures = [
            f"loss {totals.mean_loss:.4f}",
            f"accuracy {totals.accuracy:.2%}",
            f"{rate:,.0f} frames/s",
            f"{totals.data_wait_share:.0%} waiting for data",
        ]
        if totals.exchange.steps:
            figures.append(f"{totals.exchange_wait_share:.0%} for the exchange")
        if device.type == "cuda":
            figures.append(f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of GPU")
        text = ", ".join(figures)
        if self._bar is not None:
            self._bar.update(self._task, completed=totals.frames, figures=text)
        else:
            left = (self._num_frames - totals.frames) / max(rate, 1e-9)
            logger.info(
                "%s: %.0f%%, %s, %.0f s left",
                self._title,
                100 * totals.frames / self._num_frames,
                text,
                left,
            )
