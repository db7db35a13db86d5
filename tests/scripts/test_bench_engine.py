"""The benchmark of the engine: a tiny run of it, and its model; not its figures."""

import json
import math
from pathlib import Path

import bench_engine
import engine_model
import engine_rates
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic_store import write_synthetic_store

TINY = "--seconds 0.05 --rounds 1 --epoch-frames 4096 --minibatch 512"


def test_a_tiny_run_writes_both_ratios_and_a_table_of_each_part(tmp_path: Path) -> None:
    words = f"--quick --parts a,c {TINY} --json {tmp_path / 'e.json'} --work {tmp_path}".split()
    done = CliRunner().invoke(bench_engine.command, words)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "e.json").read_text())
    assert 0.0 < record["engine_over_bare_loop"] < math.inf
    assert 0.0 < record["two_workers_over_one"] < math.inf
    assert f"two_workers_over_one: {record['two_workers_over_one']}" in done.output
    assert "## a: engine over bare loop" in done.output
    assert record["settings"]["minibatch_size"] == 512
    assert record["versions"].keys() >= {"python", "torch"}
    (row,) = record["parts"]["several workers over one"]
    assert (row["workers"], row["threads"], row["minibatch_size"]) == (2, 1, 512)
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


def test_unknown_parts_and_a_gpu_that_is_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for parts, message in (("a,z", "z is none of a, b"), ("g", "needs a GPU")):
        refused = CliRunner().invoke(bench_engine.command, ["--parts", parts])
        assert refused.exit_code == 2
        assert message in refused.output


def test_ratios_that_were_not_measured_are_null() -> None:
    assert bench_engine.headline({}) == {
        "engine_over_bare_loop": None,
        "two_workers_over_one": None,
    }
    six = {"workers": 6, "speed_up": 5.0}
    assert bench_engine.headline({"c": [six]})["workers_over_one"] == 5.0
    row = {"precision": "float32", "compiled": False, "threads": 2}
    rows = [
        row | {"engine over bare loop": 0.95},
        row | {"engine over bare loop": 0.97},
        row | {"engine over bare loop": 0.5, "threads": 1},
        row | {"engine over bare loop": 0.6, "compiled": True},
    ]
    assert bench_engine.headline({"a": rows})["engine_over_bare_loop"] == 0.95


def test_weights_and_operations_are_those_of_the_network() -> None:
    for size in (engine_rates.SMALL, engine_rates.NetworkSize(3, 2, 7, 5)):
        network = size.network()
        weights = [p for p in network.parameters() if p.ndim > 1]
        assert size.weights == sum(p.numel() for p in weights)
        assert size.parameters == sum(p.numel() for p in network.parameters())
        products = 3 * size.weights - weights[0].numel()
        assert size.flops_per_frame == 2 * products
    assert engine_rates.SMALL.flops_per_frame == 7_759_872


def test_the_data_loader_splices_as_the_engine_does(tmp_path: Path) -> None:
    store = write_synthetic_store(
        tmp_path / "store", frames=300, dim=2, num_outputs=9, utterance_frames=20
    )
    frames = engine_rates.SplicedFrames(store)
    assert len(frames) == 300
    features, targets = store.read_utterance(1)
    first = int(store.offsets[1])
    window, target = frames[first]
    assert target == targets[0]
    expected = features[[0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].reshape(-1)
    np.testing.assert_array_equal(window.numpy(), expected)


def test_rates_are_interleaved_and_ratios_taken_by_round() -> None:
    order: list[str] = []

    def rate(name: str, value: float) -> float:
        order.append(name)
        return value

    rates = engine_rates.interleaved({"a": lambda: rate("a", 1.0), "b": lambda: rate("b", 2.0)}, 3)
    assert order == list("abbaab")
    assert rates == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert engine_rates.median_ratio([1.0, 9.0, 8.0], [2.0, 3.0, 4.0]) == 2.0


def test_predictions_are_the_formulas() -> None:
    size = engine_rates.SMALL
    payload = 4 * size.parameters
    hosts = engine_model.Cluster(
        "", 2, 4, 1e12, engine_model.Link(1e10, 0.0), engine_model.Link(1e9, 0.0)
    )
    flat, _ = engine_model.exchange_seconds(hosts, size, "allreduce", 4, 0.0)
    assert flat == pytest.approx(2 * 7 / 8 * payload / 1e9)
    level, exposed = engine_model.exchange_seconds(hosts, size, "hierarchical", 4, 0.0)
    assert level == pytest.approx(2 * 3 / 4 * payload / 1e10 + 2 * 1 / 2 * payload / 1e9)
    assert exposed == pytest.approx(level)
    _, hidden = engine_model.exchange_seconds(hosts, size, "allreduce", 4, math.inf)
    assert hidden == pytest.approx(flat * size.inputs * size.hidden_dim / size.weights)
    free = engine_model.Cluster("", 1, 4, 1e12, engine_model.Link(math.inf, 0.0))
    prediction = engine_model.predict(
        free, size, "allreduce", value_bytes=4, minibatch_per_worker=100, reader_rate=math.inf
    )
    assert prediction.speed_up == pytest.approx(4.0)
    assert prediction.frames_per_second == pytest.approx(4e12 / size.flops_per_frame)


def test_predictions_are_printed() -> None:
    printed = CliRunner().invoke(bench_engine.command, ["--predict"])
    assert printed.exit_code == 0, printed.output
    columns = {line.count("|") for line in printed.output.splitlines()}
    assert columns == {len(engine_model.PREDICTION_HEADER) + 1}
    assert "| 6 PCIe GPUs | 440-6x2048-10000 |" in printed.output
