import pytest
import torch

from mariana_asr.engine.exchange import ExchangeFigures, ExchangeMeter
from mariana_asr.engine.launch.workers import Workers


def test_times_are_unions_of_intervals(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    meter = ExchangeMeter(Workers(0, 4, torch.device("cpu"), 4))
    first = meter.launch(hidden=True)
    now = 1.0
    second = meter.launch(hidden=True)  # from here on there is nothing left to compute
    now = 3.0
    second()
    now = 4.0
    first()
    now = 6.0
    gathered = meter.launch(hidden=False)
    now = 7.0
    gathered()
    meter.end_step()
    meter.end_step()
    figures = meter.take()
    assert figures.steps == 2
    assert figures.busy_seconds == pytest.approx(5.0)
    assert figures.exposed_seconds == pytest.approx(4.0)
    assert figures.overlap == pytest.approx(0.2)
    assert meter.take() == ExchangeFigures()

    # What is exchanged outside of steps counts, too.
    averaged = meter.launch(hidden=False)
    now = 9.0
    averaged()
    assert meter.take().busy_seconds == pytest.approx(2.0)


def test_bytes_are_counted_by_kind():
    meter = ExchangeMeter(Workers(5, 8, torch.device("cpu"), 4))
    meter.count_all_reduce("gradient", 800)
    meter.count_scatter_or_gather("parameter", 800)
    meter.count_all_reduce("adaptive", 800, size=2, between=1.0)
    figures = meter.take()
    assert figures.gradient_bytes == 2 * 700
    assert figures.parameter_bytes == 700
    assert figures.adaptive_bytes == 800
    # One of the four workers of a host is next to another host in a ring.
    assert figures.between_hosts_bytes == (1400 + 700) // 4 + 800
    twice = figures + figures
    assert twice.gradient_bytes == 2 * figures.gradient_bytes
    assert twice.between_hosts_bytes == 2 * figures.between_hosts_bytes
