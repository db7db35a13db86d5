"""Small parameters to train, and the optimisers written plainly in numpy."""

import math

import numpy as np
import torch

from mariana_asr.engine.optimisers.optimiser import Optimiser
from mariana_asr.engine.options import TrainOptions

SHAPES = {
    "hidden.0.weight": (6, 5),
    "hidden.0.bias": (6,),
    "conv.weight": (4, 2, 3),
    "output.weight": (4, 6),
    "output.bias": (4,),
}
OPTIMISERS = [
    {"type": "sgd"},
    {"type": "sgd", "momentum": 0.9},
    {"type": "adagrad"},
    {"type": "adam"},
    {"type": "adamw", "beta1": 0.8, "beta2": 0.95},
]
EXACT = [
    {"type": "adagrad", "squares": "exact"},
    {"type": "adam", "squares": "exact", "beta2": 0.9},
    {"type": "adamw", "squares": "exact", "beta1": 0.7},
]


def names_of(optimisers):
    return ["-".join(str(value) for value in options.values()) for options in optimisers]


def make_parameters(dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: torch.tensor(rng.standard_normal(shape), dtype=dtype, requires_grad=True)
        for name, shape in SHAPES.items()
    }


def gradients_of_step(step, workers=1):
    """Each worker's own sum of gradients, as numpy arrays by name."""
    rng = np.random.default_rng(100 + step)
    return [
        {name: rng.standard_normal(shape) * 3.0 for name, shape in SHAPES.items()}
        for _ in range(workers)
    ]


def set_gradients(parameters, gradients):
    for name, parameter in parameters.items():
        parameter.grad = torch.tensor(gradients[name], dtype=parameter.dtype)


def make_optimiser(parameters, optimiser, *, factors=None, sum_over_owners=None, **options):
    return Optimiser(
        parameters,
        TrainOptions(optimiser=optimiser, **options),
        learning_rate_factors=factors or {},
        sum_over_owners=sum_over_owners,
    )


def values_of(parameters):
    return {name: p.detach().clone() for name, p in parameters.items()}


def plain_step(values, state, summed, squares, optimiser, *, rate, frames, step, **options):
    """One update in numpy, by the formulas of the papers and of nnet-affine-transform.h."""
    l2, largest = options.get("l2_penalty", 0.0), options.get("max_grad_norm")
    norm = math.sqrt(sum((g**2).sum() for g in summed.values())) / frames
    clip = 1.0 if largest is None else min(1.0, largest / (norm + 1e-6))
    kind = optimiser["type"]
    for name, w in values.items():
        factor = options.get("factors", {}).get(name, 1.0)
        penalty = l2 if w.ndim > 1 else 0.0
        slots = state.setdefault(name, {"m": np.zeros_like(w), "v": np.zeros_like(w)})
        step_rate = rate * factor
        if kind == "sgd":
            slots["m"] = optimiser.get("momentum", 0.0) * slots["m"] + clip * summed[name]
            w *= 1.0 - step_rate * penalty * frames
            w -= step_rate * slots["m"]
            continue
        gradient = clip * summed[name] / frames
        own = gradient**2 if squares is None else squares[name] * (clip / frames) ** 2
        if kind == "adamw":
            w *= 1.0 - step_rate * penalty
        else:
            # With the exact rule the penalty is one worker more, with a square of its own.
            total = gradient + penalty * w
            own = total**2 if squares is None else own + (penalty * w) ** 2
            gradient = total
        if kind == "adagrad":
            slots["v"] += own
            w -= step_rate * gradient / (np.sqrt(slots["v"]) + 1e-10)
            continue
        beta1, beta2 = optimiser.get("beta1", 0.9), optimiser.get("beta2", 0.999)
        slots["m"] = beta1 * slots["m"] + (1 - beta1) * gradient
        slots["v"] = beta2 * slots["v"] + (1 - beta2) * own
        mean = slots["m"] / (1 - beta1**step)
        w -= step_rate * mean / (np.sqrt(slots["v"] / (1 - beta2**step)) + 1e-8)
    if options.get("max_norm"):
        for w in values.values():
            if w.ndim > 1:
                rows = w.reshape(len(w), -1)
                norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
                rows *= np.minimum(1.0, options["max_norm"] / norms)


def train_plainly(optimiser, steps, workers=1, *, rate, frames=7, **options):
    values = {n: p.detach().numpy().copy() for n, p in make_parameters().items()}
    state = {}
    for step in range(steps):
        parts = gradients_of_step(step, workers)
        summed = {name: sum(part[name] for part in parts) for name in SHAPES}
        exact = optimiser.get("squares") == "exact"
        squares = {n: sum(part[n] ** 2 for part in parts) for n in SHAPES} if exact else None
        plain_step(
            values,
            state,
            summed,
            squares,
            optimiser,
            rate=rate,
            frames=frames,
            step=step + 1,
            **options,
        )
    return values


def train(optimiser, steps, *, rate, frames=7, dtype=torch.float64, **options):
    parameters = make_parameters(dtype)
    made = make_optimiser(parameters, optimiser, **options)
    for step in range(steps):
        set_gradients(parameters, gradients_of_step(step)[0])
        assert made.step(rate, frames)
    return parameters, made


def assert_near(parameters, values, rtol=1e-10):
    for name, parameter in parameters.items():
        np.testing.assert_allclose(
            parameter.detach().numpy(), values[name], rtol=rtol, atol=rtol, err_msg=name
        )
