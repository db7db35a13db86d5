"""Layer-wise pretraining on the workers and the frame store of the training that follows.

Hinton, Osindero and Teh (2006), "A fast learning algorithm for deep belief nets"; Vincent et al.
(2008), "Extracting and composing robust features with denoising autoencoders".
"""

import logging
import math
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.randomizer import Randomizer
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    AdamOptions,
    AllReduceOptions,
    EngineOptions,
    RbmOptions,
    SgdOptions,
    TrainOptions,
)
from mariana_asr.engine.training.checkpoint import read_checkpoint, write_checkpoint
from mariana_asr.engine.training.loop import HEARTBEAT_STEPS
from mariana_asr.engine.training.stepping import Stepper, step_seed
from mariana_asr.engine.training.stopping import Stopped, StopSignal
from mariana_asr.engine.training.totals import sum_over_workers
from mariana_asr.errors import StageError
from mariana_asr.nnet.pretraining import PretrainingObjective, pretraining_stages

logger = logging.getLogger(__name__)

STEPS_OF_MEAN = 50
"""A layer begins at the mean of its input over so many minibatches."""


class _WithoutTargets(nn.Module):
    """An objective that learns from the frames alone, called as one that has targets."""

    def __init__(self, objective: PretrainingObjective) -> None:
        super().__init__()
        self.network = objective

    def forward(self, windows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and squared error of what is restored, both summed."""
        return self.network(windows)


def pretrain(
    network: Any,
    store: FrameStore,
    options: TrainOptions,
    engine: EngineOptions,
    folder: Path,
    workers: Workers,
    stop: StopSignal,
) -> None:
    """Pretrain the hidden layers of a network, one after the other.

    What the layers so far came to is kept in ``folder``: a run that was stopped goes on with the
    layer that it was at, and a finished pretraining is not repeated. Workers always sum their
    gradients in full, whatever exchange the training itself has.

    Args:
        network: On the workers' device; its hidden layers are changed.
        store: Frames; their targets are not used.
        options: ``options.pretraining`` says how.
        engine: Precision, storage and so on.
        folder: Where the finished layers are kept.
        workers: The workers.
        stop: Whether to stop.

    Raises:
        RecipeError: The network cannot be pretrained so.
        StageError: The error of a layer is not finite.
        Stopped: SIGTERM came; finished layers are saved.
    """
    assert options.pretraining is not None, "the caller has looked"
    engine = engine.model_copy(update={"exchange": AllReduceOptions(), "accumulate": 1})
    stages = pretraining_stages(network, options.pretraining)
    paths = [folder / f"{number:02d}-{name}.ckpt" for number, (name, _) in enumerate(stages)]
    done = max((number for number, path in enumerate(paths) if path.exists()), default=-1)
    if done >= 0:
        network.load_state_dict(read_checkpoint(paths[done], workers.device)["network"])
    for number, (name, objective) in enumerate(stages):
        if number <= done:
            continue
        layer = _Layer(number, name, objective.to(workers.device), options, engine, workers)
        layer.train(network, store, stop)
        if workers.is_first:
            write_checkpoint(paths[number], {"network": network.state_dict()})
            if number > 0:
                paths[number - 1].unlink()
        # Before any worker looks for the file of the next layer, or is stopped.
        workers.barrier()


class _Layer:
    """The pretraining of one layer."""

    def __init__(
        self,
        number: int,
        name: str,
        objective: PretrainingObjective,
        options: TrainOptions,
        engine: EngineOptions,
        workers: Workers,
    ) -> None:
        self.number, self.name, self.workers = number, name, workers
        self.options, self.pretraining = options, options.pretraining
        how = self.pretraining
        first = number == 0
        if isinstance(how, RbmOptions):
            self.epochs = how.first_layer_epochs if first else how.epochs
            self.rate = how.first_layer_learning_rate if first else how.learning_rate
            rule = {"optimiser": SgdOptions(momentum=how.momentum), "l2_penalty": how.l2_penalty}
        else:
            assert how is not None
            self.epochs, self.rate = how.epochs, how.learning_rate
            rule = {"optimiser": AdamOptions(type="adam"), "l2_penalty": 0.0}
        rule |= {"layer_rates": {}, "max_norm": None, "max_grad_norm": None}
        self.objective = _WithoutTargets(objective)
        self.stepper = Stepper(
            self.objective,
            workers,
            options.model_copy(update=rule),
            engine,
            learning_rate_factors={},
        )

    def train(self, network: Any, store: FrameStore, stop: StopSignal) -> None:
        """Train the layer for its epochs."""
        randomizer = Randomizer(
            store,
            left_context=network.left_context,
            right_context=network.right_context,
            chunk_frames=network.chunk_frames,
            minibatch_size=self.options.minibatch_size,
            randomizer_size=self.options.randomizer_size,
            # Orders of its own: an epoch of the training has the same number.
            seed=step_seed(self.options.seed, self.number + 1),
            workers=self.workers,
        )
        steps = randomizer.order(1).num_steps
        # The layers below leave the mode in which they were trained.
        self.objective.train()
        self._begin(randomizer)
        for epoch in range(1, self.epochs + 1):
            with closing(randomizer.epoch(epoch)) as minibatches:
                for minibatch in minibatches:
                    done = (epoch - 1) * steps + minibatch.step
                    rate = self._rate(done / (self.epochs * steps), minibatch.global_frames)
                    seed = step_seed(self.options.seed, self.number + 1, epoch, minibatch.step)
                    self.stepper.step(minibatch, rate, seed)
                    if done % HEARTBEAT_STEPS == 0:
                        self._leave_if_told(stop)
            self._report(epoch)
        self.stepper.exchange.close()

    @torch.no_grad()
    def _begin(self, randomizer: Randomizer) -> None:
        """Let the layer begin where its input's mean is."""
        layer = self.objective.network
        sums: Tensor | None = None
        with closing(randomizer.epoch(1)) as minibatches:
            for minibatch in islice(minibatches, STEPS_OF_MEAN):
                values = layer.visible(minibatch.inputs).double()
                # The last place counts the frames.
                found = torch.cat([values.sum(dim=0), values.new_tensor([len(values)])])
                sums = found if sums is None else sums + found
        assert sums is not None, "a store has frames"
        sums = self.workers.sum(sums)
        layer.begin((sums[:-1] / sums[-1]).float())

    def _rate(self, progress: float, frames: int) -> float:
        """The rate of a step, and for RBMs the momentum on the way; ``progress`` is 0 to 1."""
        how = self.pretraining
        if not isinstance(how, RbmOptions):
            return self.rate
        risen = min(1.0, 2.0 * progress)
        momentum = how.momentum + risen * (how.max_momentum - how.momentum)
        self.stepper.optimiser.set_momentum(momentum)
        # The rate is that of a minibatch's mean. It falls as the momentum rises, so that the steps
        # do not grow (rbm-train-cd1-frmshuff.cc).
        return self.rate * (1.0 - momentum) / frames

    def _leave_if_told(self, stop: StopSignal) -> None:
        told = torch.tensor(float(stop.received), device=self.workers.device)
        if self.workers.sum(told).item() > 0:
            raise Stopped(
                f"told to stop while pretraining layer {self.name}: the layers before it are saved",
                remedy="Run the same command to go on from there",
            )

    def _report(self, epoch: int) -> None:
        _, error, frames = sum_over_workers(self.workers, self.stepper.take_sums())
        error /= max(frames, 1)
        if not math.isfinite(error) or not frames:
            raise StageError(
                f"the error of restoring is {error} when pretraining layer {self.name}",
                remedy="Lower the learning rates of train.pretraining",
            )
        logger.info(
            "pretraining of layer %s, epoch %d of %d: squared error a frame %.4f",
            self.name,
            epoch,
            self.epochs,
            error,
        )
