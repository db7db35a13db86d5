import io

import torch
from gloo import run_workers
from small_network import (
    SmallObjective,
    backward,
    distance,
    exchange_of,
    frames,
    gradients,
    gradients_in,
    sum_of_squares,
)

OPTIONS = {"type": "powersgd", "rank": 1, "start_step": 2}
HIDDEN = 40
WEIGHTS, BIASES = 6 * HIDDEN + HIDDEN * 7, HIDDEN + 7
FACTORS = (6 + HIDDEN) + (HIDDEN + 7)


def steps(exchange, workers, numbers):
    """Gradients of some steps, without any updates."""
    found = []
    for number in numbers:
        backward(exchange, workers, *frames(25, seed=number))
        exchange.finish_step(True)
        found.append(gradients_in(exchange))
    return found


def saved(state):
    """As a checkpoint would have it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def check_powersgd(workers):
    objective = SmallObjective(HIDDEN)
    exchange = exchange_of(workers, OPTIONS, objective, exact=True)
    expected = [gradients(objective, *frames(25, seed=number)) for number in range(12)]
    found = steps(exchange, workers, range(2))
    for step in range(2):
        assert distance(found[step], expected[step]) < 1e-6
    figures = exchange.meter.take()
    assert figures.gradient_bytes == figures.adaptive_bytes == 2 * 4 * (WEIGHTS + BIASES)

    found = steps(exchange, workers, range(2, 12))
    assert all(distance(found[step], expected[step + 2]) > 0.1 for step in range(10))
    figures = exchange.meter.take()
    assert figures.gradient_bytes == 10 * 4 * (FACTORS + BIASES)
    assert figures.adaptive_bytes == 10 * 4 * (WEIGHTS + BIASES)
    assert 0.0 < figures.exposed_seconds <= figures.busy_seconds
    squares = sum_of_squares(objective, workers, *frames(25, seed=11))
    assert distance(exchange.squares, squares) < 1e-6

    # What the steps did not pass on is what the workers still keep.
    state = exchange.state_dict()
    missing = workers.sum(state["error"][0].clone())
    lengths = [objective.get_parameter(name).numel() for name in state["order"]]
    missing = dict(zip(state["order"], missing.split(lengths), strict=True))
    for name in found[0]:
        passed_on = sum(step[name] for step in found) + missing[name].view_as(found[0][name])
        due = sum(step[name] for step in expected[2:])
        assert torch.allclose(passed_on, due, atol=1e-4)

    # Another exchange goes on from its state with the same bits.
    again = exchange_of(workers, OPTIONS, SmallObjective(HIDDEN), exact=True)
    again.load_state_dict(saved(state))
    for one, other in zip(
        steps(exchange, workers, range(3)), steps(again, workers, range(3)), strict=True
    ):
        assert all(torch.equal(one[name], gradient) for name, gradient in other.items())
    again.close()

    # After a skipped step nothing is left of what is not finite.
    inputs, targets = frames(25)
    inputs[0, 0] = torch.nan
    backward(exchange, workers, inputs, targets)
    exchange.finish_step(False)
    assert not exchange.state_dict()["error"]
    after = steps(exchange, workers, range(2))
    assert all(gradient.isfinite().all() for step in after for gradient in step.values())
    assert any(error.any() for error in exchange.state_dict()["error"])
    exchange.reset()
    assert not exchange.state_dict()["error"]
    exchange.close()
    return after[-1]


def check_low_rank(workers):
    """A gradient of so few frames that the factors hold all of it; as many pieces as frames."""
    objective = SmallObjective(HIDDEN)
    exchange = exchange_of(workers, {**OPTIONS, "rank": 2}, objective)
    steps(exchange, workers, range(2))
    minibatch = frames(2)
    backward(exchange, workers, *minibatch, pieces=2)
    assert distance(gradients_in(exchange), gradients(objective, *minibatch)) < 1e-5
    exchange.close()


def check_all(workers):
    check_low_rank(workers)
    return check_powersgd(workers)


def test_powersgd():
    results = run_workers(check_all, 2)
    assert all(torch.equal(results[1][name], value) for name, value in results[0].items())
