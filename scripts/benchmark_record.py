"""What every benchmark writes: its figures as JSON, with date, machine and versions, and tables."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mariana_asr import __version__
from mariana_asr.files import write_json
from mariana_asr.parallel import available_cores

PACKAGES = ("numpy", "torch", "kaldi-hmm-gmm", "kaldifst", "kaldi-decoder")


def begin_record(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What is needed to judge and repeat a benchmark; to be called before it runs."""
    return {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "settings": settings,
        "load_average_before": _load_average(),
    }


def finish_record(path: Path, record: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write a record with the benchmark's figures as JSON."""
    write_json(path, record | {"load_average_after": _load_average()} | figures)


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and system."""
    return {
        "processor": _value_of(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": available_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
    }


def describe_versions() -> dict[str, str]:
    """Versions of this package and of those that decide its speed, and the commit."""
    versions = {"mariana-asr": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode == 0:
        versions["commit"] = asked.stdout.strip()
    return versions


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as docs/benchmarks.md has them; None is an empty cell."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |"
        for line in lines
    )


def _load_average() -> list[float]:
    """How many processes wanted a core in the last 1, 5 and 15 minutes, the benchmark's own too."""
    return [round(load, 2) for load in os.getloadavg()]


def _value_of(path: Path, key: str) -> str | None:
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
