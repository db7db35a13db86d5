"""The training loop: epochs, the held-out set, rejection, checkpoints and the log."""

import logging
import math
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.randomizer import Minibatch, Randomizer
from mariana_asr.engine.launch.device import choose_device
from mariana_asr.engine.optimisers.optimiser import FrameSgd
from mariana_asr.engine.options import NewbobOptions, TrainOptions
from mariana_asr.engine.training.checkpoint import CheckpointFolder
from mariana_asr.engine.training.evaluation import Evaluation, evaluate
from mariana_asr.engine.training.progress import EpochProgress
from mariana_asr.engine.training.schedule import Newbob
from mariana_asr.engine.training.summary import TrainSummary, summary_of, write_log
from mariana_asr.errors import DataError, StageError, summarise

__all__ = ["FrameNetwork", "NewbobOptions", "TrainOptions", "TrainSummary", "train_network"]

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"

RUN_OPTIONS = {"device", "checkpoint_every", "keep_checkpoints", "max_non_finite"}
"""Options that may differ between a run and the one that resumes it."""


class FrameNetwork(Protocol):
    """What training needs of a network, which is an ``nn.Module`` besides.

    It maps windows (B, (left_context + 1 + right_context) * frame_dim) to logits (B, num_outputs).
    """

    frame_dim: int
    num_outputs: int
    left_context: int
    right_context: int


@dataclass
class _Totals:
    """Sums over the part of an epoch that is done."""

    loss: float = 0.0
    correct: int = 0
    frames: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0
    seconds_waiting: float = 0.0


def train_network(
    network: nn.Module,
    train: FrameStore,
    held_out: FrameStore,
    options: TrainOptions,
    out_dir: str | Path,
) -> TrainSummary:
    """Train a network on frames with cross-entropy, and leave its best weights in it.

    Loss and frame accuracy on the held-out set are measured before the first epoch and after
    each; the schedule keeps or rejects the epoch and sets the learning rate. ``out_dir`` gets
    ``log.jsonl`` (one object an epoch) and ``checkpoints/``; if it holds checkpoints of the same
    training, that goes on where it stopped, and on a CPU ends with the same bits as if it had
    never been stopped. Afterwards the network is on the CPU, in evaluation mode.

    Args:
        network: An ``nn.Module`` with the attributes of :class:`FrameNetwork`, and optionally
            ``learning_rate_factors``: names of parameters with the factor on their rate.
        train: Frames to train on.
        held_out: Frames to watch the training on.
        options: Rates, sizes, schedule, device.
        out_dir: Folder for log and checkpoints.

    Raises:
        DataError: A store does not fit the network.
        StageError: The loss is not finite again and again, the held-out loss never fell, memory
            ran out, there is no such device, or ``out_dir`` holds another training.
    """
    for name, store in (("training", train), ("held-out", held_out)):
        _check_store(network, store, name)
    device = choose_device(options.device)
    # Dropout draws from torch's generators: the caller's own numbers are left alone.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        training = _Training(network, train, held_out, options, Path(out_dir), device)
        try:
            return training.run()
        except torch.OutOfMemoryError as error:
            raise StageError(
                f"{device} has too little memory for training",
                remedy=f"Lower train.minibatch_size (now {options.minibatch_size}), "
                f"train.randomizer_size (now {options.randomizer_size}) or the network's size",
            ) from error


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


