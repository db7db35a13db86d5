"""Runs a function on several workers, as the tests of the engine need it."""

import io
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mariana_asr.engine.launch.workers import Workers

TIME_LIMIT = 60.0
"""Seconds after which workers that are not done are taken to hang."""


def run_workers(
    function: Callable[..., Any], size: int, *args: Any, per_host: int | None = None
) -> list[Any]:
    """Call ``function(workers, *args)`` in ``size`` new processes of one gloo group.

    Args:
        function: Defined at the top of a module, as are the classes of what it takes and returns.
        size: How many workers.
        args: What else it is called with; tensors should be small, they are copied.
        per_host: What the workers take for the number of workers of a host; by default all.

    Returns:
        What it returned on each worker, in their order.

    Raises:
        AssertionError: It raised something on a worker (whose traceback is in the message), a
            worker died, or they are not done in time.
    """
    # Processes of a server that has torch loaded already start in no time, and are as new as
    # spawned ones: it runs nothing else.
    context = multiprocessing.get_context("forkserver")
    # DistributedDataParallel imports torch._dynamo, which takes seconds.
    context.set_forkserver_preload(["mariana_asr.engine.exchange", "torch._dynamo"])
    with tempfile.TemporaryDirectory() as folder:
        meeting_point = Path(folder) / "meeting_point"
        pipes: dict[Any, int] = {}
        processes = []
        for rank in range(size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_work,
                args=(sender, meeting_point, rank, size, per_host or size, function, _pack(args)),
                daemon=True,
            )
            process.start()
            sender.close()
            pipes[receiver] = rank
            processes.append(process)
        try:
            return _collect(pipes, size)
        finally:
            for process in processes:
                process.join(timeout=5.0)
                if process.is_alive():
                    process.kill()
                    process.join()


def _collect(pipes: dict[Any, int], size: int) -> list[Any]:
    results: list[Any] = [None] * size
    failures: list[str] = []
    while pipes:
        # Where one has failed, the others soon fail or wait for it in vain.
        ready = wait(list(pipes), timeout=1.0 if failures else TIME_LIMIT)
        if not ready:
            waiting = sorted(pipes.values())
            failures.append(f"workers {waiting} were not done in time")
            break
        for pipe in ready:
            rank = pipes.pop(pipe)
            try:
                succeeded, results[rank] = _unpack(pipe.recv_bytes())
            except EOFError:
                failures.append(f"worker {rank} died")
                continue
            if not succeeded:
                failures.append(f"worker {rank} of {size}:\n{results[rank]}")
    assert not failures, "\n".join(failures)
    return results


def _work(
    pipe: Connection,
    meeting_point: Path,
    rank: int,
    size: int,
    per_host: int,
    function: Callable[..., Any],
    args: bytes,
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting_point}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=TIME_LIMIT / 2),
        )
        try:
            result = function(Workers(rank, size, torch.device("cpu"), per_host), *_unpack(args))
        finally:
            # Processes that leave without it abort.
            dist.destroy_process_group()
        pipe.send_bytes(_pack((True, result)))
    except BaseException:
        pipe.send_bytes(_pack((False, traceback.format_exc())))


def _pack(values: Any) -> bytes:
    """As bytes: multiprocessing would send tensors as memory that ends with their process."""
    packed = io.BytesIO()
    torch.save(values, packed)
    return packed.getvalue()


def _unpack(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=False)
