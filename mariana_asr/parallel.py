"""The same function over many utterances in several processes."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from mariana_asr.errors import StageError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def available_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    *,
    jobs: int,
    setup: Callable[..., None] | None = None,
    setup_arguments: tuple[Any, ...] = (),
) -> Iterator[ResultT]:
    """Apply ``function`` to every item, in order, over ``jobs`` processes.

    Processes are spawned, not forked: forking a process that has started threads (torch, BLAS)
    can hang. So ``function`` and ``setup`` must be importable, and what is large (a graph, a
    model) is loaded once a process by ``setup`` rather than sent with each item. At most a few
    items a process are in flight, so memory does not grow with the corpus. With ``jobs <= 1``
    everything runs in this process.

    Raises:
        StageError: A process was killed, most often for want of memory.
    """
    if jobs <= 1:
        if setup is not None:
            setup(*setup_arguments)
        yield from map(function, items)
        return
    pending: deque[Future[ResultT]] = deque()
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=_start_process,
        initargs=(setup, setup_arguments),
    )
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 4 * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise StageError(
            f"one of {jobs} processes running {function.__name__} died",
            remedy="If memory ran out, use fewer jobs",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_process(setup: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Give each process one thread: the cores are shared out by processes already."""
    if setup is not None:
        setup(*arguments)
    threadpool_limits(1)
