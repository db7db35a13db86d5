"""What a checkpoint holds of a training, and whether it is of the same one."""

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mariana_asr.engine.exchange.sharded import cut_shards, join_shards
from mariana_asr.engine.options import EngineOptions, LearningOptions
from mariana_asr.engine.options.engine import RUN_OPTIONS as ENGINE_RUN_OPTIONS
from mariana_asr.engine.training.checkpoint import read_own, read_shared
from mariana_asr.engine.training.task import Task
from mariana_asr.engine.training.totals import Totals
from mariana_asr.errors import StageError

if TYPE_CHECKING:
    from mariana_asr.engine.training.loop import Training

logger = logging.getLogger(__name__)

NONE_FOUND = -1
"""Stands for the step of a checkpoint where there is none."""

TRAIN_RUN_OPTIONS = {"checkpoint_every", "keep_checkpoints", "max_non_finite"}
"""Options that may differ between a run and the one that resumes it."""


def identity_of(
    network: nn.Module, task: Task, options: LearningOptions, engine: EngineOptions
) -> dict[str, Any]:
    """What must be equal in a run and the one that resumes it."""
    identity = task.identity()
    return identity | {
        "options": {
            **options.model_dump(mode="json", exclude=TRAIN_RUN_OPTIONS),
            **engine.model_dump(mode="json", exclude=set(ENGINE_RUN_OPTIONS)),
            **identity["options"],
        },
        "network": {name: list(t.shape) for name, t in network.state_dict().items()},
    }


def save_state(training: "Training") -> None:
    """Save a checkpoint; all workers call this at the same step.

    Raises:
        MarianaError: It cannot be written.
    """
    stepper = training.stepper
    shared = {
        "identity": training.identity,
        "network": training.network.state_dict(),
        "best": training.best,
        "schedule": training.schedule.state_dict(),
        "global_step": training.global_step,
        "next_step": training.next_step,
        "totals": training.totals.state_dict(),
        "history": training.history,
    }
    own: dict[str, Any] = {
        "exchange": stepper.exchange.state_dict(),
        "random_states": _random_states(training.workers.device),
        "non_finite_in_a_row": training.non_finite_in_a_row,
    }
    keeper = shared if stepper.exchange.optimiser_state == "shared" else own
    keeper["optimiser"] = stepper.optimiser.state_dict()
    training.checkpoints.save(training.workers, shared, own, training.global_step)


def load_state(training: "Training") -> bool:
    """Go on from the newest whole checkpoint; False if there is none.

    Raises:
        StageError: It is of another training.
    """
    workers = training.workers
    found = NONE_FOUND if workers.is_first else 0
    if workers.is_first and (newest := training.checkpoints.newest_whole()) is not None:
        found = training.checkpoints.step_of(newest)
    # All must take the one that the first has found whole: the others add nothing to its step.
    found = int(workers.sum(torch.tensor(found, device=workers.device)).item())
    if found == NONE_FOUND:
        return False
    path = training.checkpoints.path_of(found)
    shared = read_shared(path, workers.device)
    _check_identity(training, shared["identity"])
    same_size = shared["num_workers"] == workers.size
    training.network.load_state_dict(shared["network"])
    training.stepper.exchange.reset()
    training.best = shared["best"]
    training.schedule.load_state_dict(shared["schedule"])
    training.global_step, training.next_step = shared["global_step"], shared["next_step"]
    training.totals = Totals.from_state(shared["totals"])
    training.history = shared["history"]
    own: dict[str, Any] | None = None
    if same_size:
        own = read_own(path, workers.rank, workers.device)
        training.non_finite_in_a_row = own["non_finite_in_a_row"]
        _set_random_states(own["random_states"], workers.device)
        training.stepper.exchange.load_state_dict(own["exchange"])
    elif workers.is_first:
        logger.info("resumed with %d workers, was %d", workers.size, shared["num_workers"])
    state = _optimiser_state(training, shared, own)
    if state is not None:
        training.stepper.optimiser.load_state_dict(state)
    return True


def _optimiser_state(
    training: "Training", shared: dict[str, Any], own: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The optimiser's state for this worker, whatever the number of workers that saved it.

    ``own`` is what this worker saved; None if there were more or fewer workers then.
    """
    workers, before = training.workers, shared["num_workers"]
    if "optimiser" in shared:
        return shared["optimiser"]
    if own is not None:
        return own["optimiser"]
    if training.stepper.exchange.optimiser_state == "local":
        return None
    path = training.checkpoints.path_of(shared["global_step"])
    shapes = {name: p.shape for name, p in training.network.named_parameters()}
    states = [read_own(path, rank, workers.device)["optimiser"] for rank in range(before)]
    return cut_shards(join_shards(states, shapes), workers.rank, workers.size)


def _check_identity(training: "Training", found: dict[str, Any]) -> None:
    expected = training.identity
    before, now = found["options"], expected["options"]
    changed = [
        f"{key} ({before.get(key)} -> {now[key]})" for key in now if before.get(key) != now[key]
    ]
    changed += [key for key in expected if key != "options" and found.get(key) != expected[key]]
    if changed:
        raise StageError(
            f"these checkpoints are of another training: {', '.join(changed)} changed",
            where=training.checkpoints.directory,
            remedy="Remove the folder to train anew, or restore what was changed",
        )


def _random_states(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
