"""Training a network: in this process, in local workers, or in those that torchrun started."""

import io
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed import Store

from mariana_asr.engine.frames.frame_store import FrameStore
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
from mariana_asr.engine.options import EngineOptions, TrainOptions
from mariana_asr.engine.pretraining import pretrain
from mariana_asr.engine.training.checkpoint import CheckpointFolder, read_shared
from mariana_asr.engine.training.loop import CHECKPOINT_FOLDER, Training
from mariana_asr.engine.training.objective import GroupTask
from mariana_asr.engine.training.stopping import StopSignal
from mariana_asr.engine.training.summary import TrainSummary, summary_of
from mariana_asr.engine.training.tensorboard import check_tensorboard
from mariana_asr.errors import DataError, RecipeError, StageError
from mariana_asr.files import atomic_file
from mariana_asr.logs import LogTargets

WORKER_MODULE = "mariana_asr.engine.training.worker"
JOB_FILE = "job.pt"
PRETRAINING_FOLDER = "pretraining"


@dataclass
class Job:
    """A training, as every worker needs it."""

    network: nn.Module
    train_dir: Path
    held_out_dir: Path
    options: TrainOptions
    engine: EngineOptions
    out_dir: Path
    groups: Tensor | None = None
    """Of each class, where the loss needs groups."""
    logs: LogTargets = field(default_factory=LogTargets.of_this_process)
    """Where the first worker logs to."""

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
        job = io.BytesIO()
        torch.save(vars(self), job)
        search_path = [os.path.abspath(entry) for entry in sys.path]
        with atomic_file(path) as temporary:
            torch.save({"search_path": search_path, "job": job.getvalue()}, temporary)

    @classmethod
    def load(cls, path: Path) -> "Job":
        """Read what :meth:`save` wrote. It holds code; only jobs of this program are read.

        The network's class is looked for where the process that saved the job finds modules.
        """
        content = torch.load(path, weights_only=True)
        sys.path += [entry for entry in content["search_path"] if entry not in sys.path]
        job = torch.load(io.BytesIO(content["job"]), map_location="cpu", weights_only=False)
        return cls(**job)


def train_network(
    network: nn.Module,
    train: FrameStore,
    held_out: FrameStore,
    options: TrainOptions,
    out_dir: str | Path,
    engine: EngineOptions | None = None,
    *,
    groups: NDArray[np.integer] | None = None,
) -> TrainSummary:
    """Train a network to classify frames, and leave its best weights in it.

    Loss and frame accuracy on the held-out set are measured before the first epoch and after
    each; the schedule keeps or rejects the epoch and sets the learning rate. ``out_dir`` gets
    ``log.jsonl`` (one object an epoch) and ``checkpoints/``; if it holds checkpoints of the same
    training, that goes on where it stopped, and on a CPU ends with the same bits as if it had
    never been stopped. Afterwards the network is on the CPU, in evaluation mode.

    One worker trains in this process; several are started as processes of their own, which import
    the network's class, and look for it where this process finds modules.

    Args:
        network: An ``nn.Module`` with the attributes of
            :class:`~mariana_asr.nnet.network.FrameNetwork`, and optionally
            ``learning_rate_factors``: names of parameters with the factor on their rate.
        train: Frames to train on.
        held_out: Frames to watch the training on.
        options: Rates, sizes, schedule.
        out_dir: Folder for log and checkpoints.
        engine: Workers, devices, exchange.
        groups: (num_outputs,) number of each class's group, from 0, for a loss that needs them.

    Raises:
        DataError: A store does not fit the network.
        RecipeError: Options do not fit the network.
        MissingPackageError: TensorBoard is asked for and not installed.
        StageError: The loss is not finite again and again, the held-out loss never fell, memory
            ran out, there is no such device, workers died too often, or ``out_dir`` holds another
            training.
        Stopped: SIGTERM came; what was learnt is saved.
    """
    engine = engine or EngineOptions()
    for name, store in (("training", train), ("held-out", held_out)):
        _check_store(network, store, name)
    uses_gpus(engine)
    if engine.tensorboard:
        check_tensorboard()
    job = Job(network, train.directory, held_out.directory, options, engine, Path(out_dir))
    if not options.loss.needs_groups:
        return _train(job)
    if groups is None:
        raise RecipeError("groups of classes are not known", where="train.loss")
    job.groups = torch.from_numpy(np.array(groups, dtype=np.int64))
    with GroupTask(network, int(groups.max()) + 1) if options.loss.group_task else nullcontext():
        return _train(job)


def _train(job: Job) -> TrainSummary:
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


def run_job(job: Job, workers: Workers, *signals: signal.Signals) -> TrainSummary:
    """One worker's part of a training.

    Raises:
        MarianaError: As :func:`train_network`.
    """
    train, held_out = FrameStore.open(job.train_dir), FrameStore.open(job.held_out_dir)
    network = job.network.to(workers.device)
    # Dropout and the like draw numbers of their own in every worker.
    torch.manual_seed(job.options.seed + workers.rank)
    if workers.size > 1 and job.engine.sync_batch_norm:
        synchronise_batch_norm(network, workers)
    with StopSignal(*signals) as stop:
        if job.options.pretraining is not None:
            folder = job.out_dir / PRETRAINING_FOLDER
            pretrain(network, train, job.options, job.engine, folder, workers, stop)
        training = Training(
            network,
            train,
            held_out,
            job.options,
            job.engine,
            job.out_dir,
            workers,
            stop,
            groups=job.groups,
        )
        try:
            return training.run()
        except torch.OutOfMemoryError as error:
            raise StageError(
                f"{workers.device} has too little memory for training",
                remedy=f"Raise engine.accumulate (now {job.engine.accumulate}), or lower "
                f"train.minibatch_size (now {job.options.minibatch_size}), "
                f"train.randomizer_size (now {job.options.randomizer_size}) or the network's size",
            ) from error


def train_with_team(team: Team, message: str, store: Store) -> None:
    """One process' part of a training under torchrun.

    Args:
        team: The processes.
        message: Where the job is.
        store: Where the processes of this training meet.

    Raises:
        MarianaError: As :func:`train_network`.
    """
    job = Job.load(Path(message))
    with joined(
        job.engine,
        store,
        rank=team.rank,
        size=team.size,
        local_rank=team.local_rank,
        local_size=team.local_size,
    ) as workers:
        run_job(job, workers, signal.SIGTERM)


def _train_alone(job: Job) -> TrainSummary:
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


def _finished(job: Job) -> TrainSummary:
    """Take over what the workers' last checkpoint holds."""
    path = CheckpointFolder(job.out_dir / CHECKPOINT_FOLDER, 1).newest_whole()
    if path is None:
        raise StageError("the workers left no checkpoint", where=job.out_dir)
    shared = read_shared(path)
    job.network.load_state_dict(shared["best"])
    job.network.cpu().eval()
    return summary_of(shared["history"], job.options.initial_learning_rate, job.out_dir)


def _check_store(network: Any, store: FrameStore, name: str) -> None:
    where = f"{name} frames in {store.directory}"
    if store.dim != network.frame_dim:
        raise DataError(
            f"frames have {store.dim} values, the network takes {network.frame_dim}", where=where
        )
    highest = int(store.class_counts.nonzero()[0][-1])
    if highest >= network.num_outputs:
        raise DataError(
            f"there is a target {highest}, but the network has {network.num_outputs} outputs",
            where=where,
            remedy="Use the alignments and the model that belong together",
        )
