"""Training a network to classify frames."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.launch.device import uses_gpus
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions, TrainOptions
from mariana_asr.engine.pretraining import pretrain
from mariana_asr.engine.training.frame_task import FrameTask
from mariana_asr.engine.training.job import TrainingJob, run_job, run_training, train_with_team
from mariana_asr.engine.training.objective import GroupTask
from mariana_asr.engine.training.stopping import StopSignal
from mariana_asr.engine.training.summary import TrainSummary
from mariana_asr.engine.training.task import Task
from mariana_asr.engine.training.tensorboard import check_tensorboard
from mariana_asr.errors import DataError, RecipeError
from mariana_asr.logs import LogTargets

__all__ = ["Job", "check_store", "run_job", "train_network", "train_with_team"]

PRETRAINING_FOLDER = "pretraining"


@dataclass
class Job(TrainingJob):
    """A training on frames, as every worker needs it."""

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

    def prepare(self, workers: Workers, stop: StopSignal) -> None:
        """Layer-wise pretraining, where the options ask for it."""
        if self.options.pretraining is not None:
            frames = FrameStore.open(self.train_dir)
            folder = self.out_dir / PRETRAINING_FOLDER
            pretrain(self.network, frames, self.options, self.engine, folder, workers, stop)

    def task(self, workers: Workers) -> Task:
        """As of :class:`TrainingJob`."""
        stores = FrameStore.open(self.train_dir), FrameStore.open(self.held_out_dir)
        return FrameTask(
            self.network, *stores, self.options, self.engine, workers, groups=self.groups
        )

    @property
    def memory_remedy(self) -> str:
        """As of :class:`TrainingJob`."""
        return (
            f"lower train.minibatch_size (now {self.options.minibatch_size}), "
            f"train.randomizer_size (now {self.options.randomizer_size}) or the network's size"
        )


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
        check_store(network, store, name)
    uses_gpus(engine)
    if engine.tensorboard:
        check_tensorboard()
    job = Job(network, train.directory, held_out.directory, options, engine, Path(out_dir))
    if not options.loss.needs_groups:
        return run_training(job)
    if groups is None:
        raise RecipeError("groups of classes are not known", where="train.loss")
    job.groups = torch.from_numpy(np.array(groups, dtype=np.int64))
    with GroupTask(network, int(groups.max()) + 1) if options.loss.group_task else nullcontext():
        return run_training(job)


def check_store(network: Any, store: FrameStore, name: str) -> None:
    """Check that the frames of a store fit a network.

    Raises:
        DataError: They do not; ``name`` says which store it is.
    """
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
