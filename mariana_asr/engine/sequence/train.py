"""Sequence-discriminative training of a network that was trained on frames."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.launch.device import uses_gpus
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions, SequenceOptions
from mariana_asr.engine.sequence.lattice_store import LatticeStore
from mariana_asr.engine.sequence.source import LatticeData
from mariana_asr.engine.sequence.task import SequenceTask
from mariana_asr.engine.training.job import TrainingJob, run_training
from mariana_asr.engine.training.summary import TrainSummary
from mariana_asr.engine.training.task import Task
from mariana_asr.engine.training.tensorboard import check_tensorboard
from mariana_asr.engine.training.train import check_store
from mariana_asr.logs import LogTargets


@dataclass
class SequenceJob(TrainingJob):
    """A training on lattices, as every worker needs it."""

    network: nn.Module
    train_dirs: tuple[Path, Path]
    """Frame store and lattice store."""
    held_out_dirs: tuple[Path, Path]
    log_priors: Tensor
    groups: Tensor
    options: SequenceOptions
    engine: EngineOptions
    out_dir: Path
    logs: LogTargets = field(default_factory=LogTargets.of_this_process)
    """Where the first worker logs to."""

    def task(self, workers: Workers) -> Task:
        """As of :class:`TrainingJob`."""
        train, held_out = (
            LatticeData(FrameStore.open(frames), LatticeStore.open(lattices))
            for frames, lattices in (self.train_dirs, self.held_out_dirs)
        )
        return SequenceTask(
            self.network, train, held_out, self.log_priors, self.groups, self.options, workers
        )

    @property
    def memory_remedy(self) -> str:
        """As of :class:`TrainingJob`."""
        return f"lower sequence.utterances_per_step (now {self.options.utterances_per_step})"


def train_on_lattices(
    network: nn.Module,
    train: LatticeData,
    held_out: LatticeData,
    log_priors: NDArray[np.floating],
    options: SequenceOptions,
    out_dir: str | Path,
    engine: EngineOptions | None = None,
    *,
    groups: NDArray[np.integer] | None = None,
) -> TrainSummary:
    """Train a network on lattices, and leave its best weights in it.

    As ``train_network``, which it begins where that ended: with the same checkpoints, workers,
    exchanges and log. Loss and accuracy are the criterion's loss a frame, for sMBR the share of
    frames that the lattices expect to be wrong, and the share that they expect to be right.
    Minibatches are whole utterances; every utterance with a lattice comes once an epoch.

    Args:
        network: As of ``train_network``; trained.
        train: Frames and lattices to train on.
        held_out: Frames and lattices to watch the training on.
        log_priors: (num_outputs,) what logits less these are log-likelihoods of.
        options: Criterion, rates, schedule.
        out_dir: Folder for log and checkpoints.
        engine: Workers, devices, exchange. Nothing is compiled: utterances differ in length.
        groups: (num_outputs,) number of each class's group; a class counts as right where its
            group is the reference's. By default each is a group of its own.

    Raises:
        DataError: Frames or lattices do not fit the network or each other.
        RecipeError: Options do not fit the network.
        MissingPackageError: TensorBoard is asked for and not installed.
        StageError: As of ``train_network``.
        Stopped: SIGTERM came; what was learnt is saved.
    """
    engine = (engine or EngineOptions()).model_copy(update={"compile": False})
    for name, data in (("training", train), ("held-out", held_out)):
        check_store(network, data.frames, name)
        data.lattices.check(data.frames)
    uses_gpus(engine)
    if engine.tensorboard:
        check_tensorboard()
    groups = np.arange(len(log_priors)) if groups is None else groups
    job = SequenceJob(
        network,
        (train.frames.directory, train.lattices.directory),
        (held_out.frames.directory, held_out.lattices.directory),
        torch.from_numpy(np.array(log_priors, dtype=np.float32)),
        torch.from_numpy(np.array(groups, dtype=np.int64)),
        options,
        engine,
        Path(out_dir),
    )
    return run_training(job)
