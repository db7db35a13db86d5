import math

import pytest

from mariana_asr.engine.options import NewbobOptions
from mariana_asr.engine.training.schedule import Newbob


def run(losses, initial=4.0, learning_rate=0.008, **options):
    """Feed losses until the schedule ends; returns it and (accepted, rate after) per epoch."""
    schedule = Newbob(NewbobOptions(**options), learning_rate, initial)
    steps = []
    for loss in losses:
        assert not schedule.finished
        decision = schedule.update(loss)
        steps.append((decision.accepted, schedule.learning_rate))
        assert decision.finished == schedule.finished
    return schedule, steps


def test_rate_is_kept_while_the_loss_falls_by_a_hundredth():
    schedule, steps = run([3.0, 2.0, 1.9])
    assert steps == [(True, 0.008)] * 3
    assert not schedule.finished


def test_rate_is_halved_each_epoch_once_the_gain_is_small_even_if_it_grows_again():
    # 1.99 gains 0.005 of 2.0: halving begins. 1.9 gains 0.045: halving goes on all the same.
    schedule, steps = run([2.0, 1.99, 1.9, 1.89])
    assert steps == [(True, 0.008), (True, 0.004), (True, 0.002), (True, 0.001)]
    assert not schedule.finished


def test_training_ends_when_a_halved_rate_gains_less_than_a_thousandth():
    schedule, steps = run([2.0, 1.99, 1.9895])
    assert schedule.finished
    assert steps[-1] == (True, 0.004)
    assert schedule.loss == 1.9895


def test_a_worse_epoch_is_rejected_and_starts_the_halving():
    schedule, steps = run([2.0, 2.5, 1.9])
    assert steps == [(True, 0.008), (False, 0.004), (True, 0.002)]
    assert not schedule.finished


def test_an_equal_loss_is_no_improvement():
    _, steps = run([4.0])
    assert steps == [(False, 0.004)]


def test_a_rejected_epoch_at_a_halved_rate_ends_training():
    schedule, steps = run([2.0, 2.5, 2.1])
    assert schedule.finished
    assert steps[-1] == (False, 0.004)
    assert schedule.loss == 2.0


def test_max_iters_ends_training():
    schedule, _ = run([3.0, 2.0], max_iters=2)
    assert schedule.finished


def test_min_iters_accepts_worse_epochs_and_keeps_going():
    # As in train_scheduler.sh, the rate is not lowered in an epoch that would have been the last.
    schedule, steps = run([2.0, 2.5, 2.6, 2.6], min_iters=3)
    assert [accepted for accepted, _ in steps] == [True, True, True, False]
    assert [rate for _, rate in steps] == [0.008, 0.004, 0.004, 0.004]
    assert schedule.finished


def test_keep_lr_iters_keeps_rate_and_weights():
    schedule, steps = run([5.0, 4.9, 4.8999], keep_lr_iters=2)
    assert steps == [(True, 0.008), (True, 0.008), (True, 0.004)]
    assert not schedule.finished


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_rejected_even_if_epochs_are_forced(loss):
    _, steps = run([loss], min_iters=5)
    assert steps == [(False, 0.004)]


def test_a_schedule_goes_on_from_its_saved_state():
    losses = [2.0, 1.99, 1.9, 1.9, 1.7]
    whole, _ = run(losses[:4])
    half, _ = run(losses[:2])
    resumed = Newbob(NewbobOptions(), 1.0, math.inf)
    resumed.load_state_dict(half.state_dict())
    for loss in losses[2:4]:
        resumed.update(loss)
    assert resumed.state_dict() == whole.state_dict()
