import pytest
import torch
from gloo import run_workers
from small_network import SmallObjective, backward, descend, exchange_of, frames, gradients

from mariana_asr.engine.launch.workers import Workers

RATE = 0.05


def part_of(rank, workers, minibatch):
    part = Workers(rank, workers.size, workers.device, 1).part_of(len(minibatch[1]))
    return minibatch[0][part], minibatch[1][part]


def vector_of(objective):
    return torch.cat([p.detach().reshape(-1).double() for p in objective.parameters()])


def put(objective, vector):
    torch.nn.utils.vector_to_parameters(vector.float(), objective.parameters())


def block(begin, workers, minibatches, scale_of):
    """Where each worker gets to from one beginning, one after the other in this process."""
    ends = []
    for rank in range(workers.size):
        objective = SmallObjective()
        put(objective, begin)
        for minibatch in minibatches:
            own = part_of(rank, workers, minibatch)
            found = gradients(objective, *own)
            scale = scale_of(len(own[1]), len(minibatch[1]))
            with torch.no_grad():
                for name, parameter in objective.named_parameters():
                    parameter -= RATE * scale * found[name]
        ends.append(vector_of(objective))
    return ends


def train(exchange, workers, minibatches):
    for minibatch in minibatches:
        backward(exchange, workers, *minibatch)
        descend(exchange, RATE)


def near(objective, expected):
    return torch.allclose(vector_of(objective), expected, atol=1e-5)


def check_local_sgd(workers):
    objective = SmallObjective(seed=workers.rank)
    options = {"type": "local_sgd", "block_steps": 3}
    exchange = exchange_of(workers, options, objective)
    assert exchange.optimiser_state == "local"
    assert not exchange.resets_momentum
    minibatches = [frames(24 + step, seed=step) for step in range(5)]
    minibatches[1] = frames(1)  # nothing for all but one
    begin = vector_of(objective)
    assert torch.equal(begin, vector_of(SmallObjective()))

    def scale_of(local, whole):
        return whole / max(local, 1)

    train(exchange, workers, minibatches[:2])
    assert not exchange.at_boundary
    train(exchange, workers, minibatches[2:3])
    assert exchange.at_boundary
    first = sum(block(begin, workers, minibatches[:3], scale_of)) / workers.size
    assert near(objective, first)
    train(exchange, workers, minibatches[3:])
    assert not exchange.at_boundary
    exchange.synchronise()
    assert exchange.at_boundary
    ends = block(first, workers, minibatches[3:], scale_of)
    assert near(objective, sum(ends) / workers.size)
    shift = objective.shift.clone()
    assert torch.equal(shift, SmallObjective().shift)

    figures = exchange.meter.take()
    share = 2 * (workers.size - 1) / workers.size
    numbers = len(begin)
    assert figures.steps == 5
    assert figures.gradient_bytes == figures.adaptive_bytes == 0
    of_buffers = round(share * 8 * len(shift))
    assert figures.parameter_bytes == 2 * (round(share * 4 * numbers) + of_buffers)
    assert figures.overlap == pytest.approx(0.0)
    # Averages count from the end of the last one.
    train(exchange, workers, minibatches[:2])
    assert not exchange.at_boundary
    exchange.reset()
    assert exchange.at_boundary


def check_bmuf(workers):
    minibatches = [frames(24, seed=step) for step in range(8)]
    for nesterov in [True, False]:
        objective = SmallObjective()
        options = {
            "type": "bmuf",
            "block_steps": 3,
            "block_learning_rate": 0.9,
            "nesterov": nesterov,
        }
        exchange = exchange_of(workers, options, objective)
        assert exchange.resets_momentum
        momentum = 1.0 - 1.0 / workers.size
        model = vector_of(objective)
        update = torch.zeros_like(model)
        # Two whole blocks, and one that an epoch's end breaks off.
        for steps in [slice(0, 3), slice(3, 6), slice(6, 8)]:
            begin = model + momentum * update if nesterov else model
            ends = block(begin, workers, minibatches[steps], lambda *_: 1.0)
            update = momentum * update + 0.9 * (sum(ends) / workers.size - begin)
            model = model + update
            train(exchange, workers, minibatches[steps])
            assert exchange.at_boundary == (steps.stop < 8)
            exchange.synchronise()
            assert near(objective, model)
        # Again is no further step.
        exchange.synchronise()
        assert near(objective, model)

        # A resumed one goes on alike; one that is reset has no momentum.
        resumed_objective = SmallObjective(seed=3)
        resumed = exchange_of(workers, options, resumed_objective)
        resumed_objective.load_state_dict(objective.state_dict())
        resumed.load_state_dict(exchange.state_dict())
        train(exchange, workers, minibatches[:3])
        train(resumed, workers, minibatches[:3])
        assert torch.equal(vector_of(objective), vector_of(resumed_objective))
        exchange.reset()
        model = vector_of(objective)
        train(exchange, workers, minibatches[:3])
        ends = block(model, workers, minibatches[:3], lambda *_: 1.0)
        assert near(objective, model + 0.9 * (sum(ends) / workers.size - model))
    assert backward(exchange, workers, *frames(1)) == 1


@pytest.mark.parametrize("size", [2, 3])
def test_averages_of_parameters(size):
    run_workers(check_local_sgd, size)


def test_block_momentum():
    run_workers(check_bmuf, 3)
