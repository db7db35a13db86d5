"""A training as every worker needs it, and one worker's part of it."""

import io
import os
import signal
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import nn
from torch.distributed import Store

from mariana_asr.engine.launch.device import (
    local_device,
    num_local_workers,
    threads_per_worker,
    uses_gpus,
)
from mariana_asr.engine.launch.group import joined
from mariana_asr.engine.launch.launch import launch_workers
from mariana_asr.engine.launch.torchrun import Team, current_team
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.normalisation import synchronise_batch_norm
from mariana_asr.engine.options import EngineOptions, LearningOptions
from mariana_asr.engine.training.checkpoint import CheckpointFolder, read_shared
from mariana_asr.engine.training.loop import CHECKPOINT_FOLDER, Training
from mariana_asr.engine.training.stopping import StopSignal
from mariana_asr.engine.training.summary import TrainSummary, summary_of
from mariana_asr.engine.training.task import Task
from mariana_asr.errors import StageError
from mariana_asr.files import atomic_file
from mariana_asr.logs import LogTargets

WORKER_MODULE = "mariana_asr.engine.training.worker"
JOB_FILE = "job.pt"


class TrainingJob(ABC):
    """A training, as every worker needs it: a dataclass whose fields torch can save.

    Attributes:
        network: The network.
        options: Rates and schedule, and what the kind of training has besides.
        engine: Workers, devices, exchange.
        out_dir: Folder for log and checkpoints.
        logs: Where the first worker logs to.
    """

    network: nn.Module
    options: LearningOptions
    engine: EngineOptions
    out_dir: Path
    logs: LogTargets

    @abstractmethod
    def task(self, workers: Workers) -> Task:
        """What a worker does; the network is on its device already."""

    @property
    @abstractmethod
    def memory_remedy(self) -> str:
        """What to do where memory runs out, beside raising ``engine.accumulate``."""

    def prepare(self, workers: Workers, stop: StopSignal) -> None:  # noqa: B027 (most have nothing)
        """Bring the network to where the training begins."""

    def save(self, path: Path) -> None:
        """Write the job for other processes.

        Raises:
            StageError: They could not import the network's class.
        """
        kind = type(self.network)
        if kind.__module__ == "__main__":
            raise StageError(
                f"{kind.__name__} is defined in the script itself, where workers cannot import it",
                remedy="Put the class into a module of its own, or use engine.workers=1",
            )
        job, content = io.BytesIO(), io.BytesIO()
        torch.save(self, job)
        search_path = [os.path.abspath(entry) for entry in sys.path]
        torch.save({"search_path": search_path, "job": job.getvalue()}, content)
        # Not by torch, whose error on a full disk does not say so.
        with atomic_file(path) as temporary:
            temporary.write_bytes(content.getbuffer())


def load_job(path: Path) -> TrainingJob:
    """Read what :meth:`TrainingJob.save` wrote. It holds code; only jobs of this program are read.

    The network's class is looked for where the process that saved the job finds modules.
    """
    content = torch.load(path, weights_only=True)
    sys.path += [entry for entry in content["search_path"] if entry not in sys.path]
    return torch.load(io.BytesIO(content["job"]), map_location="cpu", weights_only=False)


def run_training(job: TrainingJob) -> TrainSummary:
    """Run a training in this process, in local workers, or in those that torchrun started.

    Afterwards the job's network has its best weights, is on the CPU and in evaluation mode.

    Raises:
        MarianaError: Whatever the training raises.
    """
    engine = job.engine
    team = current_team()
    size = num_local_workers(engine)
    if team is None and size == 1:
        return _train_alone(job)
    path = job.out_dir / JOB_FILE
    job.save(path)
    if team is not None:
        train_with_team(team, str(path), team.call(str(path)))
    else:
        launch_workers(
            WORKER_MODULE,
            [str(path)],
            size=size,
            threads=threads_per_worker(engine, size),
            gpus=uses_gpus(engine),
            max_restarts=engine.max_restarts,
        )
    path.unlink()
    return _finished(job)


def run_job(job: TrainingJob, workers: Workers, *signals: signal.Signals) -> TrainSummary:
    """One worker's part of a training.

    Raises:
        MarianaError: As :func:`run_training`.
    """
    network = job.network.to(workers.device)
    # Dropout and the like draw numbers of their own in every worker.
    torch.manual_seed(job.options.seed + workers.rank)
    if workers.size > 1 and job.engine.sync_batch_norm:
        synchronise_batch_norm(network, workers)
    with StopSignal(*signals) as stop:
        job.prepare(workers, stop)
        training = Training(
            network, job.task(workers), job.options, job.engine, job.out_dir, workers, stop
        )
        try:
            return training.run()
        except torch.OutOfMemoryError as error:
            raise StageError(
                f"{workers.device} has too little memory for training",
                remedy=f"Raise engine.accumulate (now {job.engine.accumulate}), or "
                f"{job.memory_remedy}",
            ) from error


def train_with_team(team: Team, message: str, store: Store) -> None:
    """One process' part of a training under torchrun.

    Args:
        team: The processes.
        message: Where the job is.
        store: Where the processes of this training meet.

    Raises:
        MarianaError: As :func:`run_training`.
    """
    job = load_job(Path(message))
    with joined(
        job.engine,
        store,
        rank=team.rank,
        size=team.size,
        local_rank=team.local_rank,
        local_size=team.local_size,
    ) as workers:
        run_job(job, workers, signal.SIGTERM)


def _train_alone(job: TrainingJob) -> TrainSummary:
    device = local_device(job.engine, 0)
    threads = torch.get_num_threads()
    # The caller's random numbers and threads are left alone.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if job.engine.threads is not None:
            torch.set_num_threads(job.engine.threads)
        try:
            summary = run_job(job, Workers.alone(device), signal.SIGTERM)
        finally:
            torch.set_num_threads(threads)
    job.network.cpu().eval()
    return summary


def _finished(job: TrainingJob) -> TrainSummary:
    """Take over what the workers' last checkpoint holds."""
    path = CheckpointFolder(job.out_dir / CHECKPOINT_FOLDER, 1).newest_whole()
    if path is None:
        raise StageError("the workers left no checkpoint", where=job.out_dir)
    shared = read_shared(path)
    job.network.load_state_dict(shared["best"])
    job.network.cpu().eval()
    return summary_of(shared["history"], job.options, job.out_dir)
