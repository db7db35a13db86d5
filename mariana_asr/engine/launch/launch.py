"""Starting workers on this machine, through torch's elastic launcher."""

import logging
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mariana_asr.engine.launch.outcome import HOST, Outcome
from mariana_asr.engine.launch.torchrun import SHARED_STORE
from mariana_asr.errors import StageError

SECONDS_TO_SAVE = 60
"""How long workers that are told to stop have for a last checkpoint."""


def launch_workers(
    module: str,
    arguments: Sequence[str],
    *,
    size: int,
    threads: int,
    gpus: bool,
    max_restarts: int,
) -> None:
    """Run ``python -m module PORT arguments`` in ``size`` processes until they are done.

    When one of them dies, however it dies, all are started anew, up to ``max_restarts`` times;
    they go on from the last checkpoint. Each finds the usual variables of torchrun in its
    environment, and the launching process' :class:`Outcome` at PORT.

    Raises:
        MarianaError: What a worker told as the outcome.
        StageError: Workers died more often than ``max_restarts`` times, or this process was told
            to stop.
    """
    outcome = Outcome()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{HOST}:0",
        max_restarts=max_restarts,
        shutdown_timeout=SECONDS_TO_SAVE,
    )
    command = ["-m", module, str(outcome.port), *arguments]
    with _environment(threads, gpus=gpus), _quiet_launcher():
        try:
            elastic_launch(config, sys.executable)(*command)
        except SignalException as error:
            if outcome.is_known:
                outcome.check()
            raise StageError(f"stopped by {error.sigval.name}") from error
        except ChildFailedError as error:
            if outcome.is_known:
                outcome.check()
            rank, failure = error.get_first_failure()
            raise StageError(
                f"worker {rank} died ({failure.message or failure.exitcode}), "
                f"after {max_restarts} restarts",
                remedy="Look at its messages; run the same command to go on from the last "
                "checkpoint. If memory ran out, lower engine.workers or train.minibatch_size",
            ) from error
    outcome.check()


@contextmanager
def _environment(threads: int, *, gpus: bool) -> Iterator[None]:
    """Set what workers must find in their environment before they import torch."""
    values = {
        "OMP_NUM_THREADS": str(threads),
        SHARED_STORE: "1",
    }
    if not gpus:
        # Parts of torch talk to any GPU that they see, whatever the tensors are on.
        values["CUDA_VISIBLE_DEVICES"] = ""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """Show the launcher's errors, not what it tells of every step of its own work."""
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
