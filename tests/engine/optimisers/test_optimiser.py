import numpy as np
import pytest
import torch
from plain_optimisers import (
    EXACT,
    OPTIMISERS,
    SHAPES,
    assert_near,
    gradients_of_step,
    make_optimiser,
    make_parameters,
    names_of,
    set_gradients,
    train,
    train_plainly,
    values_of,
)

from mariana_asr.errors import RecipeError


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=names_of(OPTIMISERS))
@pytest.mark.parametrize(
    "options",
    [{}, {"l2_penalty": 0.03}, {"max_grad_norm": 0.5, "l2_penalty": 0.01}, {"max_norm": 1.2}],
    ids=["bare", "l2", "clipped", "max_norm"],
)
def test_steps_follow_the_plain_formulas(optimiser, options):
    parameters, _ = train(optimiser, 6, rate=0.02, **options)
    # torch's renorm adds 1e-7 to the norm that it divides by.
    rtol = 1e-6 if "max_norm" in options else 1e-10
    assert_near(parameters, train_plainly(optimiser, 6, rate=0.02, **options), rtol)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=names_of(OPTIMISERS))
def test_steps_are_those_of_torch(optimiser):
    parameters, _ = train(optimiser, 5, rate=0.01, frames=4, dtype=torch.float32)
    others = make_parameters(torch.float32)
    kind = optimiser["type"]
    betas = (optimiser.get("beta1", 0.9), optimiser.get("beta2", 0.999))
    reference = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=optimiser.get("momentum", 0.0)),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=betas),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=betas, weight_decay=0.0),
    }[kind](others.values())
    for step in range(5):
        set_gradients(others, gradients_of_step(step)[0])
        if kind != "sgd":
            for other in others.values():
                other.grad /= 4
        reference.step()
    for name in SHAPES:
        torch.testing.assert_close(parameters[name], others[name], rtol=1e-5, atol=1e-6)


def test_sgd_follows_the_rule_of_kaldi_nnet1():
    # nnet-affine-transform.h, Update(): corr = gradient summed over frames + momentum * corr;
    # W -= lr * l2 * frames * W; W -= lr * corr; the bias without l2.
    rng = np.random.default_rng(0)
    layer = torch.nn.Linear(3, 2).double()
    weight, bias = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))
    weight_step, bias_step = np.zeros_like(weight), np.zeros_like(bias)
    rate, momentum, l2 = 0.01, 0.7, 0.02
    optimiser = make_optimiser(
        dict(layer.named_parameters()),
        {"type": "sgd", "momentum": momentum},
        l2_penalty=l2,
        factors={"bias": 0.1},
    )
    for frames in (5, 3, 4):
        inputs, wanted = rng.standard_normal((frames, 3)), rng.standard_normal((frames, 2))
        layer.zero_grad()
        outputs = layer(torch.from_numpy(inputs))
        (0.5 * (outputs - torch.from_numpy(wanted)).square().sum()).backward()
        assert optimiser.step(rate, frames)
        diff = inputs @ weight.T + bias - wanted
        weight_step = diff.T @ inputs + momentum * weight_step
        bias_step = diff.sum(axis=0) + momentum * bias_step
        weight = weight * (1 - rate * l2 * frames) - rate * weight_step
        bias = bias - 0.1 * rate * bias_step
        np.testing.assert_allclose(layer.weight.detach().numpy(), weight, rtol=1e-12)
        np.testing.assert_allclose(layer.bias.detach().numpy(), bias, rtol=1e-12)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"l2_penalty": 0.5, "max_grad_norm": 1.0}])
@pytest.mark.parametrize("optimiser", EXACT, ids=names_of(EXACT))
def test_exact_rule_takes_the_squares_of_each_worker(optimiser, options, workers):
    parameters = make_parameters()
    made = make_optimiser(parameters, optimiser, **options)
    for step in range(6):
        parts = gradients_of_step(step, workers)
        set_gradients(parameters, {n: sum(part[n] for part in parts) for n in SHAPES})
        squares = {n: torch.tensor(sum(part[n] ** 2 for part in parts)) for n in SHAPES}
        assert made.step(0.02, 7, squares)
    plain = train_plainly(optimiser, 6, workers, rate=0.02, **options)
    assert_near(parameters, plain, rtol=1e-8)


