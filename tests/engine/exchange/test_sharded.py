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
    sum_of_squares,
)

from mariana_asr.engine.exchange.sharded import cut_shards, join_shards


def rows_of(tensor, workers):
    """The rows of a worker: as many for each as it takes, the last ones get what is left."""
    each = -(-len(tensor) // workers.size)
    return tensor[workers.rank * each : (workers.rank + 1) * each]


def check_sharded(workers):
    objective = SmallObjective(seed=workers.rank)  # the first worker's parameters are taken
    exchange = exchange_of(workers, "sharded", objective, exact=True)
    assert exchange.optimiser_state == "sharded"
    assert list(exchange.parameters) == [name for name, _ in objective.named_parameters()]
    alone = SmallObjective()
    for step in range(3):
        inputs, targets = frames([25, 24, 1][step], seed=step)
        expected = gradients(alone, inputs, targets)
        squares = sum_of_squares(alone, workers, inputs, targets)
        pieces = step + 1
        assert backward(exchange, workers, inputs, targets, pieces=pieces) == len(targets)
        for name, parameter in exchange.parameters.items():
            assert torch.allclose(parameter.grad, rows_of(expected[name], workers), atol=1e-6)
            assert torch.allclose(exchange.squares[name], rows_of(squares[name], workers))
        # What the clipping of the whole gradient needs.
        norm = exchange.sum_over_owners(
            sum(p.grad.square().sum() for p in exchange.parameters.values())
        ).sqrt()
        whole = torch.cat([gradient.reshape(-1) for gradient in expected.values()])
        assert torch.allclose(norm, whole.norm())
        descend(exchange)
        with torch.no_grad():
            for name, parameter in alone.named_parameters():
                parameter -= 0.05 * expected[name]
        found = dict(objective.named_parameters())
        assert distance(found, dict(alone.named_parameters())) < 1e-6
    figures = exchange.meter.take()
    # Rows are filled up to as many for each worker.
    rows = sum(-(-rows // workers.size) * columns for rows, columns in [(9, 7), (7, 10)])
    assert figures.gradient_bytes == figures.adaptive_bytes == figures.parameter_bytes
    assert figures.gradient_bytes == 3 * 4 * rows * (workers.size - 1)
    assert 0.0 < figures.exposed_seconds <= figures.busy_seconds

    # A gradient that is not finite spoils nothing but its own step.
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    inputs, targets = frames(25)
    inputs[0, 0] = torch.nan
    backward(exchange, workers, inputs, targets)
    exchange.finish_step(False)
    assert exchange.meter.take().parameter_bytes == 0
    exchange.zero_grad()
    assert all(p.grad is None for p in exchange.parameters.values())
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())

    # Parameters that were set from outside are the ones that it goes on with.
    other = SmallObjective(seed=9)
    objective.load_state_dict(other.state_dict())
    exchange.reset()
    backward(exchange, workers, *frames(25))
    for name, parameter in exchange.parameters.items():
        assert torch.equal(parameter, rows_of(dict(other.named_parameters())[name], workers))
    descend(exchange)

    exchange.close()
    expected = gradients(objective, *frames(25))
    objective(*frames(25))[0].backward()
    assert distance({name: p.grad for name, p in objective.named_parameters()}, expected) < 1e-6
    return objective.state_dict()


@pytest.mark.parametrize("size", [2, 3])
def test_owners_get_their_rows_of_one_workers_gradients(size):
    states = run_workers(check_sharded, size)
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())


class PartlyUsed(SmallObjective):
    """Has a parameter that is no part of the loss, and one without dimensions."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs, targets):
        loss, correct = super().forward(inputs, targets)
        return self.scale * loss, correct


def check_partly_used(workers):
    """Fewer rows than workers, none at all, and no gradient."""
    objective = PartlyUsed()
    exchange = exchange_of(workers, "sharded", objective)
    loss = float(SmallObjective()(*frames(8))[0].detach())
    for _ in range(2):
        backward(exchange, workers, *frames(8))
        assert not exchange.parameters["unused"].grad.any()
        scale = exchange.parameters["scale"]
        assert scale.shape == ((1,) if workers.rank == 0 else (0,))
        assert torch.allclose(scale.grad, torch.full(scale.shape, loss))
        exchange.finish_step(True)
    descend(exchange)
    assert objective.scale.item() == pytest.approx(2.0 - 0.05 * loss)


def test_parameters_with_fewer_rows_than_workers():
    run_workers(check_partly_used, 2)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (2, 4)])
def test_optimisers_states_are_joined_and_cut_for_any_number_of_workers(before, after):
    shapes = {"weight": (7, 3), "bias": (7,), "scale": (), "filters": (2, 3, 5)}
    whole = {
        "steps": 12,
        "slots": {
            slot: {name: torch.rand(shape) for name, shape in shapes.items()}
            for slot in ["momentum", "squares"]
        },
    }
    cut = [cut_shards(whole, rank, before) for rank in range(before)]
    assert len(cut[0]["slots"]["momentum"]["weight"]) == -(-7 // before)
    again = join_shards(cut, shapes)
    again = join_shards([cut_shards(again, rank, after) for rank in range(after)], shapes)
    assert again["steps"] == 12
    for slot, tensors in whole["slots"].items():
        for name, tensor in tensors.items():
            assert torch.equal(again["slots"][slot][name], tensor)
            assert again["slots"][slot][name].shape == tensor.shape
