"""What a user sees while an epoch runs: a bar on a terminal, elsewhere a line now and then."""

import logging
import time
from collections.abc import Callable
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mariana_asr.engine.options import NewbobOptions, ScheduleOptions
from mariana_asr.engine.training.totals import Totals

logger = logging.getLogger(__name__)

LINE_SECONDS = 30.0
"""Where there is no terminal, a line at most this often."""

BAR_SECONDS = 0.2
"""The bar is moved at most this often."""


class EpochProgress:
    """Progress through the minibatches of one epoch; a context manager."""

    def __init__(
        self,
        title: str,
        num_frames: int,
        done: int = 0,
        *,
        shown: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``done`` frames of ``num_frames`` were trained before, by a run that was stopped.

        Args:
            title: What is shown, such as ``epoch 3``.
            num_frames: Frames of the epoch.
            done: Frames trained before.
            shown: Whether to show anything: only the first worker does.
            console: Where the bar goes; by default standard error.
            clock: The time in seconds.
        """
        self._title, self._num_frames = title, num_frames
        self._is_shown = shown
        self._clock = clock
        console = console or Console(stderr=True)
        self._bar: Progress | None = None
        if shown and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.percentage:3.0f}% {task.fields[figures]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(title, total=num_frames, completed=done, figures="")
        self._started = self._shown = clock()
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
        now = self._clock()
        pause = LINE_SECONDS if self._bar is None else BAR_SECONDS
        if not self._is_shown or now - self._shown < pause:
            return
        self._shown = now
        # Of this run alone: what one before it took says nothing of the time left now.
        rate = (totals.frames - self._first) / max(now - self._started, 1e-9)
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
        if rate > 0:
            figures.append(f"{time_left((self._num_frames - totals.frames) / rate)} left")
        text = ", ".join(figures)
        if self._bar is not None:
            self._bar.update(self._task, completed=totals.frames, figures=text)
        else:
            share = 100 * totals.frames / self._num_frames
            logger.info("%s: %.0f%%, %s", self._title, share, text)


def epoch_title(epoch: int, schedule: ScheduleOptions) -> str:
    """``epoch 3 of 10``; with newbob, which ends when the loss says so, ``epoch 3``."""
    return f"epoch {epoch}" + (
        "" if isinstance(schedule, NewbobOptions) else f" of {schedule.epochs}"
    )


def time_left(seconds: float) -> str:
    """Seconds for people: ``45 s``, ``3:05 min``, ``2:07 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
