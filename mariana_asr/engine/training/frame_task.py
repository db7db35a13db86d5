"""The task of classifying frames: windows of a frame store, shuffled."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.randomizer import Minibatch, Randomizer
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions, TrainOptions
from mariana_asr.engine.training.evaluation import Evaluation, evaluate
from mariana_asr.engine.training.objective import FrameClassification
from mariana_asr.engine.training.task import Task
from mariana_asr.nnet.spec_augment import SpecAugment


class FrameTask(Task):
    """Classification of single frames, each of which counts alike."""

    source: Randomizer

    def __init__(
        self,
        network: Any,
        train: FrameStore,
        held_out: FrameStore,
        options: TrainOptions,
        engine: EngineOptions,
        workers: Workers,
        *,
        groups: Tensor | None = None,
    ) -> None:
        """Arguments as of ``train_network``; the network is on the workers' device already."""
        self._network, self._workers = network, workers
        self._train, self._held_out, self._groups = train, held_out, groups
        self.held_out_dir: Path = held_out.directory
        self._context = {
            "left_context": network.left_context,
            "right_context": network.right_context,
            "chunk_frames": network.chunk_frames,
        }
        self.objective = FrameClassification(
            network, options.loss, groups=groups, spec_augment=_spec_augment(options, train)
        ).to(workers.device)
        self._minibatch_size, self.rate_factor = minibatch_of(options, engine, workers.size)
        self.source = Randomizer(
            train,
            minibatch_size=self._minibatch_size,
            randomizer_size=options.randomizer_size,
            seed=options.seed,
            workers=workers,
            **self._context,
        )

    def evaluate(self) -> Evaluation:
        """As of :class:`Task`."""
        return evaluate(self.objective, self._held_out, self._workers, **self._context)

    def identity(self) -> dict[str, Any]:
        """As of :class:`Task`."""
        return {
            "options": {"frames of a minibatch": self._minibatch_size},
            "training frames": self._train.fingerprint,
            "held-out frames": self._held_out.fingerprint,
            "groups of classes": None if self._groups is None else self._groups.tolist(),
        }

    def describe(self) -> str:
        """As of :class:`Task`."""
        train, held_out = self._train, self._held_out
        return (
            f"{train.num_frames} frames of {train.num_utterances} utterances "
            f"(held out: {held_out.num_frames} of {held_out.num_utterances})"
        )

    def culprits(self, minibatch: Minibatch, epoch: int) -> list[int]:
        """As of :class:`Task`."""
        numbers = self.source.utterances_of(epoch, minibatch.step)
        self._network.eval()
        with torch.no_grad():
            logits = self._network(minibatch.inputs)
        self._network.train()
        broken = (~torch.isfinite(logits.view(len(numbers), -1)).all(dim=1)).tolist()
        found = [number for number, bad in zip(numbers, broken, strict=True) if bad]
        return found or (numbers if self._workers.size == 1 else [])

    def utterance_names(self, numbers: set[int]) -> list[str]:
        """As of :class:`Task`."""
        return self._train.utterance_names(numbers)


def minibatch_of(options: TrainOptions, engine: EngineOptions, workers: int) -> tuple[int, float]:
    """Frames of a minibatch of all workers, and the factor that its size puts on the rate."""
    if engine.minibatch_per_worker is None:
        return options.minibatch_size, 1.0
    size = engine.minibatch_per_worker * workers
    growth = size / options.minibatch_size
    step_growth = {"linear": growth, "sqrt": math.sqrt(growth), "none": 1.0}[engine.rate_scaling]
    # A step of SGD is a sum over frames, so it grows with the minibatch by itself.
    return size, step_growth / growth if options.optimiser.type == "sgd" else step_growth


def _spec_augment(options: TrainOptions, train: FrameStore) -> SpecAugment | None:
    """What masks the input, if the options ask for it."""
    if options.spec_augment is None:
        return None
    masks = options.spec_augment.model_dump(exclude={"bands"})
    mean = torch.from_numpy(train.mean).float()
    return SpecAugment(mean, bands=options.spec_augment.bands or train.dim, **masks)
