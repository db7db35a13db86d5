"""Being told to stop: a last checkpoint, and away."""

import signal
import threading
from types import FrameType, TracebackType

from mariana_asr.errors import MarianaError


class Stopped(MarianaError):
    """Training was told to stop by a signal; what was learnt is saved."""


class StopSignal:
    """Notes SIGTERM (and in a launched worker SIGINT) while training runs; a context manager.

    Attributes:
        received: Whether the signal has come.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        """The signals to note in place of what they did before."""
        self.received = False
        # Only the main thread may handle signals: in a notebook's thread they act as ever.
        can_handle = threading.current_thread() is threading.main_thread()
        self._signals = signals if can_handle else ()
        self._before: list[object] = []

    def __enter__(self) -> "StopSignal":
        """Take the signals over."""
        self._before = [signal.signal(number, self._note) for number in self._signals]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give them back."""
        for number, handler in zip(self._signals, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
