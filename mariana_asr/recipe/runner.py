"""Running an experiment's stages: skip what is up to date, continue what was interrupted."""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from mariana_asr.errors import FormatError, StageError
from mariana_asr.files import read_json, remove_partial_outputs, write_json
from mariana_asr.recipe.fingerprint import Fingerprint, digest_file

logger = logging.getLogger(__name__)

RECORD = "stage.json"
UNFINISHED_RECORD = "stage.unfinished.json"
_RECORDED_PACKAGES = ("torch", "numpy", "kaldi-hmm-gmm", "kaldifst", "kaldi-decoder")


@dataclass(frozen=True)
class Stage:
    """One step of an experiment, with its outputs in a folder of its own.

    Attributes:
        name: Name of the stage and of its folder below the experiment's.
        run: Makes the outputs in the folder that it is given. It may find there what an
            interrupted run of the same fingerprint left, and may continue from it.
        options: The options that steer it, as plain values.
        after: Names of the stages whose outputs it reads; they come before it.
        files: Files outside the experiment whose content it reads.
        published: Names of files that it writes into the experiment's folder, beside its own.
    """

    name: str
    run: Callable[[Path], None]
    options: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    published: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedStage:
    """A stage with what would happen to it in a run.

    ``reason`` says why a stage that is not up to date has to run.
    """

    stage: Stage
    fingerprint: Fingerprint
    status: Literal["up to date", "to run", "to continue"]
    reason: str


def plan_stages(stages: Sequence[Stage], folder: Path) -> list[PlannedStage]:
    """Say for each stage whether it is up to date, and if not, why.

    Raises:
        DataError: A file outside the experiment cannot be read.
    """
    planned: list[PlannedStage] = []
    digests: dict[str, str] = {}
    stale: set[str] = set()
    for stage in stages:
        fingerprint = Fingerprint(
            options=stage.options,
            inputs={name: digests[name] for name in stage.after},
            files={str(path): digest_file(path) for path in stage.files},
        )
        digests[stage.name] = fingerprint.digest
        redone = [name for name in stage.after if name in stale]
        reason = (
            f"{', '.join(redone)} will run"
            if redone
            else _why_run(folder / stage.name, fingerprint)
        )
        status: Literal["up to date", "to run", "to continue"] = "up to date"
        if reason:
            stale.add(stage.name)
            unfinished = _read_record(folder / stage.name / UNFINISHED_RECORD)
            same = unfinished is not None and unfinished.get("digest") == fingerprint.digest
            status = "to continue" if same else "to run"
        planned.append(PlannedStage(stage, fingerprint, status, reason))
    return planned


def run_stages(stages: Sequence[Stage], folder: Path) -> None:
    """Run the stages that are not up to date, in order.

    A stage's record (``stage.json``) is written when all its outputs are, and removed before
    the stage runs again, so outputs without a record are never taken for whole ones.

    Raises:
        StageError: Another run is at work in the same folder.
        MarianaError: Whatever a stage raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        for planned in plan_stages(stages, folder):
            name = planned.stage.name
            if planned.status == "up to date":
                logger.info("stage %s: up to date", name)
                continue
            logger.info("stage %s: running (%s)", name, planned.reason)
            seconds = _run_stage(planned, folder / name)
            logger.info("stage %s: done in %.1f s", name, seconds)


def stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds that each finished stage of an experiment took, in the order they finished."""
    records = [r for path in folder.glob(f"*/{RECORD}") if (r := _read_record(path))]
    return {r["stage"]: r["seconds"] for r in sorted(records, key=lambda r: r["finished"])}


def _run_stage(planned: PlannedStage, folder: Path) -> float:
    if planned.status == "to run" and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial_outputs(folder)
    (folder / RECORD).unlink(missing_ok=True)
    record: dict[str, Any] = {
        "stage": planned.stage.name,
        "digest": planned.fingerprint.digest,
        "fingerprint": asdict(planned.fingerprint),
        "packages": _package_versions(),
        "started": _now(),
    }
    write_json(folder / UNFINISHED_RECORD, record)
    start = time.monotonic()
    planned.stage.run(folder)
    record |= {
        "finished": _now(),
        "seconds": round(time.monotonic() - start, 2),
        "outputs": {
            os.path.relpath(path, folder): path.stat().st_size
            for path in (
                *sorted(folder.rglob("*")),
                *(folder.parent / name for name in planned.stage.published),
            )
            if path.is_file() and path.name != UNFINISHED_RECORD
        },
    }
    write_json(folder / RECORD, record)
    (folder / UNFINISHED_RECORD).unlink()
    return record["seconds"]


def _why_run(folder: Path, fingerprint: Fingerprint) -> str:
    """Why a stage has to run; empty when its outputs are whole and up to date."""
    record = _read_record(folder / RECORD)
    if record is None:
        unfinished = (folder / UNFINISHED_RECORD).exists()
        return "an earlier run was interrupted" if unfinished else "not run yet"
    if record["digest"] != fingerprint.digest:
        return "; ".join(fingerprint.differences(record["fingerprint"]))
    for name, size in record["outputs"].items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            return f"{path} is missing or was changed"
    return ""


def _read_record(path: Path) -> dict[str, Any] | None:
    """A stage's record, or None where there is none or it is damaged: the stage then runs."""
    try:
        record = read_json(path)
    except FormatError:
        return None
    return record if isinstance(record, dict) and "digest" in record else None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the experiment's lock; the system lets go of it however the process ends."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StageError(
                "another run is at work on this experiment",
                where=folder,
                remedy="Wait for it, or give this one another name",
            ) from error
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
