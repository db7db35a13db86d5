import io
import math

import pytest
import torch
from plain_optimisers import (
    EXACT,
    OPTIMISERS,
    SHAPES,
    gradients_of_step,
    make_optimiser,
    make_parameters,
    names_of,
    set_gradients,
    train,
    values_of,
)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("optimiser", "where"),
    [(one, "gradient") for one in [*OPTIMISERS, *EXACT]] + [(one, "squares") for one in EXACT],
)
def test_a_gradient_that_is_not_finite_changes_nothing(optimiser, where, broken):
    exact = optimiser.get("squares") == "exact"
    parameters, made = train(optimiser, 2, rate=0.01, l2_penalty=0.1, max_norm=1.0)
    weights, state = values_of(parameters), saved(made.state_dict())
    gradients = gradients_of_step(2)[0]
    squares = {n: torch.tensor(g**2) for n, g in gradients.items()} if exact else None
    set_gradients(parameters, gradients)
    touched = parameters["output.bias"].grad if where == "gradient" else squares["output.bias"]
    touched[1] = broken
    assert not made.step(0.01, 7, squares)
    assert_same(values_of(parameters), weights)
    assert_same_state(made.state_dict(), state)
    # Nor does it leave a trace in the steps that follow.
    others, other = train(optimiser, 3, rate=0.01, l2_penalty=0.1, max_norm=1.0)
    set_gradients(parameters, gradients)
    assert made.step(0.01, 7)
    assert_same(values_of(parameters), values_of(others))
    assert_same_state(made.state_dict(), other.state_dict())


def saved(state):
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(tensors, others):
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


def assert_same_state(state, other):
    assert state["steps"] == other["steps"]
    assert state["slots"].keys() == other["slots"].keys()
    for slot, tensors in state["slots"].items():
        assert_same(tensors, other["slots"][slot])


@pytest.mark.parametrize("optimiser", [*OPTIMISERS, *EXACT], ids=names_of([*OPTIMISERS, *EXACT]))
@pytest.mark.parametrize("steps", [0, 3])
def test_an_optimiser_goes_on_from_its_saved_state(optimiser, steps):
    options = {"rate": 0.01, "dtype": torch.float32, "l2_penalty": 0.1}
    whole, _ = train(optimiser, 5, **options)
    half, made = train(optimiser, steps, **options)
    state = saved(made.state_dict())
    assert state["steps"] == steps
    resumed = make_optimiser(half, optimiser, l2_penalty=0.1)
    resumed.load_state_dict(state)
    for step in range(steps, 5):
        set_gradients(half, gradients_of_step(step)[0])
        assert resumed.step(0.01, 7)
    assert_same(values_of(half), values_of(whole))


def test_a_parameter_without_gradient_stays_and_counts_steps_all_the_same():
    optimiser = {"type": "adam"}
    parameters = make_parameters()
    made = make_optimiser(parameters, optimiser, max_norm=0.1, l2_penalty=0.1)
    set_gradients(parameters, gradients_of_step(0)[0])
    parameters["output.weight"].grad = None
    before = values_of(parameters)
    assert made.step(0.01, 7)
    assert torch.equal(parameters["output.weight"].detach(), before["output.weight"])
    assert not torch.equal(parameters["hidden.0.weight"].detach(), before["hidden.0.weight"])
    copies = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()}
    resumed = make_optimiser(copies, optimiser, max_norm=0.1, l2_penalty=0.1)
    resumed.load_state_dict(saved(made.state_dict()))
    for tensors, one in ((parameters, made), (copies, resumed)):
        set_gradients(tensors, gradients_of_step(1)[0])
        assert one.step(0.01, 7)
    assert_same(values_of(copies), values_of(parameters))


def test_a_state_of_another_optimiser_or_network_is_refused():
    _, adam = train({"type": "adam"}, 1, rate=0.01)
    _, adagrad = train({"type": "adagrad"}, 1, rate=0.01)
    with pytest.raises(ValueError, match=r"slots \['sum'\], wanted \['exp_avg', 'exp_avg_sq'\]"):
        adam.load_state_dict(adagrad.state_dict())
    rows = {name: p.detach()[:1].clone() for name, p in make_parameters().items()}
    with pytest.raises(ValueError, match="slot sum has tensors"):
        make_optimiser(rows, {"type": "adagrad"}).load_state_dict(adagrad.state_dict())


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=names_of(OPTIMISERS))
def test_momentum_can_be_forgotten(optimiser):
    _, made = train(optimiser, 3, rate=0.01)
    squares = {
        slot: values_of(tensors)
        for slot, tensors in made.state_dict()["slots"].items()
        if slot in ("sum", "exp_avg_sq")
    }
    made.forget_momentum()
    state = made.state_dict()
    assert state["steps"] == 3
    for slot, tensors in state["slots"].items():
        if slot in squares:
            assert_same(tensors, squares[slot])
        else:
            assert all(not tensor.any() for tensor in tensors.values())


@pytest.mark.parametrize("optimiser", [*OPTIMISERS, *EXACT], ids=names_of([*OPTIMISERS, *EXACT]))
def test_owners_of_rows_do_together_what_one_does_with_the_whole(optimiser):
    options = {"l2_penalty": 0.05, "max_grad_norm": 0.7, "max_norm": 1.5}
    exact = optimiser.get("squares") == "exact"
    whole = make_parameters()
    made = make_optimiser(whole, optimiser, **options)
    cuts = [slice(0, 2), slice(2, None)]
    owned = [
        {name: p.detach()[cut].clone() for name, p in make_parameters().items()} for cut in cuts
    ]
    sums = []  # each owner's own; the owners run one after the other here

    def sum_over_owners(values):
        assert any(torch.allclose(values, own) for own in sums)
        return sum(sums)

    owners = [
        make_optimiser(rows, optimiser, sum_over_owners=sum_over_owners, **options)
        for rows in owned
    ]
    for step in range(4):
        parts = gradients_of_step(step, workers=3)
        summed = {n: sum(part[n] for part in parts) for n in SHAPES}
        squares = {n: torch.tensor(sum(part[n] ** 2 for part in parts)) for n in SHAPES}
        set_gradients(whole, summed)
        assert made.step(0.02, 7, squares if exact else None)
        sums[:] = [
            torch.tensor(
                [sum((summed[n][cut] ** 2).sum() for n in SHAPES)]
                + [sum(squares[n][cut].sum() for n in SHAPES)] * exact
            )
            for cut in cuts
        ]
        for rows, owner, cut in zip(owned, owners, cuts, strict=True):
            set_gradients(rows, {n: summed[n][cut] for n in SHAPES})
            assert owner.step(0.02, 7, {n: s[cut] for n, s in squares.items()} if exact else None)
    state = made.state_dict()
    states = [owner.state_dict() for owner in owners]
    for name in SHAPES:
        joined = torch.cat([rows[name] for rows in owned])
        torch.testing.assert_close(joined, whole[name].detach())
        for slot, tensors in state["slots"].items():
            joined = torch.cat([one["slots"][slot][name] for one in states])
            torch.testing.assert_close(joined, tensors[name])


def test_an_owner_whose_rows_are_finite_refuses_a_step_that_another_one_refuses():
    parameters = make_parameters()
    made = make_optimiser(parameters, {"type": "adam"}, sum_over_owners=lambda v: v + math.nan)
    set_gradients(parameters, gradients_of_step(0)[0])
    assert not made.step(0.01, 7)
    assert_same(values_of(parameters), values_of(make_parameters()))
