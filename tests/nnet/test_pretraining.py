from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mariana_asr.errors import RecipeError
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.dnn import Dnn, DnnOptions
from mariana_asr.nnet.dropout import set_frame_position
from mariana_asr.nnet.options import TdnnOptions
from mariana_asr.nnet.pretraining import (
    DenoisingAutoencoder,
    RestrictedBoltzmannMachine,
    pretraining_stages,
)
from mariana_asr.options import validated
from mariana_asr.recipe.schema import NetworkSections

SIGMOID = {"activation": "sigmoid", "normalisation": "none", "dropout": 0.3}
FRAME_DIM, WINDOW, HIDDEN = 4, 3, 20


def network_of(**options):
    network = Dnn(
        DnnOptions(
            **{"hidden_layers": 3, "hidden_dim": HIDDEN, "left_context": 1, "right_context": 1},
            **options,
        ),
        FRAME_DIM,
        5,
    )
    network.set_input_statistics(np.full(FRAME_DIM, 2.0), np.full(FRAME_DIM, 0.5))
    return network


def options_of(kind, corruption=0.0):
    return SimpleNamespace(type=kind, corruption=corruption)


def frames(count, seed=0):
    """Windows (count, WINDOW * FRAME_DIM): noise about one of four patterns."""
    generator = torch.Generator().manual_seed(seed)
    dim = WINDOW * FRAME_DIM
    patterns = torch.randn(4, dim, generator=torch.Generator().manual_seed(1))
    which = torch.randint(4, (count,), generator=generator)
    noise = 0.3 * torch.randn(count, dim, generator=generator)
    return 2.0 + 0.5 * (patterns[which] + noise)


@pytest.mark.parametrize("number", [0, 1])
def test_the_gradient_is_that_of_contrastive_divergence(number):
    network = network_of(**SIGMOID).double()
    name, objective = pretraining_stages(network, options_of("rbm"))[number]
    assert name == ("hidden.0", "hidden.3")[number]  # linear, sigmoid, dropout
    assert isinstance(objective, RestrictedBoltzmannMachine)
    inputs = frames(30).double()
    objective.begin(objective.visible(inputs).mean(dim=0))
    with torch.no_grad():
        objective.layer.bias.uniform_(-1, 1)
        objective.visible_bias += 0.3
    set_frame_position(objective, 17, 0)
    loss, error = objective(inputs)
    loss.backward()

    # Kaldi's nnet-rbm.h: outer products of data and restored data with what they switch on.
    weight, hidden_bias = objective.layer.weight.detach(), objective.layer.bias.detach()
    visible = (inputs - 2.0) / 0.5
    if number == 1:
        lower = network.hidden[0]
        visible = torch.sigmoid(visible @ lower.weight.detach().T + lower.bias.detach())
    hidden = torch.sigmoid(visible @ weight.T + hidden_bias)
    states = objective.noise.sampled(hidden)
    restored = states @ weight + objective.visible_bias.detach()
    if number == 1:
        restored = torch.sigmoid(restored)
    restored_hidden = torch.sigmoid(restored @ weight.T + hidden_bias)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(
        -objective.layer.weight.grad, hidden.T @ visible - restored_hidden.T @ restored, **close
    )
    torch.testing.assert_close(
        -objective.layer.bias.grad, (hidden - restored_hidden).sum(dim=0), **close
    )
    torch.testing.assert_close(
        -objective.visible_bias.grad, (visible - restored).sum(dim=0), **close
    )
    torch.testing.assert_close(error, (visible - restored).square().sum())
    assert set(states.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rbm", SIGMOID),
        ("denoising", SIGMOID),
        ("denoising", {"activation": "relu", "normalisation": "batch", "dropout": 0.2}),
        ("denoising", {"activation": "relu", "normalisation": "none", "dropout": 0.0}),
        ("denoising", {"activation": "sigmoid", "normalisation": "batch", "dropout": 0.0}),
        ("denoising", {"activation": "pnorm", "normalisation": "layer", "group_size": 2}),
        ("denoising", {"activation": "maxout", "normalisation": "none", "group_size": 3}),
    ],
)
def test_each_layer_learns_to_restore_its_input(kind, options):
    network = network_of(**options)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    held_out = frames(200, seed=999)
    stages = pretraining_stages(network, options_of(kind, 0.1))
    linear = [name for name, each in network.named_modules() if isinstance(each, nn.Linear)]
    assert [name for name, _ in stages] == linear[:-1]
    for number, (_, objective) in enumerate(stages):
        with torch.no_grad():
            objective.begin(objective.visible(frames(500, seed=1)).mean(dim=0))
            objective.eval()
            set_frame_position(objective, 0, 0)
            first = objective(held_out)[1].item()
            objective.train()
        if kind == "rbm":
            rate = 0.05 if number == 0 else 0.4
            optimiser = torch.optim.SGD(objective.parameters(), rate)
        else:
            optimiser = torch.optim.Adam(objective.parameters(), 0.01)
        for step in range(50):
            set_frame_position(objective, step, 0)
            optimiser.zero_grad()
            loss, _ = objective(frames(100, seed=step))
            (loss / 100).backward()
            optimiser.step()
        objective.eval()
        set_frame_position(objective, 0, 0)
        with torch.no_grad():
            assert objective(held_out)[1].item() < 0.7 * first
    after = network.state_dict()
    assert list(after) == list(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    # All of the hidden layers, and nothing else.
    assert changed == {name for name in after if name.startswith("hidden.")}


@pytest.mark.parametrize(("kind", "own"), [("rbm", 3), ("denoising", 4)])
def test_only_the_layer_in_training_is_changed(kind, own):
    network = network_of(**SIGMOID)
    _, objective = pretraining_stages(network, options_of(kind, 0.2))[1]
    assert len(list(objective.parameters())) == own
    layers = [module for module in network.hidden if isinstance(module, nn.Linear)]
    assert any(parameter is layers[1].weight for parameter in objective.parameters())
    objective(frames(10))[0].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == name.startswith("hidden.3."), name


def test_layers_below_are_in_evaluation_mode_whatever_the_network_is_set_to():
    network = network_of(normalisation="batch", dropout=0.5).train()
    _, objective = pretraining_stages(network, options_of("denoising", 0.2))[2]
    inputs = frames(50)
    objective.train()
    norms = [module for module in network.hidden if isinstance(module, nn.BatchNorm1d)]
    means = [norm.running_mean.clone() for norm in norms]
    # To rounding: products of matrices of another size may be summed in another order.
    torch.testing.assert_close(objective.visible(inputs[:5]), objective.visible(inputs)[:5])
    objective(inputs)
    moved = [
        not torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, means, strict=True)
    ]
    assert moved == [False, False, True]


