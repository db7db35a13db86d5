"""Several workers, started as a user starts them."""

import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference

from mariana_asr.engine.options import EngineOptions, NewbobOptions, SgdOptions, TrainOptions
from mariana_asr.engine.training.checkpoint import CheckpointFolder, read_shared
from mariana_asr.engine.training.train import train_network
from mariana_asr.errors import StageError
from mariana_asr.nnet.dnn import Dnn, DnnOptions

TEST_FOLDERS = [str(folder) for folder in Path(__file__).parents[:2]]
"""Where other processes find this module and what it imports."""

NETWORK = DnnOptions(hidden_layers=2, hidden_dim=24, left_context=1, right_context=2, dropout=0.1)
OPTIONS = TrainOptions(
    learning_rate=0.002,
    optimiser=SgdOptions(momentum=0.5),
    minibatch_size=64,
    randomizer_size=1000,
    checkpoint_every=7,
    keep_checkpoints=3,
    schedule=NewbobOptions(max_iters=3),
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return (
        pack_linear_task(folder / "train", seed=1, utterances=60),
        pack_linear_task(folder / "held_out", seed=2, utterances=10),
    )


def train(stores, out: Path, network=None, **engine):
    network = network or Dnn(NETWORK, DIM, CLASSES)
    summary = train_network(network, *stores, OPTIONS, out, EngineOptions(threads=1, **engine))
    return network.state_dict(), summary


@pytest.fixture(scope="module")
def expected(stores, tmp_path_factory):
    return train(stores, tmp_path_factory.mktemp("alone"), workers=1)


def test_two_launched_workers_end_as_one(stores, expected, tmp_path: Path, caplog):
    weights, summary = train(stores, tmp_path, workers=2)
    assert relative_difference(weights, expected[0]) < 1e-4
    assert summary.held_out_loss == pytest.approx(expected[1].held_out_loss, rel=1e-4)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["workers"] == 2
    assert log[-1]["frames"] == stores[0].num_frames
    parameters = sum(p.numel() for p in Dnn(NETWORK, DIM, CLASSES).parameters())
    assert log[-1]["gradient_bytes_per_step"] == 4 * parameters
    assert log[-1]["adaptive_bytes_per_step"] == 0
    assert log[-1]["exchange_ms_per_step"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "log.jsonl"]


SCRIPT = """
import sys, time
from pathlib import Path
import test_workers
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.options import EngineOptions
from mariana_asr.logs import start_logging

class SlowDnn(test_workers.Dnn):
    def forward(self, windows):
        if self.training:
            time.sleep(0.03)
        return super().forward(windows)

if __name__ == "__main__":
    from script import SlowDnn
    start_logging()
    folder = Path({folder!r})
    stores = [FrameStore.open(path) for path in ({train!r}, {held_out!r})]
    network = SlowDnn(test_workers.NETWORK, test_workers.DIM, test_workers.CLASSES)
    test_workers.train(stores, folder / "out", network, workers=2)
"""


def start_script(stores, folder: Path, largest_file: int | None = None) -> subprocess.Popen:
    """A training in a process of its own, slow enough to be killed in its midst."""
    text = SCRIPT.format(
        folder=str(folder),
        train=str(stores[0].directory),
        held_out=str(stores[1].directory),
    )
    (folder / "script.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *TEST_FOLDERS])}
    return subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=None if largest_file is None else partial(limit_file_size, largest_file),
    )


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def workers_of(launcher: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True)
    return [int(word) for word in found.stdout.split() if _is_worker(int(word))]


def _is_worker(pid: int) -> bool:
    try:
        return b"engine.training.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_for_step(folder: Path, process: subprocess.Popen, step: int) -> None:
    checkpoints = CheckpointFolder(folder / "out" / "checkpoints", 1)
    deadline = time.monotonic() + 60
    while not checkpoints.paths() or checkpoints.step_of(checkpoints.paths()[-1]) < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_is_started_anew_and_nothing_is_lost(stores, expected, tmp_path: Path):
    process = start_script(stores, tmp_path)
    wait_for_step(tmp_path, process, 20)
    victims = workers_of(process.pid)
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    assert "all are started anew (restart 1)" in errors
    weights, summary = train(stores, tmp_path / "out", workers=2)
    assert summary.epochs == expected[1].epochs
    whole = tmp_path / "whole"
    never_killed, _ = train(stores, whole, workers=2)
    assert all(torch.equal(weights[name], never_killed[name]) for name in weights)


def test_sigterm_saves_and_leaves_and_the_run_goes_on(stores, expected, tmp_path: Path):
    process = start_script(stores, tmp_path)
    wait_for_step(tmp_path, process, 7)
    workers = workers_of(process.pid)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "told to stop: epoch" in errors
    assert not any(is_alive(pid) for pid in workers)
    weights, _ = train(stores, tmp_path / "out", workers=1)
    assert relative_difference(weights, expected[0]) < 1e-4


def test_workers_end_when_the_launcher_is_killed(stores, tmp_path: Path):
    process = start_script(stores, tmp_path)
    wait_for_step(tmp_path, process, 7)
    workers = workers_of(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_users_error_in_a_worker_is_one_message_without_restarts(stores, tmp_path: Path, caplog):
    network = Dnn(NETWORK, DIM, CLASSES)
    torch.nn.init.constant_(network.hidden[0].weight, 1e38)
    with caplog.at_level(logging.INFO), pytest.raises(StageError, match="held-out loss before"):
        train(stores, tmp_path, network, workers=2)


def test_a_network_that_workers_cannot_import_is_refused(stores, tmp_path: Path, monkeypatch):
    network = Dnn(NETWORK, DIM, CLASSES)
    monkeypatch.setattr(Dnn, "__module__", "__main__")
    with pytest.raises(StageError, match="Dnn is defined in the script itself"):
        train(stores, tmp_path, network, workers=2)


def test_a_full_disk_is_one_message_and_damages_nothing(stores, expected, tmp_path: Path):
    # A limit on the size of files: the job can be written, a checkpoint cannot.
    out, whole = tmp_path / "out", tmp_path / "whole"
    process = start_script(stores, tmp_path, largest_file=28_000)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "cannot write: File too large" in errors
    assert "started anew" not in errors
    assert list((out / "checkpoints").iterdir()) == []
    weights, _ = train(stores, out, workers=1)
    expected_weights, _ = train(stores, whole, workers=1)
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)


def test_under_torchrun_two_nodes_train_together(stores, expected, tmp_path: Path):
    script = """
import sys
from pathlib import Path
import test_workers
from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.launch.torchrun import lead_or_follow
from mariana_asr.engine.training.train import train_with_team
stores = [FrameStore.open(path) for path in sys.argv[1:3]]
lead_or_follow(lambda: test_workers.train(stores, Path("out")), train_with_team)
"""
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(TEST_FOLDERS),
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    port = free_port()
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
                *("--nproc-per-node=1", f"--node-rank={node}", "--rdzv-backend=c10d"),
                *(f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", "script.py"),
                *(str(store.directory) for store in stores),
            ],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    for node in nodes:
        errors = node.communicate(timeout=120)[1]
        assert node.returncode == 0, errors
    path = CheckpointFolder(tmp_path / "out" / "checkpoints", 1).newest_whole()
    state = read_shared(path)
    assert state["num_workers"] == 2
    assert relative_difference(state["best"], expected[0]) < 1e-4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
