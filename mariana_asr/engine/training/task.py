"""What a training is about: where minibatches come from, what is minimised, how it is measured."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from torch import nn

from mariana_asr.engine.training.evaluation import Evaluation


class Minibatch(Protocol):
    """One worker's part of a minibatch."""

    step: int
    """Number of the minibatch in its epoch, from 0."""
    frames: int
    """Number of frames of this part; may be 0."""
    global_frames: int
    """Number of frames of the minibatch of all workers."""

    def pieces(self, count: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Cut it into ``count`` pieces, some of which may be empty.

        Returns:
            Of each the place of its first row in the minibatch of all workers, which dropout
            hashes, and what the objective is called with.
        """


class Order(Protocol):
    """The order of an epoch."""

    num_frames: int
    """Number of frames of the epoch."""
    num_steps: int
    """Number of minibatches."""


class Source(Protocol):
    """Deals out minibatches; their order is a function of (seed, epoch, step) alone."""

    seconds_waiting: float
    """How long :meth:`epoch` has waited for data in all."""

    def order(self, epoch: int) -> Order:
        """The order of an epoch."""

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Minibatch, None, None]:
        """Yield this worker's parts of the minibatches of an epoch, from ``first_step`` on."""


class Task(ABC):
    """What one worker is to learn from, and how.

    Attributes:
        objective: A module with the network as ``objective.network``. Called with the arguments of
            a piece it gives the loss and another measure, each summed over the frames.
        source: Minibatches to learn from.
        rate_factor: Factor on the learning rates of the schedule.
        held_out_dir: Where the held-out data are, for messages.
        notes: What every line of the log is to have beside the figures.
    """

    objective: nn.Module
    source: Source
    rate_factor: float = 1.0
    held_out_dir: Path
    notes: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def evaluate(self) -> Evaluation:
        """Measure the network on held-out data; all workers together."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What, beside the options, must be equal in a run and the one that resumes it.

        Plain values by name; ``options`` may hold what the options have been turned into.
        """

    @abstractmethod
    def describe(self) -> str:
        """How much data there is: ``80 frames of 2 utterances (held out: 30 of 1)``."""

    @abstractmethod
    def culprits(self, minibatch: Any, epoch: int) -> list[int]:
        """Numbers of the utterances of this part whose own logits are not finite.

        A single worker names all of them if none's are.

        Args:
            minibatch: One that :attr:`source` gave.
            epoch: Number of its epoch.
        """

    @abstractmethod
    def utterance_names(self, numbers: set[int]) -> list[str]:
        """Ids of utterances that :meth:`culprits` names."""
