import copy

import pytest
import torch
from gloo import run_workers
from torch import nn

from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.normalisation import SynchronisedBatchNorm, synchronise_batch_norm
from mariana_asr.nnet.dnn import Dnn, DnnOptions

FEATURES = 7
STEPS = 4

ALONE = Workers.alone(torch.device("cpu"))


def layer(dtype, affine=True, momentum=0.1):
    torch.manual_seed(3)
    norm = nn.BatchNorm1d(FEATURES, affine=affine, momentum=momentum, dtype=dtype)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    return nn.Sequential(norm)


def minibatch(step, dtype, offset=3.0):
    generator = torch.Generator().manual_seed(step)
    rows = 23 + step
    inputs = torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64) + offset
    gradients = torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), gradients.to(dtype)


def run(network, part, dtype, offset):
    """All that can be compared of some steps in training and one in evaluation."""
    seen = []
    for step in range(STEPS):
        inputs, gradients = minibatch(step, dtype, offset)
        rows = part(len(inputs))
        inputs = inputs[rows].requires_grad_()
        outputs = network(inputs)
        network.zero_grad()
        outputs.backward(gradients[rows])
        seen.append(
            (
                outputs.detach(),
                inputs.grad,
                [parameter.grad.clone() for parameter in network.parameters()],
                {name: tensor.clone() for name, tensor in network.state_dict().items()},
            )
        )
    network.eval()
    return seen, network(minibatch(99, dtype)[0]).detach()


def equal_parts(workers):
    return workers.part_of


def uneven_parts(workers):
    """All rows but one to the last worker, none to the first."""

    def part(rows):
        if workers.rank == workers.size - 1:
            return slice(0, rows - 1 if workers.size > 2 else rows)
        return slice(rows - 1, rows) if workers.rank == 1 else slice(0, 0)

    return part


def work(workers, dtype, affine, momentum, offset, parts):
    network = layer(dtype, affine, momentum)
    synchronise_batch_norm(network, workers)
    assert type(network[0]) is SynchronisedBatchNorm
    part = parts(workers)
    return part(23), run(network, part, dtype, offset)


@pytest.mark.parametrize(
    ("size", "dtype", "affine", "momentum", "offset", "parts", "tolerance"),
    [
        (2, torch.float32, True, 0.1, 3.0, equal_parts, 1e-6),
        (3, torch.float64, True, 0.1, 1000.0, equal_parts, 1e-9),
        (2, torch.float64, False, None, 3.0, uneven_parts, 1e-12),
        (3, torch.float32, True, 0.1, 3.0, uneven_parts, 1e-6),
    ],
)
def test_workers_normalise_as_one_does_the_whole_minibatch(
    size, dtype, affine, momentum, offset, parts, tolerance
):
    expected, expected_evaluation = run(
        layer(dtype, affine, momentum), ALONE.part_of, dtype, offset
    )
    results = run_workers(work, size, dtype, affine, momentum, offset, parts)
    # Workers' parts in the order of their rows.
    results.sort(key=lambda result: (result[0].start, result[0].stop))
    close = {"rtol": tolerance, "atol": tolerance}
    for step, (outputs, gradient, parameters, state) in enumerate(expected):
        of_step = [seen[step] for _, (seen, _) in results]
        torch.testing.assert_close(torch.cat([each[0] for each in of_step]), outputs, **close)
        torch.testing.assert_close(torch.cat([each[1] for each in of_step]), gradient, **close)
        for number, of_parameter in enumerate(parameters):
            total = sum(each[2][number] for each in of_step)
            torch.testing.assert_close(total, of_parameter, rtol=tolerance, atol=10 * tolerance)
        for each in of_step:
            torch.testing.assert_close(each[3], state, **close)
    for _, (_, evaluation) in results:
        torch.testing.assert_close(evaluation, expected_evaluation, **close)


def test_a_large_mean_costs_no_more_precision_than_in_torch():
    # In float32 the square of the mean alone would leave nothing of the variance.
    inputs = minibatch(0, torch.float32, 300.0)[0]
    exact = layer(torch.float64)(inputs.double()).detach()
    error_of_torch = (layer(torch.float32)(inputs) - exact).abs().max().item()
    network = layer(torch.float32)
    results = run_workers(normalise, 2, network, inputs)
    error = (torch.cat(results) - exact).abs().max().item()
    assert error < max(2 * error_of_torch, 1e-6)


def normalise(workers, network, inputs):
    synchronise_batch_norm(network, workers)
    return network(inputs[workers.part_of(len(inputs))]).detach()


def test_layers_are_replaced_in_place_and_the_state_keeps_its_names():
    network = Dnn(DnnOptions(hidden_layers=2, hidden_dim=4), 3, 2)
    parameters = dict(network.named_parameters())
    state = copy.deepcopy(network.state_dict())
    two = Workers(0, 2, torch.device("cpu"), 2)
    synchronise_batch_norm(network, two)
    synchronise_batch_norm(network, two)  # a second time does no harm
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm1d)]
    assert [type(each) for each in norms] == [SynchronisedBatchNorm] * 2
    assert {name: id(each) for name, each in network.named_parameters()} == {
        name: id(each) for name, each in parameters.items()
    }
    assert list(network.state_dict()) == list(state)
    torch.testing.assert_close(network.state_dict(), state)
    network.load_state_dict(state)


def test_one_worker_keeps_its_batch_norm():
    network = layer(torch.float32)
    synchronise_batch_norm(network, ALONE)
    assert type(network[0]) is nn.BatchNorm1d
