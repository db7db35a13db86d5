"""The process of a worker: ``python -m mariana_asr.engine.training.worker PORT JOB``.

torch's elastic launcher starts it; the environment says who it is, as under torchrun.
"""

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch.distributed as dist

from mariana_asr.engine.launch.group import joined
from mariana_asr.engine.launch.outcome import Outcome
from mariana_asr.engine.training.job import load_job, run_job
from mariana_asr.errors import MarianaError
from mariana_asr.logs import start_logging

# Not __name__, which is __main__ here: messages go where those of the package go.
logger = logging.getLogger("mariana_asr.engine.training.worker")


def main(port: str, job_path: str) -> None:
    """Do this worker's part of the job, and tell the launching process how it ended."""
    threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    local_rank, rank = int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"])
    outcome = Outcome(int(port))
    if outcome.is_known:
        # The workers were started anew after one of them ended with an error of the user's.
        return
    job = load_job(Path(job_path))
    if rank == 0:
        job.logs.take_over()
    else:
        start_logging(logging.WARNING, prefix=f"worker {rank}: ")
    restarts = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if rank == 0 and restarts != "0":
        logger.warning("a worker died; all are started anew (restart %s)", restarts)
    try:
        store, rank, size = next(dist.rendezvous("env://"))
        with joined(
            job.engine, store, rank=rank, size=size, local_rank=local_rank, local_size=size
        ) as workers:
            try:
                run_job(job, workers, signal.SIGTERM, signal.SIGINT)
                outcome.tell_done()
            except MarianaError as error:
                # Before this worker leaves the group, so that the others know why they lose it.
                outcome.tell_error(error)
    except Exception as error:
        if outcome.is_known:
            # Another worker has ended, and this one lost it: no reason to start them anew.
            return
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            logger.warning("worker %d lost its connection to the others", rank)
            sys.exit(1)
        raise


def _end_with_launcher(launcher: int) -> None:
    """End this process when the one that started it dies, however it dies."""
    while os.getppid() == launcher:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
