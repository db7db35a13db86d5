"""What a user sees while an epoch runs: a bar on a terminal, elsewhere a line now and then."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

LINE_SECONDS = 30.0
"""Where there is no terminal, a line at most this often."""

BAR_SECONDS = 0.2
"""The bar is moved at most this often."""


class EpochProgress:
    """Progress through the minibatches of one epoch; a context manager."""

    def __init__(self, title: str, num_frames: int, done: int = 0) -> None:
        """``done`` frames of ``num_frames`` were trained before, by a run that was stopped."""
        self._title, self._num_frames, self._done = title, num_frames, done
        self._bar: Progress | None = None
        if sys.stderr.isatty():
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

    def advance(self, frames: int, loss: float, waiting: float) -> None:
        """Note ``frames`` more; ``loss`` is the epoch's so far, ``waiting`` seconds for data."""
        self._done += frames
        now = time.perf_counter()
        if now - self._shown < (LINE_SECONDS if self._bar is None else BAR_SECONDS):
            return
        self._shown = now
        seconds = now - self._started
        figures = (
            f"loss {loss:.4f}, {(self._done - self._first) / seconds:,.0f} frames/s, "
            f"{waiting / seconds:.0%} waiting for data"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, figures=figures)
        else:
            logger.info("%s: %.0f%%, %s", self._title, 100 * self._done / self._num_frames, figures)
