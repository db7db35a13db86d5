"""Peak memory of processes, measured on processes that take a known amount."""

import pytest
from process_memory import measure_peak_memory

from mariana_asr.parallel import parallel_map

MEBIBYTE = 2**20


def fill(mebibytes: int) -> int:
    return len(b"x" * (mebibytes * MEBIBYTE))


def use_memory(own: int, worker: int) -> None:
    fill(own)
    for _ in parallel_map(fill, [worker, 1], jobs=2):
        pass


def fail() -> None:
    raise ValueError("made to fail")


def test_peak_memory_is_told_apart_by_process() -> None:
    peak = measure_peak_memory(use_memory, 400, 200)
    assert peak.parent - peak.start == pytest.approx(400, abs=25)
    assert peak.worker == pytest.approx(200 + peak.start, abs=25)


def test_a_measured_function_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended with code 1"):
        measure_peak_memory(fail)
