"""A small network as an objective, some frames for it, and what one worker makes of them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mariana_asr.engine.exchange import Exchange, make_exchange
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options.engine import EngineOptions

INPUTS, HIDDEN, OUTPUTS = 6, 9, 7


class SmallObjective(nn.Module):
    """Two layers and a sum of cross-entropies; weights do not depend on who makes it."""

    def __init__(self, hidden: int = HIDDEN, *, batch_norm: bool = False, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.Linear(INPUTS, hidden)
        self.norm = nn.BatchNorm1d(hidden) if batch_norm else nn.Identity()
        self.output = nn.Linear(hidden, OUTPUTS)
        self.register_buffer("shift", torch.rand(INPUTS, generator=generator))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.output(self.norm(self.hidden(inputs + self.shift)).tanh())
        loss = cross_entropy(logits, targets, reduction="sum")
        return loss, (logits.argmax(dim=1) == targets).sum()


def frames(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (count, INPUTS) and targets (count,) of a minibatch."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, INPUTS, generator=generator)
    return inputs, torch.randint(OUTPUTS, (count,), generator=generator)


def gradients(objective: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Gradient of the loss by one process, by name; the objective's own are left alone."""
    names = dict(objective.named_parameters())
    found = torch.autograd.grad(objective(inputs, targets)[0], list(names.values()))
    return dict(zip(names, found, strict=True))


def sum_of_squares(
    objective: nn.Module, workers: Workers, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Sum over the workers of the squares of each one's own gradient."""
    sums = {name: torch.zeros_like(p) for name, p in objective.named_parameters()}
    for rank in range(workers.size):
        part = Workers(rank, workers.size, workers.device, 1).part_of(len(targets))
        for name, own in gradients(objective, inputs[part], targets[part]).items():
            sums[name] += own.square()
    return sums


def exchange_of(
    workers: Workers, type_: Any, objective: nn.Module | None = None, *, exact: bool = False
) -> Exchange:
    """The exchange that a recipe describes by its type or options."""
    options = EngineOptions(exchange=type_).exchange
    return make_exchange(objective or SmallObjective(), workers, options, exact_squares=exact)


def gradients_in(exchange: Exchange) -> dict[str, Tensor]:
    """A copy of the gradients that an exchange has made."""
    found = {name: p.grad for name, p in exchange.parameters.items()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def backward(
    exchange: Exchange, workers: Workers, inputs: Tensor, targets: Tensor, *, pieces: int = 1
) -> int:
    """Gradients of a whole minibatch by the exchange, of which this worker computes its part."""
    part = workers.part_of(len(targets))
    inputs_of = inputs[part].tensor_split(pieces)
    targets_of = targets[part].tensor_split(pieces)
    exchange.zero_grad()
    for number in range(pieces):
        with exchange.accumulating(last=number == pieces - 1):
            exchange.objective(inputs_of[number], targets_of[number])[0].backward()
    return exchange.finish_backward(len(targets[part]), len(targets))


def descend(exchange: Exchange, rate: float = 0.05) -> None:
    """Plain gradient descent on whatever this worker's optimiser updates."""
    with torch.no_grad():
        for parameter in exchange.parameters.values():
            assert parameter.grad is not None
            parameter -= rate * parameter.grad
    exchange.finish_step(True)


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, of all tensors together."""
    assert found.keys() == expected.keys()
    difference = sum(float((found[n].double() - t).square().sum()) for n, t in expected.items())
    return (difference / sum(float(t.double().square().sum()) for t in expected.values())) ** 0.5
