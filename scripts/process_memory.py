"""Peak memory of a function and of the processes that it starts (Linux)."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_SECONDS_BETWEEN_SAMPLES = 0.02


@dataclass(frozen=True)
class PeakMemory:
    """Resident memory in MiB; what is mapped from files or shared with others counts too.

    Attributes:
        start: Of the process that runs the function, before it does.
        parent: Most that this process had.
        worker: Most that any process had that it started; 0 if it started none.
    """

    start: float
    parent: float
    worker: float


def measure_peak_memory(function: Callable[..., None], *arguments: Any) -> PeakMemory:
    """Run a function in a new process and see how much memory it and its own processes take.

    The kernel keeps each process's peak, ``VmHWM``: reading it now and then misses only what
    grows in the last moments of a process. The function and its arguments must be picklable.

    Raises:
        RuntimeError: The function did not end well; its error is on stderr. Or the system does not
            say which processes a process has started.
    """
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise RuntimeError("/proc does not list the processes that a process has started")
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, arguments))
    process.start()
    sender.close()
    assert process.pid is not None, "it has been started"
    peaks: dict[int, int] = {}
    while process.is_alive() and not receiver.poll():
        for child in _children(process.pid):
            # The last value is the peak. The first may be of the moment before a new process
            # leaves its parent's memory for its own program.
            peaks[child] = _status(child, "VmHWM") or peaks.get(child, 0)
        time.sleep(_SECONDS_BETWEEN_SAMPLES)
    try:
        start, parent = receiver.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"the measured process ended with code {process.exitcode}") from error
    process.join()
    return PeakMemory(_mib(start), _mib(parent), _mib(max(peaks.values(), default=0)))


def _run(sender: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    start = _status("self", "VmRSS")
    function(*arguments)
    sender.send((start, _status("self", "VmHWM")))


def _children(pid: int) -> list[int]:
    """Processes that a process has started, through any of its threads."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += map(int, task.read_text().split())
        except OSError:  # the thread has just ended
            continue
    return children


def _status(pid: int | str, key: str) -> int:
    """A value of /proc/PID/status in KiB; 0 if the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def _mib(kib: int) -> float:
    return round(kib / 1024, 1)
