import pytest
import torch
from gloo import run_workers
from small_network import (
    SmallObjective,
    backward,
    descend,
    distance,
    exchange_of,
    frames,
    gradients,
    gradients_in,
    sum_of_squares,
)

from mariana_asr.engine.exchange.hierarchical import Hierarchical
from mariana_asr.errors import StageError

NUMBERS = 6 * 9 + 9 + 9 * 7 + 7
EVEN = NUMBERS + NUMBERS % 2


def check_two_hosts_of_two(workers):
    options = {"type": "hierarchical", "workers_per_host": 2}
    objective = SmallObjective(seed=workers.rank)
    exchange = exchange_of(workers, options, objective, exact=True)
    for step in range(3):
        minibatch = frames([25, 24, 1][step], seed=step)
        expected = gradients(objective, *minibatch)
        squares = sum_of_squares(objective, workers, *minibatch)
        backward(exchange, workers, *minibatch, pieces=step + 1)
        assert distance(gradients_in(exchange), expected) < 1e-6
        assert distance(exchange.squares, squares) < 1e-6
        descend(exchange)
    figures = exchange.meter.take()
    # Two workers of a host: half of the payload out and half back; between hosts a half of it,
    # of which each of two sends as much.
    assert figures.gradient_bytes == figures.adaptive_bytes == 3 * (4 * EVEN + 4 * EVEN // 2)
    assert figures.between_hosts_bytes == 2 * 3 * 4 * EVEN // 2
    assert 0.0 < figures.exposed_seconds <= figures.busy_seconds

    inputs, targets = frames(25)
    inputs[0, 0] = torch.nan
    backward(exchange, workers, inputs, targets)
    exchange.finish_step(False)
    backward(exchange, workers, *frames(25))
    assert distance(gradients_in(exchange), gradients(objective, *frames(25))) < 1e-6
    exchange.close()

    with pytest.raises(StageError, match="4 workers are not 3 for each host"):
        exchange_of(workers, {"type": "hierarchical", "workers_per_host": 3})

    # One host, and hosts of one worker each: plain all-reduces.
    for per_host in [1, 4]:
        exchange = Hierarchical(objective, workers, workers_per_host=per_host)
        backward(exchange, workers, *frames(25))
        assert distance(gradients_in(exchange), gradients(objective, *frames(25))) < 1e-6
        figures = exchange.meter.take()
        padded = NUMBERS + -NUMBERS % per_host
        assert figures.gradient_bytes == round(1.5 * 4 * padded)
        assert figures.between_hosts_bytes == (figures.gradient_bytes if per_host == 1 else 0)
        exchange.close()
    return objective.state_dict()


def test_gradients_over_a_mesh_are_those_of_one_worker():
    states = run_workers(check_two_hosts_of_two, 4)
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())
