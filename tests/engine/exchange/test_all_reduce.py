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

from mariana_asr.engine.exchange import Alone
from mariana_asr.engine.exchange.all_reduce import AllReduce
from mariana_asr.engine.launch.workers import Workers

NUMBERS = 6 * 9 + 9 + 9 * 7 + 7


def check_all_reduce(workers):
    objective = SmallObjective(seed=workers.rank)  # the first worker's parameters are taken
    exchange = exchange_of(workers, "allreduce", objective)
    alone = SmallObjective()
    for step in range(3):
        # 25 frames are unequal parts, and of a single one most workers get nothing.
        minibatch = frames([25, 24, 1][step], seed=step)
        assert backward(exchange, workers, *minibatch) == len(minibatch[1])
        assert distance(gradients_in(exchange), gradients(alone, *minibatch)) < 1e-6
        descend(exchange)
        alone.load_state_dict(objective.state_dict())
    figures = exchange.meter.take()
    assert figures.steps == 3
    assert figures.gradient_bytes == 3 * round(2 * (workers.size - 1) / workers.size * 4 * NUMBERS)
    assert figures.parameter_bytes == figures.adaptive_bytes == figures.between_hosts_bytes == 0
    assert 0.0 < figures.exposed_seconds <= figures.busy_seconds
    assert 0.0 <= figures.overlap <= 1.0
    assert exchange.squares is None
    assert exchange.at_boundary

    # Three pieces are as good as one.
    minibatch = frames(25)
    backward(exchange, workers, *minibatch, pieces=3)
    assert distance(gradients_in(exchange), gradients(objective, *minibatch)) < 1e-6
    exchange.finish_step(True)
    assert exchange.meter.take().gradient_bytes == figures.gradient_bytes // 3

    # A gradient that is not finite reaches all workers, and the next one is clean.
    inputs, targets = frames(25)
    inputs[0, 0] = torch.nan
    backward(exchange, workers, inputs, targets)
    assert not any(torch.isfinite(p.grad).all() for p in [exchange.parameters["hidden.weight"]])
    exchange.finish_step(False)
    backward(exchange, workers, *minibatch)
    assert distance(gradients_in(exchange), gradients(objective, *minibatch)) < 1e-6

    exchange.close()
    expected = gradients(objective, *minibatch)
    exchange.objective(*minibatch)[0].backward()
    own = {name: p.grad for name, p in objective.named_parameters()}
    assert distance(own, expected) < 1e-6
    return objective.state_dict()


@pytest.mark.parametrize("size", [2, 3])
def test_gradients_are_those_of_one_worker(size):
    states = run_workers(check_all_reduce, size)
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())


def check_half(workers):
    for type_, precision in [("fp16", 2e-3), ("bf16", 2e-2)]:
        objective = SmallObjective()
        exchange = exchange_of(workers, type_, objective)
        minibatch = frames(40)
        backward(exchange, workers, *minibatch)
        assert 0.0 < distance(gradients_in(exchange), gradients(objective, *minibatch)) < precision
        exchange.finish_step(True)
        assert exchange.meter.take().gradient_bytes == 2 * NUMBERS
        assert all(p.grad.dtype == torch.float32 for p in exchange.parameters.values())
        exchange.close()


def check_exact_squares(workers):
    for type_ in ["allreduce", "bf16"]:
        objective = SmallObjective()
        exchange = exchange_of(workers, type_, objective, exact=True)
        for pieces in [1, 2]:
            inputs, targets = frames(25, seed=pieces)
            backward(exchange, workers, inputs, targets, pieces=pieces)
            expected = sum_of_squares(objective, workers, inputs, targets)
            assert distance(exchange.squares, expected) < 1e-6
            exchange.finish_step(True)
        figures = exchange.meter.take()
        assert figures.adaptive_bytes == 2 * 4 * NUMBERS
        assert figures.gradient_bytes == 2 * (4 if type_ == "allreduce" else 2) * NUMBERS
        exchange.close()


def check_buffers(workers):
    """Batch norm's statistics of each worker's own frames are averaged, constants stay."""
    objective = SmallObjective(batch_norm=True)
    exchange = exchange_of(workers, "allreduce", objective)
    shift, number = objective.shift.clone(), float(workers.rank)
    objective.norm.running_mean.fill_(number)
    state = exchange.state_dict()
    exchange.synchronise()
    assert torch.equal(objective.shift, shift)
    assert torch.allclose(objective.norm.running_mean, torch.tensor((workers.size - 1) / 2))
    assert exchange.meter.take().parameter_bytes > 0
    exchange.load_state_dict(state)
    assert (objective.norm.running_mean == number).all()


class Spied(AllReduce):
    """Remembers how the parameters are spread over the buckets."""

    def _sum_bucket(self, bucket):
        self.seen.append([self._names[id(parameter)] for parameter in bucket.parameters()])
        return super()._sum_bucket(bucket)


def check_buckets(workers):
    """Buckets are in the first step what they are in all that follow."""
    Spied.seen = []
    exchange = Spied(SmallObjective(), workers, bucket_megabytes=300 / 2**20)
    expected = [["output.bias", "output.weight", "hidden.bias"], ["hidden.weight"]]
    for _ in range(3):
        exchange.seen.clear()
        backward(exchange, workers, *frames(8), pieces=2)
        exchange.finish_step(True)
        assert exchange.seen == expected, exchange.seen


def check_hosts(workers):
    """Half of the bytes of a ring over hosts of two workers leave the host."""
    exchange = exchange_of(workers, "allreduce")
    backward(exchange, workers, *frames(8))
    figures = exchange.meter.take()
    assert figures.gradient_bytes == round(1.5 * 4 * NUMBERS)
    assert figures.between_hosts_bytes == figures.gradient_bytes // 2


def check_many(workers):
    check_half(workers)
    check_buckets(workers)
    check_exact_squares(workers)
    check_buffers(workers)


def test_16_bits_buckets_squares_and_buffers():
    run_workers(check_many, 2)


def test_bytes_between_hosts():
    run_workers(check_hosts, 4, per_host=2)


def test_one_worker_exchanges_nothing():
    workers = Workers.alone(torch.device("cpu"))
    objective = SmallObjective()
    exchange = exchange_of(workers, "bmuf", objective, exact=True)
    assert isinstance(exchange, Alone)
    minibatch = frames(25)
    assert backward(exchange, workers, *minibatch, pieces=2) == 25
    assert distance(gradients_in(exchange), gradients(objective, *minibatch)) < 1e-6
    assert exchange.squares is None
    exchange.finish_step(True)
    exchange.synchronise()
    figures = exchange.meter.take()
    assert (figures.steps, figures.gradient_bytes, figures.overlap) == (1, 0, 0.0)
