"""The parallel map: order, laziness, errors of items and the death of a process."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mariana_asr.errors import DataError, StageError
from mariana_asr.parallel import WorkerPool, parallel_map

_offset = 0


def _set_offset(offset: int) -> None:
    global _offset
    _offset = offset


def _square(number: int) -> int:
    if number < 0:
        raise DataError(f"{number} is negative", where="item")
    if number == 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number + _offset


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_with_what_setup_loaded(jobs: int) -> None:
    results = parallel_map(_square, range(30), jobs=jobs, setup=_set_offset, setup_arguments=(7,))
    assert list(results) == [n * n + 7 for n in range(30)]
    _set_offset(0)


def test_an_error_of_an_item_reaches_the_caller_with_its_parts() -> None:
    with pytest.raises(DataError, match="item: -1 is negative"):
        list(parallel_map(_square, [1, -1], jobs=2))


def test_a_killed_process_is_a_clear_error() -> None:
    with pytest.raises(StageError, match="processes running _square died"):
        list(parallel_map(_square, [1000, 1, 2], jobs=2))


def test_items_are_taken_only_as_results_are_used() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    results = parallel_map(_square, items(), jobs=2)
    for _ in range(10):
        next(results)
    assert taken < 100
    results.close()


def _threads(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def test_each_process_has_one_thread_and_this_one_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert list(parallel_map(_threads, range(4), jobs=2)) == ["1"] * 4
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert list(parallel_map(_threads, range(4), jobs=2)) == ["1"] * 4
    assert "OMP_NUM_THREADS" not in os.environ


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import os, time
            from mariana_asr.parallel import parallel_map

            def work(_):
                print(os.getpid(), flush=True)
                time.sleep(1000)

            if __name__ == "__main__":
                list(parallel_map(work, range(2), jobs=2))
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = {process.stdout.readline() for _ in range(2)}
    assert len(workers) == 2
    process.kill()
    # The pipe ends when the last process that holds it has ended.
    assert select.select([process.stdout], [], [], 30.0)[0]
    assert process.stdout.read() == ""
    process.wait()


def test_an_interrupt_from_the_terminal_ends_all_processes_at_once(tmp_path: Path) -> None:
    """The terminal sends it to every process; one that stops with a lock would stop the rest."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import itertools, time
            from mariana_asr.parallel import WorkerPool

            def work(number):
                time.sleep(1000 if number == 3000 else 0)

            if __name__ == "__main__":
                try:
                    with WorkerPool(4) as pool:
                        for count, _ in enumerate(pool.map(work, itertools.count())):
                            if count == 2000:
                                print("at work", flush=True)
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
            """
        )
    )
    for pause in (0.0, 1.0):  # while items come and go, and while one takes its time
        process = subprocess.Popen(
            [sys.executable, str(program)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert output == "interrupted\n"
        assert "Traceback" not in errors
        assert process.returncode == 0


def test_nothing_runs_any_more_after_an_error(tmp_path: Path) -> None:
    items = [(tmp_path / str(number), number) for number in range(8)]
    with WorkerPool(2) as pool:
        with pytest.raises(DataError, match="third"):
            list(pool.map(_write_slowly, items))
        written = sorted(path.name for path in tmp_path.iterdir())
        time.sleep(0.5)
        assert sorted(path.name for path in tmp_path.iterdir()) == written


def _write_slowly(item: tuple[Path, int]) -> None:
    path, number = item
    if number == 2:
        raise DataError("third")
    time.sleep(0.2)
    path.write_text("")


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from mariana_asr.parallel import parallel_map\n"
        "print(list(parallel_map(abs, [1, -2], jobs=2)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "under: if __name__ == '__main__'" in done.stderr
