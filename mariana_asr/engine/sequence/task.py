"""The task of sequence training: utterances with lattices."""

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import SequenceOptions
from mariana_asr.engine.sequence.objective import SequenceObjective
from mariana_asr.engine.sequence.source import LatticeData, UtteranceMinibatch, UtteranceSource
from mariana_asr.engine.training.evaluation import Evaluation
from mariana_asr.engine.training.task import Task
from mariana_asr.nnet.utterance_logits import utterance_logits

HELD_OUT_UTTERANCES = 4
"""Utterances of each worker that are measured at a time."""


class SequenceTask(Task):
    """A sequence criterion on the lattices of utterances."""

    source: UtteranceSource

    def __init__(
        self,
        network: Any,
        train: LatticeData,
        held_out: LatticeData,
        log_priors: Tensor,
        groups: Tensor,
        options: SequenceOptions,
        workers: Workers,
    ) -> None:
        """Arguments as of ``train_on_lattices``; the network is on the workers' device already."""
        self._network, self._workers = network, workers
        self._train, self._held_out = train, held_out
        self.held_out_dir: Path = held_out.lattices.directory
        self.objective = SequenceObjective(network, options, log_priors, groups).to(workers.device)
        self.notes = {"criterion": options.criterion}
        self._begin = {**network.state_dict(), "log-priors": log_priors, "groups": groups}
        self.source = UtteranceSource(
            train,
            utterances_per_step=options.utterances_per_step,
            seed=options.seed,
            workers=workers,
        )

    def evaluate(self) -> Evaluation:
        """As of :class:`Task`: the loss and the share of right frames that lattices expect."""
        workers = self._workers
        source = UtteranceSource(
            self._held_out,
            utterances_per_step=HELD_OUT_UTTERANCES * workers.size,
            seed=0,
            workers=workers,
            shuffle=False,
        )
        was_training = self.objective.training
        self.objective.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=workers.device)
        with torch.inference_mode(), closing(source.epoch(0)) as minibatches:
            for minibatch in minibatches:
                loss, right = self.objective(minibatch.utterances)
                sums[0] += loss
                sums[1] += right
        self.objective.train(was_training)
        loss_sum, right_sum = workers.sum(sums).tolist()
        frames = source.order(0).num_frames
        return Evaluation(loss_sum / frames, right_sum / frames)

    def identity(self) -> dict[str, Any]:
        """As of :class:`Task`."""
        return {
            "options": {},
            "training lattices": self._train.lattices.fingerprint,
            "held-out lattices": self._held_out.lattices.fingerprint,
            "network that training begins with, priors or groups": _digest(self._begin),
        }

    def describe(self) -> str:
        """As of :class:`Task`."""
        train, held_out = self._train.lattices, self._held_out.lattices
        return (
            f"{train.frames.sum()} frames of {len(train)} utterances with lattices of "
            f"{train.num_arcs / train.frames.sum():.0f} arcs a frame (held out: "
            f"{held_out.frames.sum()} of {len(held_out)})"
        )

    @torch.no_grad()
    def culprits(self, minibatch: UtteranceMinibatch, epoch: int) -> list[int]:
        """As of :class:`Task`."""
        numbers = [utterance.number for utterance in minibatch.utterances]
        found = [
            utterance.number
            for utterance in minibatch.utterances
            if not all(
                torch.isfinite(logits).all()
                for logits in utterance_logits(self._network, utterance.frames)
            )
        ]
        return found or (numbers if self._workers.size == 1 else [])

    def utterance_names(self, numbers: set[int]) -> list[str]:
        """As of :class:`Task`."""
        return self._train.frames.utterance_names(numbers)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
