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

    Attributes:
        stage: The stage.
        fingerprint: What its outputs depend on.
        folder: Where its outputs are, or will be.
        status: What a run would do.
        reason: Why a stage that is not up to date has to run.
    """

    stage: Stage
    fingerprint: Fingerprint
    folder: Path
    status: Literal["up to date", "to run", "to continue"]
    reason: str


@dataclass(frozen=True)
class SharedStages:
    """Where experiments keep the stages that they may have in common.

    A stage goes to a folder that is named by its fingerprint, so what is there never changes: an
    experiment whose options change takes another folder. Experiments have links to these folders
    in place of folders of their own. Several processes may share stages at once; one that is being
    made is waited for.

    Attributes:
        store: Folder of the stages.
        experiments: Folders of other experiments, whose finished stages are taken as they are.
    """

    store: Path
    experiments: tuple[Path, ...] = ()

    def folder_of(self, stage: Stage, fingerprint: Fingerprint) -> Path:
        """Where the outputs of a stage are; where it is not finished, where they are to go."""
        for experiment in self.experiments:
            folder = (experiment / stage.name).resolve()
            if not _why_run(folder, fingerprint):
                return folder
        return self.store / f"{stage.name}-{fingerprint.digest[:12]}"


def plan_stages(
    stages: Sequence[Stage], folder: Path, shared: SharedStages | None = None
) -> list[PlannedStage]:
    """Say for each stage whether it is up to date, and if not, why.

    Args:
        stages: The stages, in order.
        folder: The experiment's folder.
        shared: Stages shared with other experiments, all but those that publish files.

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
        if shared is not None and not stage.published:
            # Its folder's name says what its outputs are made from, and that does not change.
            place, redone = shared.folder_of(stage, fingerprint), []
        else:
            place = folder / stage.name
            redone = [name for name in stage.after if name in stale]
        reason = f"{', '.join(redone)} will run" if redone else _why_run(place, fingerprint)
        status: Literal["up to date", "to run", "to continue"] = "up to date"
        if reason:
            stale.add(stage.name)
            unfinished = _read_record(place / UNFINISHED_RECORD)
            same = unfinished is not None and unfinished.get("digest") == fingerprint.digest
            status = "to continue" if same else "to run"
        planned.append(PlannedStage(stage, fingerprint, place, status, reason))
    return planned


def run_stages(stages: Sequence[Stage], folder: Path, shared: SharedStages | None = None) -> None:
    """Run the stages that are not up to date, in order.

    A stage's record (``stage.json``) is written when all its outputs are, and removed before
    the stage runs again, so outputs without a record are never taken for whole ones.

    Args:
        stages: The stages, in order.
        folder: The experiment's folder.
        shared: Stages shared with other experiments, all but those that publish files.

    Raises:
        StageError: Another run is at work in the same folder.
        MarianaError: Whatever a stage raises.
    """
    with experiment_lock(folder):
        for planned in plan_stages(stages, folder, shared):
            name = planned.stage.name
            own = planned.folder == folder / name
            if not own:
                _link(folder / name, planned.folder)
            if planned.status == "up to date":
                logger.info("stage %s: up to date", name)
            elif own:
                _run_logged(planned)
            else:
                with _lock(planned.folder.with_name(f".{planned.folder.name}.lock"), wait=True):
                    # Unless another process has made it since.
                    if _why_run(planned.folder, planned.fingerprint):
                        _run_logged(planned)


@contextmanager
def experiment_lock(folder: Path, *, reading: bool = False) -> Iterator[None]:
    """Hold an experiment's lock; the system lets go of it however the process ends.

    Args:
        folder: The experiment's folder, which is made if need be.
        reading: Only keep its stages from being made again; others may do the same.

    Raises:
        StageError: Another run is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / ".lock", reading=reading):
        yield


def _run_logged(planned: PlannedStage) -> None:
    logger.info("stage %s: running (%s)", planned.stage.name, planned.reason)
    seconds = _run_stage(planned, planned.folder)
    logger.info("stage %s: done in %.1f s", planned.stage.name, seconds)


def stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds that each finished stage of an experiment took, in the order they finished."""
    records = [r for path in folder.glob(f"*/{RECORD}") if (r := _read_record(path))]
    return {r["stage"]: r["seconds"] for r in sorted(records, key=lambda r: r["finished"])}


def _run_stage(planned: PlannedStage, folder: Path) -> float:
    if folder.is_symlink():
        # What it leads to belongs to others.
        folder.unlink()
    elif planned.status == "to run" and folder.exists():
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


def _link(link: Path, target: Path) -> None:
    """Make a relative link in place of whatever stands there; it works once the target exists."""
    path = os.path.relpath(target.resolve(), link.parent.resolve())
    if link.is_symlink():
        if os.readlink(link) == path:
            return
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    link.symlink_to(path)


@contextmanager
def _lock(path: Path, *, reading: bool = False, wait: bool = False) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            kind = fcntl.LOCK_SH if reading else fcntl.LOCK_EX
            fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise StageError(
                "another run is at work on this experiment",
                where=path.parent,
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
