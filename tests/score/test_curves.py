"""Training curves of the schedules."""

import math
import re
from itertools import pairwise

import pytest

from mariana_asr.score.curves import kept_epoch, network_charts, rejected_epochs


def epoch(number: int, loss: float, *, best: bool, accepted: bool = True, rate: float = 0.01):
    return {
        "epoch": number,
        "train_loss": loss,
        "held_out_loss": loss,
        "learning_rate": rate,
        "accepted": accepted,
        "best": best,
    }


NEWBOB = [
    epoch(1, 2.0, best=True),
    epoch(2, 2.5, best=False, accepted=False),
    epoch(3, 1.5, best=True),
    epoch(4, 1.6, best=False, accepted=False),
]
COSINE = [epoch(1, 2.0, best=True), epoch(2, 1.5, best=True), epoch(3, 1.6, best=False)]


def test_with_newbob_undone_epochs_are_named_and_none_is_marked():
    assert rejected_epochs(NEWBOB) == [2, 4]
    assert kept_epoch(NEWBOB) is None


def test_where_training_went_on_after_the_best_epoch_it_is_marked():
    assert rejected_epochs(COSINE) == []
    assert kept_epoch(COSINE) == 2
    assert kept_epoch(COSINE[:2]) is None


def test_logs_that_do_not_tell_the_best_epoch_mark_none():
    assert kept_epoch([{"epoch": 1, "accepted": True}, {"epoch": 2, "accepted": True}]) is None
    assert kept_epoch([]) is None


def test_losses_that_are_not_finite_are_left_out():
    charts = network_charts([*COSINE, epoch(4, math.nan, best=False, accepted=False)])
    assert [chart.title for chart in charts] == ["Loss", "Learning rate"]
    assert not re.search(r"\bnan\b", charts[0].svg)


@pytest.mark.parametrize(
    ("rates", "labels"),
    [
        ([0.008, 0.008, 0.004, 0.002], ["0.008", "0.004", "0.002"]),
        # Half a cosine is flat at its top, where the labels of all points would overlap.
        ([0.01 * 0.5 * (1 + math.cos(math.pi * i / 20)) for i in range(20)], None),
        ([0.01, 0.01], ["0.01"]),
    ],
)
def test_rates_have_labels_that_do_not_overlap(rates, labels):
    log = [epoch(i, 1.0, best=True, rate=rate) for i, rate in enumerate(rates, 1)]
    svg = network_charts(log)[-1].svg
    found = re.findall(r'<g id="text_\d+">\s*<!-- (0\.\d+|\d\S*e-\d+) -->', svg)
    found = found or re.findall(r">(0\.\d+|[\d.]+e-\d+)</text>", svg)
    if labels is None:
        assert 3 <= len(found) <= 10
        values = sorted(map(float, found))
        assert min(b / a for a, b in pairwise(values)) > 1.1
    else:
        assert sorted(found) == sorted(labels)


@pytest.mark.parametrize(
    ("criterion", "said"),
    [(None, "Cross-entropy"), ("smbr", "expect to be wrong"), ("mmi", "of the reference")],
)
def test_charts_say_what_the_loss_is(criterion, said):
    log = [epoch(1, 1.0, best=True) | ({"criterion": criterion} if criterion else {})]
    assert said in network_charts(log)[0].note
