"""What a user sees of an epoch, by a clock and a terminal of the test's own."""

import io
import logging

import pytest
import torch
from rich.console import Console

from mariana_asr.engine.exchange.meter import ExchangeFigures
from mariana_asr.engine.options import CosineOptions, NewbobOptions
from mariana_asr.engine.training.progress import EpochProgress, epoch_title, time_left
from mariana_asr.engine.training.totals import Totals

CPU = torch.device("cpu")


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def totals(frames: int, **kwargs) -> Totals:
    return Totals(loss=2.0 * frames, measure=0.25 * frames, frames=frames, **kwargs)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="mariana_asr")
    return caplog


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=140)


def test_without_a_terminal_there_is_a_line_every_30_seconds(clock, logged):
    with EpochProgress("epoch 3", 10_000, console=console(terminal=False), clock=clock) as progress:
        for second in range(1, 66):
            clock.now = 100.0 + second
            progress.show(totals(100 * second, seconds=second, seconds_waiting=0.1), CPU)
    assert logged.messages == [
        "epoch 3: 30%, loss 2.0000, accuracy 25.00%, 100 frames/s, 0% waiting for data, "
        "1:10 min left",
        "epoch 3: 60%, loss 2.0000, accuracy 25.00%, 100 frames/s, 0% waiting for data, 40 s left",
    ]


def test_rate_and_time_left_are_of_this_run_alone(clock, logged):
    progress = EpochProgress("epoch 1", 10_000, 5_000, console=console(terminal=False), clock=clock)
    clock.now += 30
    progress.show(totals(6_500), CPU)
    assert logged.messages[0].startswith("epoch 1: 65%, ")
    assert "50 frames/s" in logged.messages[0]
    assert logged.messages[0].endswith("1:10 min left")


def test_where_no_frame_was_learnt_from_no_time_is_promised(clock, logged):
    progress = EpochProgress("epoch 1", 100, console=console(terminal=False), clock=clock)
    clock.now += 60
    progress.show(totals(0), CPU)
    assert "left" not in logged.messages[0]


def test_a_terminal_has_a_bar_that_goes_away(clock, logged):
    screen = console(terminal=True)
    with EpochProgress("epoch 3", 1000, console=screen, clock=clock) as progress:
        clock.now += 0.1
        progress.show(totals(100), CPU)
        clock.now += 0.9
        progress.show(totals(500), CPU)
    shown = screen.file.getvalue()
    assert " 50% loss 2.0000, accuracy 25.00%, 500 frames/s" in shown
    assert "1 s left" in shown
    assert "10%" not in shown, "it moves at most every 0.2 s"
    assert shown.endswith("\x1b[2K"), "the last thing written clears the line"
    assert not logged.messages


def test_several_workers_are_told_what_the_exchange_costs(clock, logged):
    progress = EpochProgress("epoch 1", 100, console=console(terminal=False), clock=clock)
    clock.now += 30
    figures = ExchangeFigures(steps=3, busy_seconds=5.0, exposed_seconds=3.0)
    progress.show(totals(50, seconds=30.0, exchange=figures), CPU)
    assert "10% for the exchange" in logged.messages[0]


def test_on_a_gpu_its_memory_is_shown(clock, logged, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    progress = EpochProgress("epoch 1", 100, console=console(terminal=False), clock=clock)
    clock.now += 30
    progress.show(totals(50), torch.device("cuda", 0))
    assert "1.5 GiB of GPU" in logged.messages[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_workers_but_the_first_show_nothing(clock, logged, terminal):
    screen = console(terminal=terminal)
    with EpochProgress("epoch 1", 100, shown=False, console=screen, clock=clock) as progress:
        clock.now += 60
        progress.show(totals(50), CPU)
    assert not screen.file.getvalue()
    assert not logged.messages


def test_only_schedules_of_known_length_say_how_many_epochs_there_are():
    assert epoch_title(3, NewbobOptions(max_iters=20)) == "epoch 3"
    assert epoch_title(3, CosineOptions(epochs=10)) == "epoch 3 of 10"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (185, "3:05 min"), (7620, "2:07 h")],
)
def test_times_are_for_people(seconds, text):
    assert time_left(seconds) == text
