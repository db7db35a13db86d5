"""The training loop: epochs, the held-out set, rejection, checkpoints and the log."""

import logging
import math
import time
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import Any

from torch import Tensor

from mariana_asr.engine.exchange.meter import ExchangeFigures
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import EngineOptions, LearningOptions
from mariana_asr.engine.training.checkpoint import CheckpointFolder
from mariana_asr.engine.training.kept_epochs import KeptEpochs
from mariana_asr.engine.training.progress import EpochProgress, epoch_title
from mariana_asr.engine.training.resuming import identity_of, load_state, save_state
from mariana_asr.engine.training.schedule import make_schedule
from mariana_asr.engine.training.stepping import Stepper, step_seed
from mariana_asr.engine.training.stopping import Stopped, StopSignal
from mariana_asr.engine.training.summary import TrainSummary, summary_of, write_log
from mariana_asr.engine.training.task import Minibatch, Task
from mariana_asr.engine.training.tensorboard import Scalars
from mariana_asr.engine.training.totals import Totals, sum_over_workers
from mariana_asr.errors import StageError, summarise

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"

HEARTBEAT_STEPS = 10
"""Workers add up their figures, and agree on whether to stop, every so many steps."""


class Training:
    """One worker's training: everything that a checkpoint holds, and the loop over it."""

    def __init__(
        self,
        network: Any,
        task: Task,
        options: LearningOptions,
        engine: EngineOptions,
        out_dir: Path,
        workers: Workers,
        stop: StopSignal,
    ) -> None:
        self.network, self.task, self.workers, self.stop = network, task, workers, stop
        self.options, self.engine, self.out_dir = options, engine, out_dir
        self.stepper = Stepper(
            task.objective,
            workers,
            options,
            engine,
            learning_rate_factors=getattr(network, "learning_rate_factors", {}),
        )
        self.kept_epochs = KeptEpochs(out_dir, options.keep_epochs)
        self.checkpoints = CheckpointFolder(out_dir / CHECKPOINT_FOLDER, options.keep_checkpoints)
        self.identity = identity_of(network, task, options, engine)
        self.schedule = make_schedule(options.schedule, options.initial_learning_rate, math.inf)
        self.scalars = Scalars(out_dir, wanted=engine.tensorboard and workers.is_first)
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        self.global_step = 0
        self.next_step = 0
        self.totals = Totals()
        self.skipped = 0
        self.non_finite_in_a_row = 0
        self.must_stop = False

    def run(self) -> TrainSummary:
        """Train to the end; the network is left with its best weights."""
        if load_state(self):
            self._write_log()
            self._tidy_epochs()
            self.scalars.start(self.global_step, self.totals)
            logger.info("resumed in epoch %d at step %d", self.schedule.epoch + 1, self.next_step)
        else:
            self._start()
        while not self.schedule.finished:
            self._train_epoch()
            self._end_epoch()
        self.network.load_state_dict(self.best)
        return summary_of(self.history, self.options, self.out_dir)

    @property
    def _trains_apart(self) -> bool:
        """Whether each worker updates its own parameters, and skips steps alone."""
        return self.stepper.exchange.optimiser_state == "local"

    def _start(self) -> None:
        """Measure the network before the first epoch."""
        logger.info(
            "training %d parameters on %s, on %s%s",
            sum(p.numel() for p in self.network.parameters()),
            self.task.describe(),
            self.workers.device,
            f", {self.workers.size} workers, {self.engine.exchange.type}"
            if self.workers.size > 1
            else "",
        )
        initial = self.task.evaluate()
        if not math.isfinite(initial.loss):
            raise StageError(
                f"the held-out loss before training is {initial.loss}",
                where=self.task.held_out_dir,
                remedy="Check the features and the network's initial weights",
            )
        self.schedule = make_schedule(
            self.options.schedule, self.options.initial_learning_rate, initial.loss
        )
        self.best = self._weights()
        self.history = [
            {
                "epoch": 0,
                **self.task.notes,
                "held_out_loss": initial.loss,
                "held_out_accuracy": initial.accuracy,
            }
        ]
        self._write_log()
        self.scalars.start(None, self.totals)
        self.scalars.add_epoch(0, self.history[0])
        logger.info(
            "before training: held-out loss %.4f, accuracy %.2f%%",
            initial.loss,
            100 * initial.accuracy,
        )

    def _train_epoch(self) -> None:
        epoch = self.schedule.epoch + 1
        source = self.task.source
        order = source.order(epoch)
        self._num_steps = order.num_steps
        self.task.objective.train()
        self._clock = (time.perf_counter(), source.seconds_waiting)
        save_due = False
        with (
            EpochProgress(
                epoch_title(epoch, self.options.schedule),
                order.num_frames,
                self.totals.frames,
                shown=self.workers.is_first,
            ) as progress,
            closing(source.epoch(epoch, self.next_step)) as minibatches,
        ):
            for minibatch in minibatches:
                rate = self.schedule.rate(minibatch.step, order.num_steps) * self._warmup()
                seed = step_seed(self.options.seed, epoch, minibatch.step)
                if self.stepper.step(minibatch, self.task.rate_factor * rate, seed):
                    self.non_finite_in_a_row = 0
                else:
                    self._note_non_finite(minibatch, epoch, rate)
                self.next_step = minibatch.step + 1
                self.global_step += 1
                if self.global_step % HEARTBEAT_STEPS == 0:
                    self._gather()
                    progress.show(self.totals, self.workers.device)
                    self.scalars.add_steps(self.global_step, rate, self.totals)
                save_due |= self.next_step % self.options.checkpoint_every == 0
                if (save_due or self.must_stop) and self.stepper.exchange.at_boundary:
                    self._gather()
                    save_state(self)
                    save_due = False
                    self._leave_if_told()
        self.stepper.synchronise()
        self._gather()

    def _warmup(self) -> float:
        steps = self.options.warmup_steps
        return 1.0 if self.global_step >= steps else (self.global_step + 1) / steps

    def _gather(self) -> None:
        """Add what all workers did since the last time to the totals."""
        now, waited = time.perf_counter(), self.task.source.seconds_waiting
        figures = self.stepper.exchange.meter.take()
        size = self.workers.size
        loss, measure, frames, skipped, stop, waiting, *exchange = sum_over_workers(
            self.workers,
            self.stepper.take_sums(),
            # Where gradients are shared, all workers skip the same steps.
            self.skipped / (1 if self._trains_apart else size),
            self.stop.received,
            (waited - self._clock[1]) / size,
            *(value / size for value in astuple(figures)),
        )
        totals = self.totals
        totals.loss += loss
        totals.measure += measure
        totals.frames += round(frames)
        totals.skipped_steps += round(skipped)
        totals.seconds += now - self._clock[0]
        totals.seconds_waiting += waiting
        totals.exchange += ExchangeFigures.from_sums(exchange)
        self.must_stop = stop > 0
        self.skipped = 0
        self._clock = (now, waited)

    def _leave_if_told(self) -> None:
        if self.must_stop:
            raise Stopped(
                f"told to stop: epoch {self.schedule.epoch + 1} is saved up to step "
                f"{self.next_step}",
                where=self.checkpoints.directory,
                remedy="Run the same command to go on from there",
            )

    def _note_non_finite(self, minibatch: Minibatch, epoch: int, learning_rate: float) -> None:
        self.skipped += 1
        self.non_finite_in_a_row += 1
        numbers = set(self.task.culprits(minibatch, epoch))
        if not self._trains_apart:
            numbers = set(self.workers.gather(sorted(numbers)))
        names = summarise(self.task.utterance_names(numbers))
        place = f"epoch {epoch}, step {minibatch.step}"
        if self.workers.is_first or self._trains_apart:
            logger.warning(
                "%s: loss or gradient is not finite, step skipped; frames of utterances %s",
                place,
                names,
            )
        section = self.options.SECTION
        if self.non_finite_in_a_row >= self.options.max_non_finite:
            raise StageError(
                f"loss or gradient was not finite for {self.non_finite_in_a_row} minibatches in a "
                f"row, the last with frames of utterances {names}",
                where=place,
                remedy=f"Lower {section}.learning_rate (now {learning_rate:g}), "
                f"set {section}.max_grad_norm, or look at these utterances' features",
            )

    def _end_epoch(self) -> None:
        """Measure the epoch, keep or reject it, write log and checkpoint."""
        learning_rate = self.schedule.rate(0, self._num_steps)
        held_out = self.task.evaluate()
        decision = self.schedule.update(held_out.loss)
        totals = self.totals
        record = {
            "epoch": self.schedule.epoch,
            **self.task.notes,
            "learning_rate": learning_rate,
            "train_loss": totals.mean_loss,
            "train_accuracy": totals.accuracy,
            "held_out_loss": held_out.loss,
            "held_out_accuracy": held_out.accuracy,
            "accepted": decision.accepted,
            "best": decision.best,
            "workers": self.workers.size,
            **({"exchange": self.engine.exchange.type} if self.workers.size > 1 else {}),
            **totals.record(),
            "decision": decision.reason,
        }
        self.history.append(record)
        if self.workers.is_first:
            self.kept_epochs.write(record, self.network.state_dict())
        if decision.best:
            self.best = self._weights()
        if not decision.accepted:
            self.network.load_state_dict(self.best)
            self.stepper.optimiser.forget_momentum()
            self.stepper.exchange.reset()
        logger.info(
            "epoch %d: train loss %.4f, accuracy %.2f%%; held-out loss %.4f, accuracy %.2f%% (%s); "
            "learning rate %g; %s frames/s, %.1f%% of the time waiting for data%s; %s",
            self.schedule.epoch,
            totals.mean_loss,
            100 * totals.accuracy,
            held_out.loss,
            100 * held_out.accuracy,
            "accepted" if decision.accepted else "rejected",
            learning_rate,
            f"{totals.frames_per_second:,.0f}",
            100 * totals.data_wait_share,
            f", {100 * totals.exchange_wait_share:.1f}% for the exchange"
            if self.workers.size > 1
            else "",
            decision.reason,
        )
        self.totals = Totals()
        self.next_step = 0
        self._write_log()
        self.scalars.add_epoch(self.global_step, record)
        save_state(self)
        self._tidy_epochs()
        if not self.schedule.finished:
            self._leave_if_told()

    def _weights(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.network.state_dict().items()}

    def _tidy_epochs(self) -> None:
        if self.workers.is_first:
            self.kept_epochs.tidy(self.history)

    def _write_log(self) -> None:
        # Written whole from what the checkpoint holds: a resumed run repeats and loses no line.
        if self.workers.is_first:
            write_log(self.history, self.out_dir)
