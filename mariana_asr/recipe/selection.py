"""Which of a training's weights a network ends with: the best epoch, or an average of several."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mariana_asr.decode.scorers import NETWORK
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.options import EngineOptions, TrainOptions
from mariana_asr.engine.training.summary import LOG_FILE
from mariana_asr.errors import FormatError
from mariana_asr.files import read_json, write_json
from mariana_asr.recipe.network import copy_transition_model, with_mask_bands
from mariana_asr.score.candidates import (
    SELECTION_FILE,
    Candidate,
    Criterion,
    Selection,
    choose,
)
from mariana_asr.score.error_counts import ErrorCounts
from mariana_asr.score.report import read_log
from mariana_asr.score.results import Metric

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

CANDIDATES_FOLDER = "candidates"
"""Where candidates are while they are compared; it is removed in the end."""

CANDIDATE_FILE = "candidate.json"


def select_network(
    training_dir: str | Path,
    train_dir: str | Path,
    held_out_dir: str | Path,
    out_dir: str | Path,
    *,
    criterion: Criterion,
    average: int,
    metric: Metric,
    count_errors: Callable[[Path], ErrorCounts],
    train: TrainOptions,
    engine: EngineOptions,
) -> Selection:
    """Choose among the weights of a training's epochs and averages of them.

    Candidates are the epoch with the lowest held-out loss, each kept epoch, and the averages of
    the last 2, 3, ... kept ones. An average is of the parameters; batch norm's statistics are
    taken anew from training frames (``recompute_batch_norm``). Where the error rate decides, each
    candidate decodes the dev set, and of those with as few errors the lower loss wins.

    ``out_dir`` gets what the training's folder has, with the chosen network, and
    ``selection.json``. A run that was interrupted keeps the candidates that it has measured.

    Args:
        training_dir: What ``train_acoustic_model`` wrote, with ``epochs/``.
        train_dir: Frame store of the training.
        held_out_dir: Frame store that it was watched on.
        out_dir: Where to write.
        criterion: What decides.
        average: How many epochs to average at most.
        metric: The error rate, for the record.
        count_errors: Decodes the dev set with the network in a folder; called in a folder that
            may hold what an interrupted call left.
        train: The training's options.
        engine: On what to run the network.

    Raises:
        FormatError: A file of the training is missing or damaged.
        MarianaError: Whatever ``count_errors`` raises.
    """
    # Only here: importing torch takes seconds that other stages need not wait.
    from mariana_asr.engine.launch.device import local_device
    from mariana_asr.engine.training.averaging import average_weights, recompute_batch_norm
    from mariana_asr.engine.training.evaluation import evaluate_network
    from mariana_asr.nnet.acoustic_model import AcousticModel

    training_dir, out_dir = Path(training_dir), Path(out_dir)
    frames, held_out = FrameStore.open(train_dir), FrameStore.open(held_out_dir)
    device = local_device(engine, 0)
    model = AcousticModel.load(training_dir / NETWORK)
    names = set(model.network.state_dict())
    best = _best_epoch(training_dir)
    kept = _kept_weights(training_dir)
    weights = {best: average_weights([model.network.state_dict()]), **kept}
    candidates = []
    for epochs in _choices(best, list(kept), average):
        folder = out_dir / CANDIDATES_FOLDER / "-".join(map(str, epochs))
        candidate = _read_candidate(folder)
        if candidate is None:
            states = [{n: t for n, t in weights[e].items() if n in names} for e in epochs]
            model.network.load_state_dict(average_weights(states))
            if len(epochs) > 1:
                shown = with_mask_bands(train, model.front_end)
                recompute_batch_norm(model.network, frames, shown, device=device)
            measured = evaluate_network(model.network, held_out, device)
            model.network.to("cpu")
            model.save(folder / NETWORK)
            copy_transition_model(training_dir, folder)
            candidate = Candidate(epochs, measured.loss, measured.accuracy)
            if criterion == "wer":
                counts = count_errors(folder)
                percent = round(counts.percent, 2)
                candidate = replace(
                    candidate, percent=percent, errors=counts.errors, tokens=counts.tokens
                )
            write_json(folder / CANDIDATE_FILE, asdict(candidate))
        logger.info("%s: %s", candidate.name, _figures(candidate, metric))
        candidates.append(candidate)
    selection = Selection(criterion, metric, tuple(candidates), choose(candidates, criterion))
    chosen = candidates[selection.chosen]
    logger.info("chosen by %s: %s", metric.upper() if criterion == "wer" else "loss", chosen.name)
    folder = out_dir / CANDIDATES_FOLDER / "-".join(map(str, chosen.epochs))
    shutil.copyfile(folder / NETWORK, out_dir / NETWORK)
    copy_transition_model(training_dir, out_dir)
    shutil.copyfile(training_dir / LOG_FILE, out_dir / LOG_FILE)
    selection.write(out_dir / SELECTION_FILE)
    shutil.rmtree(out_dir / CANDIDATES_FOLDER)
    return selection


def _best_epoch(training_dir: Path) -> int:
    """Number of the epoch with the lowest held-out loss, whose weights the training ended with.

    Raises:
        FormatError: The log is missing or has no such epoch.
    """
    log = read_log(training_dir / LOG_FILE)
    best = [record["epoch"] for record in log if record.get("best")]
    if not best:
        raise FormatError("no epoch is marked as the best", where=training_dir / LOG_FILE)
    return best[-1]


def _kept_weights(training_dir: Path) -> dict[int, dict[str, "Tensor"]]:
    """The weights of the kept epochs, by their numbers.

    Raises:
        FormatError: None are there, or a file is damaged.
    """
    from mariana_asr.engine.training.kept_epochs import EPOCHS_FOLDER, epoch_files, read_epoch

    folder = training_dir / EPOCHS_FOLDER
    epochs = [read_epoch(path) for path in epoch_files(folder)]
    if not epochs:
        raise FormatError(
            "no weights of epochs", where=folder, remedy="Train with train.keep_epochs"
        )
    return {epoch.epoch: epoch.weights for epoch in epochs}


def _choices(best: int, kept: list[int], average: int) -> list[tuple[int, ...]]:
    """The candidates' epochs: each alone, then the last 2, 3, ... kept ones."""
    alone = [(epoch,) for epoch in sorted({best, *kept})]
    return [*alone, *(tuple(kept[-n:]) for n in range(2, min(average, len(kept)) + 1))]


def _read_candidate(folder: Path) -> Candidate | None:
    """A candidate that an interrupted run has measured."""
    try:
        tree = read_json(folder / CANDIDATE_FILE)
    except FormatError:
        return None
    return Candidate(**{**tree, "epochs": tuple(tree["epochs"])})


def _figures(candidate: Candidate, metric: Metric) -> str:
    rate = "" if candidate.percent is None else f", dev {metric.upper()} {candidate.percent:.2f}%"
    loss, accuracy = candidate.held_out_loss, 100 * candidate.held_out_accuracy
    return f"held-out loss {loss:.4f}, accuracy {accuracy:.2f}%{rate}"
