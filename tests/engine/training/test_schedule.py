import io
import math

import pytest
import torch

from mariana_asr.engine.options import CosineOptions, ExponentialOptions, NewbobOptions
from mariana_asr.engine.training.schedule import (
    Cosine,
    Decision,
    Exponential,
    Newbob,
    make_schedule,
)


def run(losses, initial=4.0, learning_rate=0.008, **options):
    """Feed losses until the schedule ends; returns it and (accepted, rate after) per epoch."""
    schedule = Newbob(NewbobOptions(**options), learning_rate, initial)
    steps = []
    for loss in losses:
        assert not schedule.finished
        decision = schedule.update(loss)
        steps.append((decision.accepted, schedule.learning_rate))
        assert decision.finished == schedule.finished
        assert decision.best == decision.accepted
        # Newbob's rate is the same for all steps of an epoch.
        assert schedule.rate(0, 7) == schedule.rate(6, 7) == schedule.learning_rate
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


STEADY = [
    ExponentialOptions(epochs=3, final_factor=0.2),
    CosineOptions(epochs=3, final_factor=0.1),
]


def test_options_decide_the_schedule():
    made = [make_schedule(options, 0.1, 4.0) for options in (NewbobOptions(), *STEADY)]
    assert [type(schedule) for schedule in made] == [Newbob, Exponential, Cosine]
    assert {schedule.learning_rate for schedule in made} == {0.1}
    assert {schedule.loss for schedule in made} == {4.0}


def rates_of(options, num_steps, learning_rate=0.5):
    schedule = make_schedule(options, learning_rate, 4.0)
    rates = []
    while not schedule.finished:
        rates += [schedule.rate(step, num_steps) for step in range(num_steps)]
        schedule.update(3.0)
    return rates


def test_exponential_rates_fall_by_the_same_factor_with_every_step():
    rates = rates_of(STEADY[0], 5)
    assert len(rates) == 15
    # 14 steps from 0.5 down to 0.5 * 0.2.
    assert rates == pytest.approx([0.5 * math.exp(math.log(0.2) * t / 14) for t in range(15)])
    assert rates[-1] == pytest.approx(0.1)


def test_cosine_rates_fall_along_half_a_cosine():
    rates = rates_of(STEADY[1], 3)
    # cos(t * 22.5 degrees), from the half-angle formulas.
    root = math.sqrt(2.0)
    cosines = [1.0, math.sqrt(2 + root) / 2, root / 2, math.sqrt(2 - root) / 2, 0.0]
    cosines += [-value for value in cosines[-2::-1]]
    assert rates == pytest.approx([0.5 * (0.1 + 0.9 * (1 + cosine) / 2) for cosine in cosines])
    assert rates[0] == 0.5
    assert rates[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("kind", [ExponentialOptions, CosineOptions])
def test_a_training_of_one_step_has_the_highest_rate(kind):
    assert rates_of(kind(epochs=1), 1) == [0.5]


@pytest.mark.parametrize("options", STEADY, ids=["exponential", "cosine"])
def test_steady_schedules_keep_every_epoch_and_know_the_best(options):
    schedule = make_schedule(options, 0.1, 4.0)
    assert schedule.update(3.0) == Decision(True, True, False, "best so far")
    assert schedule.update(3.5) == Decision(True, False, False, "not better than the best so far")
    assert schedule.loss == 3.0
    assert schedule.update(2.0) == Decision(True, True, True, "epochs=3 done")
    assert schedule.finished
    assert (schedule.epoch, schedule.loss) == (3, 2.0)


@pytest.mark.parametrize("options", STEADY, ids=["exponential", "cosine"])
def test_steady_schedules_never_take_an_epoch_worse_than_before_training_for_the_best(options):
    schedule = make_schedule(options, 0.1, 4.0)
    assert [schedule.update(4.5).best for _ in range(3)] == [False] * 3
    assert schedule.loss == 4.0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("options", STEADY, ids=["exponential", "cosine"])
def test_steady_schedules_reject_a_loss_that_is_not_finite(options, loss):
    schedule = make_schedule(options, 0.1, 4.0)
    assert schedule.update(loss) == Decision(False, False, False, "held-out loss is not finite")
    assert schedule.loss == 4.0


@pytest.mark.parametrize(
    "options", [NewbobOptions(), *STEADY], ids=["newbob", "exponential", "cosine"]
)
def test_schedules_go_on_in_the_middle_from_a_file(options):
    whole = make_schedule(options, 0.1, 4.0)
    for loss in (2.0, 2.5):
        whole.update(loss)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = make_schedule(options, 1.0, math.inf)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [resumed.rate(step, 5) for step in range(5)] == [
        whole.rate(step, 5) for step in range(5)
    ]
    assert resumed.update(1.9) == whole.update(1.9)
    assert resumed.state_dict() == whole.state_dict()
