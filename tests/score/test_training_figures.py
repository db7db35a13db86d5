"""The table on how a network was trained."""

import pytest

from mariana_asr.score.training_figures import format_bytes, frames_per_second, training_figures

ALONE = {
    "workers": 1,
    "frames": 1000,
    "skipped_steps": 1,
    "seconds": 1.0,
    "frames_per_second": 1000.0,
    "data_wait_share": 0.1,
    "exchange_wait_share": 0.0,
    "efficiency": 0.9,
}
TOGETHER = ALONE | {
    "workers": 2,
    "exchange": "sharded",
    "seconds": 3.0,
    "frames": 3000,
    "data_wait_share": 0.02,
    "exchange_wait_share": 0.2,
    "efficiency": 0.78,
    "gradient_bytes_per_step": 2_800_000,
    "parameter_bytes_per_step": 2_800_000,
    "adaptive_bytes_per_step": 0,
    "between_hosts_bytes_per_step": 0,
    "exchange_ms_per_step": 6.2,
    "exchange_overlap": 0.75,
}


def table(log) -> dict[str, str]:
    return {figure.name: figure.value for figure in training_figures(log)}


def test_speed_is_that_of_all_epochs_weighted_by_their_time():
    assert frames_per_second([{"epoch": 0}, ALONE, TOGETHER]) == 1000.0
    assert frames_per_second([ALONE, ALONE | {"frames": 4000}]) == 2500.0
    assert frames_per_second([{"epoch": 0, "held_out_loss": 5.0}]) is None


def test_one_worker_has_no_exchange():
    assert table([{"epoch": 0, "held_out_loss": 5.0}, ALONE]) == {
        "Workers": "1",
        "Frames trained": "1,000",
        "Frames a second": "1,000",
        "Waiting for data": "10.0%",
        "Efficiency": "90.0%",
        "Steps skipped": "1",
    }


def test_several_workers_have_bytes_and_times():
    figures = {figure.name: figure for figure in training_figures([TOGETHER])}
    assert figures["Workers"].note == "exchange: sharded"
    assert figures["Waiting for the exchange"].value == "20.0%"
    assert figures["Sent for gradients"].value == figures["Sent for parameters"].value == "2.8 MB"
    assert figures["Sent for adaptive rates"].value == "0"
    assert figures["Exchange under way"].value == "6.20 ms"
    assert figures["Exchange under way"].note == "a step, 75% of it behind computing"
    assert "Of these to other hosts" not in figures


def test_epochs_are_added_up_by_their_time():
    found = table([ALONE, TOGETHER])
    assert found["Workers"] == "1, then 2"
    assert found["Frames a second"] == "1,000"
    # (1 s * 0.1 + 3 s * 0.02) / 4 s
    assert found["Waiting for data"] == "4.0%"
    assert found["Steps skipped"] == "2"
    # Only epochs that had an exchange count for what it cost.
    assert found["Exchange under way"] == "6.20 ms"


def test_what_goes_to_other_hosts_is_told_apart():
    hosts = TOGETHER | {"between_hosts_bytes_per_step": 1_400_000}
    assert table([hosts])["Of these to other hosts"] == "1.4 MB"


@pytest.mark.parametrize("log", [[], [{}], [{"epoch": 1, "accepted": True}]])
def test_older_logs_have_no_table(log):
    assert training_figures(log) == []


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (812, "812 B"), (12_500, "12.5 kB"), (3.4e6, "3.4 MB"), (2e9, "2 GB")],
)
def test_bytes_are_for_people(number, text):
    assert format_bytes(number) == text
