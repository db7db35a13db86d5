"""What is in a network's training: its log, its checkpoints, or a single file of one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mariana_asr.engine.options import EngineOptions, SequenceOptions, TrainOptions
from mariana_asr.engine.training.summary import LOG_FILE
from mariana_asr.errors import FormatError, counted
from mariana_asr.score.report import read_log

Facts = Iterator[tuple[str, str]]
"""Names of facts and what they are."""

CHECKPOINTS = "checkpoints"
_SHARED = "shared.ckpt"
_ALWAYS_SAID = (
    "criterion",
    "learning_rate",
    "optimiser",
    "schedule",
    "minibatch_size",
    "utterances_per_step",
)


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, whole or damaged."""
    return path.name.startswith("checkpoint-") or (path / _SHARED).exists()


def is_training(path: Path) -> bool:
    """Whether a folder holds a network's training or its checkpoints."""
    return bool(_checkpoints(path)) or (path / LOG_FILE).exists()


def training_facts(path: Path) -> Facts:
    """Of a folder with ``log.jsonl`` and ``checkpoints``, or of that folder of checkpoints."""
    found = _checkpoints(path)
    if (path / LOG_FILE).exists():
        yield from log_facts(path)
    elif found:
        yield from history_facts(_history(found))
    for checkpoint in found:
        files, problems = _read_files(checkpoint)
        size = sum(file.stat().st_size for file in checkpoint.glob("*"))
        whole = f"{size / 2**20:.2f} MiB, {counted(len(files), 'file')}, all whole"
        yield checkpoint.name, f"damaged: {'; '.join(problems)}" if problems else whole


def log_facts(path: Path) -> Facts:
    """Of the log in a folder; nothing where there is none, or none of a network."""
    if (path / LOG_FILE).exists():
        yield from history_facts(read_log(path / LOG_FILE))


def checkpoint_facts(path: Path) -> Facts:
    """Of a checkpoint, a folder with the files of all workers."""
    files, problems = _read_files(path)
    shared = files.get(_SHARED)
    if shared is not None:
        yield from _shared_facts(shared)
    for file in sorted(path.glob("*")):
        size = f"{file.stat().st_size / 2**20:.2f} MiB"
        yield file.name, f"{size}, whole" if file.name in files else f"{size}, damaged"
    yield "usable", "no: " + "; ".join(problems) if problems else "yes, every file is whole"


def checkpoint_file_facts(path: Path) -> Facts:
    """Of a single file of a checkpoint, or of pretraining.

    Raises:
        FormatError: It is damaged.
    """
    from mariana_asr.engine.training.checkpoint import read_checkpoint

    state = read_checkpoint(path)
    if "history" in state:
        yield from _shared_facts(state)
    elif "network" in state:
        yield from _network_facts(state["network"])
    for name, value in state.items():
        if isinstance(value, int | float | str) and "history" not in state:
            yield name.replace("_", " "), str(value)
    optimiser = state.get("optimiser")
    if optimiser is not None:
        yield "optimiser's state", _size_of(optimiser)
    yield "size", f"{path.stat().st_size / 2**20:.2f} MiB, whole"


def history_facts(history: Sequence[Mapping[str, Any]]) -> Facts:
    """Losses of each epoch so far, and which was best."""
    epochs = [record for record in history if isinstance(record.get("epoch"), int)]
    best = [record for record in epochs if record.get("best")]
    for record in epochs:
        yield (f"epoch {record['epoch']}" if record["epoch"] else "before training"), _line(record)
    if best:
        yield "best epoch", str(best[-1]["epoch"])


def _line(record: Mapping[str, Any]) -> str:
    parts = []
    for label, key in (("train", "train"), ("held-out", "held_out")):
        if isinstance(record.get(f"{key}_loss"), int | float):
            text = f"{label} loss {record[f'{key}_loss']:.4f}"
            if isinstance(record.get(f"{key}_accuracy"), int | float):
                text += f", accuracy {record[f'{key}_accuracy']:.2%}"
            parts.append(text)
    if record.get("accepted") is False:
        parts.append("undone")
    return "; ".join(parts)


def _shared_facts(shared: Mapping[str, Any]) -> Facts:
    schedule = shared.get("schedule", {})
    epoch = schedule.get("epoch", len(shared["history"]) - 1)
    step, finished = shared.get("next_step", 0), schedule.get("finished")
    if finished:
        place = f"finished after {counted(epoch, 'epoch')}"
    elif step:
        place = f"in epoch {epoch + 1}, after {counted(step, 'step')} of it"
    else:
        place = f"at the end of epoch {epoch}"
    yield "position", place
    if "global_step" in shared:
        yield "steps", f"{shared['global_step']:,}"
    if "num_workers" in shared:
        yield "workers", str(shared["num_workers"])
    yield from _network_facts(shared["network"])
    yield from _telling(shared.get("identity", {}).get("options", {})).items()
    yield from history_facts(shared["history"])


def _network_facts(weights: Mapping[str, Any]) -> Facts:
    numbers = sum(tensor.numel() for tensor in weights.values() if tensor.is_floating_point())
    yield "network", f"{numbers:,} numbers in {counted(len(weights), 'tensor')}"


def _telling(options: Mapping[str, Any]) -> dict[str, str]:
    """Options that everyone asks for, and those that are not the defaults."""
    training = SequenceOptions() if "criterion" in options else TrainOptions()
    defaults = training.model_dump(mode="json") | EngineOptions().model_dump(mode="json")
    defaults["frames of a minibatch"] = options.get("minibatch_size")
    return {
        name: _option(value)
        for name, value in options.items()
        if name in _ALWAYS_SAID or value != defaults.get(name)
    }


def _option(value: Any) -> str:
    """``sgd, momentum 0.5`` for the options of a union; other values as they are."""
    if isinstance(value, Mapping) and "type" in value:
        rest = [f"{key} {item}" for key, item in value.items() if key != "type"]
        return ", ".join([value["type"], *rest])
    return "the default" if value is None else str(value)


def _read_files(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The files of a checkpoint that are whole, and what is wrong with it."""
    from mariana_asr.engine.training.checkpoint import read_checkpoint

    files, problems = {}, []
    for file in sorted(path.glob("*")):
        try:
            # Only the shared part is looked at; the others may be large.
            state = read_checkpoint(file)
            files[file.name] = state if file.name == _SHARED else None
        except FormatError as error:
            problems.append(f"{file.name}: {error.what}")
    present = {file.name for file in path.glob("*")}
    shared = files.get(_SHARED)
    workers = shared.get("num_workers", 1) if shared is not None else 0
    missing = {_SHARED, *(f"worker-{rank}.ckpt" for rank in range(workers))} - present
    problems += [f"{name}: missing" for name in sorted(missing)]
    return files, problems


def _checkpoints(path: Path) -> list[Path]:
    """Checkpoints in a folder or its folder of checkpoints, the oldest first."""
    folder = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    return sorted(found for found in folder.glob("checkpoint-*") if found.is_dir())


def _history(checkpoints: Sequence[Path]) -> Sequence[Mapping[str, Any]]:
    """The history in the newest checkpoint that can be read."""
    for checkpoint in reversed(checkpoints):
        shared = _read_files(checkpoint)[0].get(_SHARED)
        if shared is not None:
            return shared["history"]
    return []


def _size_of(value: Any) -> str:
    """How many numbers there are in tensors, however they are nested."""
    tensors = list(_tensors(value))
    return f"{sum(t.numel() for t in tensors):,} numbers in {counted(len(tensors), 'tensor')}"


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for below in value.values():
            yield from _tensors(below)
    elif hasattr(value, "numel"):
        yield value
