"""The same function over many utterances in several processes."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import current_process, get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from mariana_asr.errors import StageError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def available_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """Processes that stay up over several passes, so that starting them is paid for once.

    They are spawned, not forked: forking a process that has started threads (torch, BLAS) can
    hang. So functions must be importable, and what is large (a graph, a model) is loaded once a
    process by ``setup``, or kept in files, rather than sent with each item. With ``jobs <= 1``
    everything runs in this process.
    """

    def __init__(
        self,
        jobs: int,
        *,
        setup: Callable[..., None] | None = None,
        setup_arguments: tuple[Any, ...] = (),
    ) -> None:
        self._jobs = jobs
        self._setup = setup
        self._setup_arguments = setup_arguments
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "WorkerPool":
        """Run ``setup``, here or in every process before its first item.

        Raises:
            StageError: A script starts processes as it is imported by such a process.
        """
        if self._jobs > 1:
            # Without this the process would wait for ever, and with it the one that started it.
            if getattr(current_process(), "_inheriting", False):
                raise StageError(
                    "the script starts processes whenever it is imported, and they import it too",
                    remedy="Put what it does under: if __name__ == '__main__'",
                )
            # The cores are shared out by processes already, so each gets one thread. Numeric
            # libraries read this as they are loaded, so it must stand before a process starts.
            self._environment = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
            os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
            self._pool = ProcessPoolExecutor(
                self._jobs,
                mp_context=get_context("spawn"),
                initializer=_start_process,
                initargs=(self._setup, self._setup_arguments),
            )
        elif self._setup is not None:
            self._setup(*self._setup_arguments)
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes; what they have not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            for name, value in self._environment.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def map(
        self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]
    ) -> Iterator[ResultT]:
        """Apply ``function`` to every item, in order.

        At most a few items a process are in flight, so memory does not grow with the corpus.
        However it ends, no process is at work on an item any more.

        Raises:
            StageError: A process was killed, most often for want of memory.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        pending: deque[Future[ResultT]] = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(function, item))
                if len(pending) >= 2 * self._jobs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            plain = function.func if isinstance(function, partial) else function
            raise StageError(
                f"one of {self._jobs} processes running {plain.__name__} died",
                remedy="If memory ran out, use fewer jobs",
            ) from error
        except KeyboardInterrupt:
            for process in list(self._pool._processes.values()):
                process.terminate()
            # They fail now; one that was cancelled meanwhile would upset the pool's own thread.
            wait(pending)
            pending.clear()
            raise
        finally:
            wait([future for future in pending if not future.cancel()])


def parallel_map(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    jobs: int,
    setup: Callable[..., None] | None = None,
    setup_arguments: tuple[Any, ...] = (),
) -> Iterator[ResultT]:
    """Apply ``function`` to every item, in order, over ``jobs`` processes (see WorkerPool).

    Raises:
        StageError: A process was killed, most often for want of memory.
    """
    with WorkerPool(jobs, setup=setup, setup_arguments=setup_arguments) as pool:
        yield from pool.map(function, items)


def _start_process(setup: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """End this process when the one that started it dies, however it dies; then set up."""
    # The terminal sends an interrupt to all processes. One that stopped while it held the lock of
    # the pool's queue would leave the others waiting for ever, so the first process ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    if setup is not None:
        setup(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