@pytest.mark.parametrize("optimiser", EXACT, ids=names_of(EXACT))
def test_squares_far_below_the_gradients_own_break_nothing(optimiser):
    # As after a lossy exchange with error feedback, whose gradient is not the workers' sum.
    parameters = make_parameters(torch.float32)
    made = make_optimiser(parameters, optimiser)
    for step in range(20):
        set_gradients(parameters, gradients_of_step(step)[0])
        assert made.step(1e-3, 1, {name: torch.zeros(shape) for name, shape in SHAPES.items()})
    assert all(torch.isfinite(parameter).all() for parameter in parameters.values())


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=names_of(OPTIMISERS))
def test_layers_have_their_own_rates(optimiser):
    rates = {"hidden.*": 0.5, "*.bias": 0.25, "conv.weight": 0.0}
    parameters, _ = train(
        optimiser, 3, rate=0.02, l2_penalty=0.1, layer_rates=rates, factors={"output.bias": 0.1}
    )
    factors = {
        "hidden.0.weight": 0.5,
        "hidden.0.bias": 0.125,
        "conv.weight": 0.0,
        "output.bias": 0.025,
    }
    plain = train_plainly(optimiser, 3, rate=0.02, l2_penalty=0.1, factors=factors)
    assert_near(parameters, plain)
    before = make_parameters()["conv.weight"]
    assert torch.equal(parameters["conv.weight"], before)


def test_a_pattern_that_fits_no_parameter_is_an_error_that_names_those_there_are():
    with pytest.raises(
        RecipeError, match=r"train\.layer_rates: 'hiden\.\*' fits no .*hidden\.0\.weight.*output"
    ):
        make_optimiser(make_parameters(), {"type": "sgd"}, layer_rates={"hiden.*": 0.5})


def test_max_norm_bounds_the_weights_that_lead_into_a_unit_and_no_biases():
    parameters, _ = train({"type": "sgd"}, 1, rate=1.0, frames=1, max_norm=0.3)
    for name, parameter in parameters.items():
        norms = parameter.detach().reshape(len(parameter), -1).norm(dim=1)
        assert (norms.max() <= 0.3) == (parameter.ndim > 1), name
    parameters, _ = train({"type": "sgd"}, 1, rate=0.0, max_norm=100.0)
    assert_near(parameters, values_of(make_parameters()), rtol=0.0)


def test_the_mean_gradient_is_clipped():
    layer = torch.nn.Linear(3, 2)
    optimiser = make_optimiser(dict(layer.named_parameters()), {"type": "sgd"}, max_grad_norm=0.5)
    before = layer.weight.detach().clone()
    layer.weight.grad, layer.bias.grad = torch.full((2, 3), 100.0), torch.zeros(2)
    assert optimiser.step(1.0, frames=4)
    # The sum over four frames is cut to a norm of 4 * 0.5.
    assert (layer.weight.detach() - before).norm().item() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=names_of(OPTIMISERS))
def test_a_step_without_frames_goes_on_with_the_momentum_alone(optimiser):
    options = {"max_grad_norm": 1.0, "l2_penalty": 0.0}
    parameters, made = train(optimiser, 2, rate=0.01, **options)
    before = values_of(parameters)
    set_gradients(parameters, {name: np.zeros(shape) for name, shape in SHAPES.items()})
    assert made.step(0.01, 0)
    moves = "momentum" in optimiser or optimiser["type"] in ("adam", "adamw")
    for name, parameter in parameters.items():
        assert torch.isfinite(parameter).all()
        assert torch.equal(parameter.detach(), before[name]) != moves