@pytest.mark.parametrize("kind", ["rbm", "denoising"])
def test_a_minibatch_in_parts_gives_the_gradient_of_the_whole(kind):
    network = network_of(**SIGMOID).double()
    _, objective = pretraining_stages(network, options_of(kind, 0.4))[1]
    inputs = frames(40).double()

    def gradients(*cuts):
        objective.zero_grad()
        errors = 0.0
        for begin, end in zip((0, *cuts), (*cuts, 40), strict=True):
            set_frame_position(objective, 3, begin)
            loss, error = objective(inputs[begin:end])
            loss.backward()
            errors += error.item()
        return [parameter.grad.clone() for parameter in objective.parameters()], errors

    whole, whole_error = gradients()
    parts, parts_error = gradients(1, 15)
    torch.testing.assert_close(parts, whole)
    assert parts_error == pytest.approx(whole_error)


def test_corruption_sets_inputs_to_zero_and_the_whole_input_is_to_be_restored():
    network = network_of(**SIGMOID)
    _, objective = pretraining_stages(network, options_of("denoising", 0.25))[0]
    assert isinstance(objective, DenoisingAutoencoder)
    seen = []
    objective.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    objective.decoder.register_forward_hook(lambda *_: objective.visible(inputs))
    inputs = frames(2000)
    loss, error = objective(inputs)
    assert loss.item() == error.item() == 0.0
    zero = seen[0] == 0
    assert zero.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(seen[0][~zero], objective.visible(inputs)[~zero])


def test_binary_visible_units_begin_with_their_mean():
    network = network_of(**SIGMOID)
    for kind in ("rbm", "denoising"):
        objective = pretraining_stages(network, options_of(kind))[1][1]
        mean = torch.linspace(0, 1, HIDDEN)
        objective.begin(mean)
        bias = objective.visible_bias if kind == "rbm" else objective.decoder.bias
        torch.testing.assert_close(torch.sigmoid(bias), mean.clamp(1e-4, 1 - 1e-4))
        if kind == "rbm":
            assert (objective.layer.bias == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"activation": "relu"},
        {"activation": "maxout"},
        {"normalisation": "batch"},
        {"normalisation": "layer"},
    ],
)
def test_boltzmann_machines_need_sigmoid_units_without_normalisation(wrong):
    with pytest.raises(RecipeError, match="normalisation: none"):
        pretraining_stages(network_of(**{**SIGMOID, **wrong}), options_of("rbm"))


@pytest.mark.parametrize("kind", ["rbm", "denoising"])
@pytest.mark.parametrize("wrong", [{"residual": True}, {"bottleneck": 5}])
def test_layers_that_are_more_than_a_matrix_and_a_non_linearity_are_not_pretrained(kind, wrong):
    with pytest.raises(RecipeError, match="residual connections or a bottleneck"):
        pretraining_stages(network_of(**SIGMOID, **wrong), options_of(kind))


@pytest.mark.parametrize("kind", ["rbm", "denoising"])
def test_other_networks_are_not_pretrained(kind):
    network = build_network(TdnnOptions(), FRAME_DIM, 5)
    with pytest.raises(RecipeError, match="only fully connected networks"):
        pretraining_stages(network, options_of(kind))


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ({"type": "tdnn"}, "denoising", "only fully connected networks"),
        ({"class": "a.B"}, "rbm", "only fully connected networks"),
        ({}, "rbm", "sigmoid units and without normalisation"),
        ({"residual": True}, "denoising", "residual connections"),
    ],
)
def test_a_recipe_that_asks_for_what_cannot_be_is_refused(model, kind, message):
    tree = {"model": model, "train": {"pretraining": kind}}
    with pytest.raises(RecipeError, match=f"train.pretraining: .*{message}"):
        validated(NetworkSections, tree, "test")


def test_the_decoder_is_the_same_in_all_workers_and_global_state_is_left_alone():
    torch.manual_seed(1)
    first = pretraining_stages(network_of(**SIGMOID), options_of("denoising"))[1][1]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = pretraining_stages(network_of(**SIGMOID), options_of("denoising"))[1][1]
    assert torch.equal(first.decoder.weight, second.decoder.weight)
    assert torch.equal(torch.get_rng_state(), state)