class _Training:
    """One training: everything that a checkpoint holds, and the loop over it."""

    def __init__(
        self,
        network: Any,
        train: FrameStore,
        held_out: FrameStore,
        options: TrainOptions,
        out_dir: Path,
        device: torch.device,
    ) -> None:
        self.network = network.to(device)
        self.train, self.held_out = train, held_out
        self.options, self.out_dir, self.device = options, out_dir, device
        self.context = {
            "left_context": network.left_context,
            "right_context": network.right_context,
        }
        self.optimiser = FrameSgd(
            network,
            momentum=options.momentum,
            l2_penalty=options.l2_penalty,
            max_grad_norm=options.max_grad_norm,
            learning_rate_factors=getattr(network, "learning_rate_factors", {}),
        )
        self.randomizer = Randomizer(
            train,
            minibatch_size=options.minibatch_size,
            randomizer_size=options.randomizer_size,
            seed=options.seed,
            device=device,
            **self.context,
        )
        self.checkpoints = CheckpointFolder(out_dir / CHECKPOINT_FOLDER, options.keep_checkpoints)
        self.identity: dict[str, Any] = {
            "options": options.model_dump(mode="json", exclude=RUN_OPTIONS),
            "training frames": train.fingerprint,
            "held-out frames": held_out.fingerprint,
            "network": {name: list(t.shape) for name, t in network.state_dict().items()},
        }
        self.schedule = Newbob(options.schedule, options.learning_rate, math.inf)
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        self.global_step = 0
        self.next_step = 0
        self.totals = _Totals()
        self.non_finite_in_a_row = 0

    def run(self) -> TrainSummary:
        if not self._resume():
            self._start()
        while not self.schedule.finished:
            self._train_epoch()
            self._end_epoch()
        self.network.load_state_dict(self.best)
        self.network.cpu().eval()
        return summary_of(self.history, self.options.learning_rate, self.out_dir)

    def _evaluate(self) -> Evaluation:
        return evaluate(self.network, self.held_out, device=self.device, **self.context)

    def _start(self) -> None:
        """Measure the network before the first epoch."""
        parameters = sum(p.numel() for p in self.network.parameters())
        logger.info(
            "training %d parameters on %d frames of %d utterances (held out: %d of %d), on %s",
            parameters,
            self.train.num_frames,
            self.train.num_utterances,
            self.held_out.num_frames,
            self.held_out.num_utterances,
            self.device,
        )
        initial = self._evaluate()
        if not math.isfinite(initial.loss):
            raise StageError(
                f"the held-out loss before training is {initial.loss}",
                where=self.held_out.directory,
                remedy="Check the features and the network's initial weights",
            )
        self.schedule = Newbob(self.options.schedule, self.options.learning_rate, initial.loss)
        self.best = self._weights()
        self.history = [
            {"epoch": 0, "held_out_loss": initial.loss, "held_out_accuracy": initial.accuracy}
        ]
        self._write_log()
        logger.info(
            "before training: held-out loss %.4f, accuracy %.2f%%",
            initial.loss,
            100 * initial.accuracy,
        )

    def _train_epoch(self) -> None:
        epoch = self.schedule.epoch + 1
        order = self.randomizer.order(epoch)
        self.network.train()
        waited = self.randomizer.seconds_waiting
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        done = order.minibatch(self.next_step - 1)[1] if self.next_step else 0
        totals_before = (self.totals.seconds, self.totals.seconds_waiting)
        started = time.perf_counter()
        title = f"epoch {epoch}"
        with (
            EpochProgress(title, order.num_frames, done) as progress,
            closing(self.randomizer.epoch(epoch, self.next_step)) as minibatches,
        ):
            for minibatch in minibatches:
                self._step(minibatch, correct)
                self.next_step = minibatch.step + 1
                self.global_step += 1
                waiting = self.randomizer.seconds_waiting - waited
                self.totals.seconds = totals_before[0] + time.perf_counter() - started
                self.totals.seconds_waiting = totals_before[1] + waiting
                mean_loss = self.totals.loss / max(self.totals.frames, 1)
                progress.advance(len(minibatch.targets), mean_loss, waiting)
                if self.next_step % self.options.checkpoint_every == 0:
                    self.totals.correct += int(correct.item())
                    correct.zero_()
                    self._save()
        self.totals.correct += int(correct.item())

    def _step(self, minibatch: Minibatch, correct: Tensor) -> None:
        """Forward, backward, update; a minibatch whose loss is not finite changes nothing."""
        frames = len(minibatch.targets)
        self.optimiser.zero_grad()
        logits = self.network(minibatch.inputs)
        loss = cross_entropy(logits, minibatch.targets, reduction="sum")
        loss.backward()
        value = loss.item()
        if not math.isfinite(value) or not self.optimiser.step(self.schedule.learning_rate, frames):
            self._note_non_finite(minibatch)
            return
        self.non_finite_in_a_row = 0
        self.totals.loss += value
        self.totals.frames += frames
        # As argmax == target, which is ten times slower on a CPU; only here do ties count.
        logits = logits.detach()
        of_target = logits.gather(1, minibatch.targets[:, None]).squeeze(1)
        correct += (of_target == logits.amax(dim=1)).sum()

    def _note_non_finite(self, minibatch: Minibatch) -> None:
        self.totals.skipped_steps += 1
        self.non_finite_in_a_row += 1
        names = self.train.utterance_names(minibatch.utterances.tolist())
        place = f"epoch {self.schedule.epoch + 1}, step {minibatch.step}"
        logger.warning(
            "%s: loss or gradient is not finite, step skipped; frames of utterances %s",
            place,
            summarise(names),
        )
        if self.non_finite_in_a_row >= self.options.max_non_finite:
            raise StageError(
                f"loss or gradient was not finite for {self.non_finite_in_a_row} minibatches in a "
                f"row, the last with frames of utterances {summarise(names)}",
                where=place,
                remedy=f"Lower train.learning_rate (now {self.schedule.learning_rate:g}), "
                "set train.max_grad_norm, or look at these utterances' features",
            )

    def _end_epoch(self) -> None:
        """Measure the epoch, keep or reject it, write log and checkpoint."""
        learning_rate = self.schedule.learning_rate
        held_out = self._evaluate()
        decision = self.schedule.update(held_out.loss)
        totals = self.totals
        frames = max(totals.frames, 1)
        record = {
            "epoch": self.schedule.epoch,
            "learning_rate": learning_rate,
            "train_loss": totals.loss / frames,
            "train_accuracy": totals.correct / frames,
            "held_out_loss": held_out.loss,
            "held_out_accuracy": held_out.accuracy,
            "accepted": decision.accepted,
            "frames": totals.frames,
            "skipped_steps": totals.skipped_steps,
            "seconds": round(totals.seconds, 3),
            "frames_per_second": round(totals.frames / max(totals.seconds, 1e-9), 1),
            "data_wait_share": round(totals.seconds_waiting / max(totals.seconds, 1e-9), 5),
            "decision": decision.reason,
        }
        self.history.append(record)
        if decision.accepted:
            self.best = self._weights()
        else:
            self.network.load_state_dict(self.best)
            self.optimiser.forget_momentum()
        logger.info(
            "epoch %d: train loss %.4f, accuracy %.2f%%; held-out loss %.4f, accuracy %.2f%% (%s); "
            "learning rate %g; %s frames/s, %.1f%% of the time waiting for data; %s",
            self.schedule.epoch,
            record["train_loss"],
            100 * totals.correct / frames,
            held_out.loss,
            100 * held_out.accuracy,
            "accepted" if decision.accepted else "rejected",
            learning_rate,
            f"{record['frames_per_second']:,.0f}",
            100 * totals.seconds_waiting / max(totals.seconds, 1e-9),
            decision.reason,
        )
        self.totals = _Totals()
        self.next_step = 0
        self._write_log()
        self._save()

    def _weights(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.network.state_dict().items()}

    def _write_log(self) -> None:
        # Written whole from what the checkpoint holds: a resumed run repeats and loses no line.
        write_log(self.history, self.out_dir)

    def _save(self) -> None:
        random_states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_states["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "schedule": self.schedule.state_dict(),
            "global_step": self.global_step,
            "next_step": self.next_step,
            "totals": asdict(self.totals),
            "non_finite_in_a_row": self.non_finite_in_a_row,
            "history": self.history,
            "random_states": random_states,
        }
        self.checkpoints.save(state, self.global_step)

    def _resume(self) -> bool:
        """Go on from the newest whole checkpoint; False if there is none."""
        state = self.checkpoints.load_latest()
        if state is None:
            return False
        self._check_identity(state["identity"])
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = {name: tensor.to(self.device) for name, tensor in state["best"].items()}
        self.schedule.load_state_dict(state["schedule"])
        self.global_step, self.next_step = state["global_step"], state["next_step"]
        self.totals = _Totals(**state["totals"])
        self.non_finite_in_a_row = state["non_finite_in_a_row"]
        self.history = state["history"]
        torch.set_rng_state(state["random_states"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["random_states"]:
            torch.cuda.set_rng_state(state["random_states"]["cuda"], self.device)
        self._write_log()
        logger.info("resumed in epoch %d at step %d", self.schedule.epoch + 1, state["next_step"])
        return True

    def _check_identity(self, found: dict[str, Any]) -> None:
        before, now = found["options"], self.identity["options"]
        changed = [
            f"{key} ({before.get(key)} -> {now[key]})" for key in now if before.get(key) != now[key]
        ]
        changed += [
            key
            for key in self.identity
            if key != "options" and found.get(key) != self.identity[key]
        ]
        if changed:
            raise StageError(
                f"these checkpoints are of another training: {', '.join(changed)} changed",
                where=self.checkpoints.directory,
                remedy="Remove the folder to train anew, or restore what was changed",
            )
