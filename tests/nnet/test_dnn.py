import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mariana_asr.features.splice import splice
from mariana_asr.nnet.dnn import Dnn, DnnOptions
from mariana_asr.nnet.dropout import FrameDropout
from mariana_asr.nnet.grouping import PNorm
from mariana_asr.nnet.splicing import gather_windows, window_offsets

PLAIN = {"normalisation": "none", "dropout": 0.0}
KALDI = {**PLAIN, "activation": "sigmoid"}


def test_shapes_and_number_of_parameters_are_those_of_the_kaldi_setup():
    # golden/README.md: 39 values, splice 5, 4x512 sigmoid; 704 outputs.
    network = Dnn(DnnOptions(hidden_dim=512, **KALDI), frame_dim=39, num_outputs=704)
    assert network(torch.zeros(3, 429)).shape == (3, 704)
    expected = 429 * 512 + 512 + 3 * (512 * 512 + 512) + 512 * 704 + 704
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_sigmoid_networks_begin_as_kaldi_nnet1_does():
    # make_nnet_proto.py: ParamStddev 0.1 * 35 * sqrt(2 / (in + out)), first layer * sqrt(1 / 12);
    # BiasMean -2, BiasRange 4; output bias 0 with BiasLearnRateCoef 0.1.
    network = Dnn(DnnOptions(hidden_dim=800, **KALDI), frame_dim=40, num_outputs=600)
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (440, 800),
        (800, 800),
        (800, 800),
        (800, 800),
        (800, 600),
    ]
    for number, layer in enumerate(linear):
        std = 3.5 * math.sqrt(2 / (layer.in_features + layer.out_features))
        std *= math.sqrt(1 / 12) if number == 0 else 1
        assert layer.weight.std().item() == pytest.approx(std, rel=0.01)
        assert abs(layer.weight.mean().item()) < 0.01 * std
    for layer in linear[:-1]:
        assert layer.bias.min().item() == pytest.approx(-4, abs=0.05)
        assert layer.bias.max().item() == pytest.approx(0, abs=0.05)
        assert layer.bias.mean().item() == pytest.approx(-2, abs=0.15)
    assert (network.output.bias == 0).all()
    assert network.learning_rate_factors == {"output.bias": 0.1}
    assert dict(network.named_parameters())["output.bias"] is network.output.bias


@pytest.mark.parametrize("bottleneck", [None, 400])
@pytest.mark.parametrize(
    ("activation", "group_size"), [("relu", 1), ("maxout", 2), ("maxout", 5), ("pnorm", 5)]
)
def test_networks_begin_by_keeping_the_mean_square_from_layer_to_layer(
    activation, group_size, bottleneck
):
    options = DnnOptions(
        hidden_dim=800,
        hidden_layers=2,
        activation=activation,
        group_size=group_size,
        bottleneck=bottleneck,
        **PLAIN,
    )
    network = Dnn(options, frame_dim=40, num_outputs=600)
    inputs = torch.randn(500, 440, generator=torch.Generator().manual_seed(1))
    assert network.hidden(inputs).square().mean().item() == pytest.approx(1, rel=0.3)


def test_factored_sigmoid_layers_begin_with_products_as_large_as_single_matrices():
    options = DnnOptions(hidden_dim=600, bottleneck=100, **KALDI)
    single = DnnOptions(hidden_dim=600, **KALDI)
    products = [
        layer.outer.weight @ layer.inner.weight for layer in Dnn(options, 40, 3).hidden_maps()
    ]
    matrices = [layer.weight for layer in Dnn(single, 40, 3).hidden_maps()]
    for product, matrix in zip(products, matrices, strict=True):
        assert product.std().item() == pytest.approx(matrix.std().item(), rel=0.05)


def by_hand(network, inputs):
    """The logits in evaluation mode, as a plain program in numpy gives them."""
    options = network.options
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    prefixes = [name.removesuffix("weight") for name in state if name.endswith("weight")]
    values = (inputs + state["normalisation.shift"]) * state["normalisation.scale"]
    groups = options.group_size
    for number in range(options.hidden_layers):
        before = values
        if options.bottleneck is not None:
            values = values @ state[prefixes.pop(0) + "weight"].T
        prefix = prefixes.pop(0)
        values = values @ state[prefix + "weight"].T
        if options.normalisation == "none":
            values = values + state[prefix + "bias"]
        else:
            prefix = prefixes.pop(0)
            if options.normalisation == "batch":
                mean, variance = state[prefix + "running_mean"], state[prefix + "running_var"]
            else:
                mean, variance = values.mean(axis=1)[:, None], values.var(axis=1)[:, None]
            values = (values - mean) / np.sqrt(variance + 1e-5)
            values = values * state[prefix + "weight"] + state[prefix + "bias"]
        if options.activation == "sigmoid":
            values = 1 / (1 + np.exp(-values))
        elif options.activation == "relu":
            values = np.maximum(values, 0)
        else:
            rows = []
            for row in values:
                units = [row[i * groups : (i + 1) * groups] for i in range(len(row) // groups)]
                if options.activation == "maxout":
                    rows.append([max(group) for group in units])
                else:
                    rows.append([sum(abs(x) ** 2 for x in group) ** (1 / 2) for group in units])
            values = np.array(rows)
        if options.residual and number > 0:
            values = values + before
    assert prefixes == ["output."]
    return values @ state["output.weight"].T + state["output.bias"]


@pytest.mark.parametrize("normalisation", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "maxout", "pnorm"])
@pytest.mark.parametrize("extras", [{}, {"residual": True, "bottleneck": (5, 3, 4)}])
def test_logits_are_those_of_a_plain_program(activation, normalisation, extras):
    options = DnnOptions(
        hidden_layers=3,
        hidden_dim=8,
        group_size=3,
        activation=activation,
        normalisation=normalisation,
        left_context=1,
        right_context=2,
        **extras,
    )
    network = Dnn(options, frame_dim=3, num_outputs=4)
    network.set_input_statistics(np.array([1.0, 2.0, 3.0]), np.array([0.5, 4.0, 2.0]))
    inputs = torch.randn(60, 12, generator=torch.Generator().manual_seed(1)) * 2
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:  # scales and shifts, as if trained
                parameter.uniform_(0.2, 1.5, generator=torch.Generator().manual_seed(2))
    network(inputs)  # for running statistics
    logits = network.eval()(inputs).detach().numpy()
    np.testing.assert_allclose(logits, by_hand(network, inputs.double().numpy()), atol=2e-4)


def test_a_group_of_zeros_has_a_gradient():
    inputs = torch.zeros(2, 6, requires_grad=True)
    PNorm(3)(inputs).sum().backward()
    assert torch.equal(inputs.grad, torch.zeros(2, 6))


def test_longer_windows_give_each_frame_the_logits_of_its_own_window():
    network = Dnn(DnnOptions(hidden_dim=8, left_context=2, right_context=1), 3, 4).eval()
    assert (network.chunk_frames, network.exact_chunks) == (1, True)
    frames = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(1))
    windows = [frames[n, t : t + 4].flatten() for n in range(2) for t in range(7)]
    expected = network(torch.stack(windows))
    torch.testing.assert_close(network(frames.flatten(1)), expected)
    torch.testing.assert_close(network.output(network.hidden_of(frames.flatten(1))), expected)


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "maxout", "pnorm"])
@pytest.mark.parametrize("normalisation", ["none", "batch", "layer"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_kind_of_layer_trains(activation, normalisation, dropout):
    options = DnnOptions(
        hidden_layers=2,
        hidden_dim=32,
        activation=activation,
        normalisation=normalisation,
        dropout=dropout,
        left_context=1,
        right_context=2,
    )
    network = Dnn(options, frame_dim=3, num_outputs=4)
    kinds = {type(layer) for layer in network.hidden}
    assert (nn.BatchNorm1d in kinds) == (normalisation == "batch")
    assert (nn.LayerNorm in kinds) == (normalisation == "layer")
    assert (FrameDropout in kinds) == (dropout > 0)
    inputs = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    network(inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    assert torch.equal(network(inputs), network(inputs))


def test_the_seed_decides_the_initial_weights_and_global_state_is_left_alone():
    options = DnnOptions(hidden_dim=8)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = Dnn(options, 3, 4, seed=1).state_dict()
    torch.manual_seed(6)
    same, other = Dnn(options, 3, 4, seed=1).state_dict(), Dnn(options, 3, 4, seed=2).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])
    torch.manual_seed(5)
    Dnn(options, 3, 4)
    assert torch.equal(torch.rand(3), expected)


def test_inputs_are_normalised_by_frame_statistics_and_constants_only_centred():
    network = Dnn(DnnOptions(left_context=1, right_context=0), frame_dim=3, num_outputs=2)
    network.set_input_statistics(np.array([1.0, 2.0, 7.0]), np.array([0.5, 4.0, 0.0]))
    frames = torch.tensor([[1.5, 6.0, 7.0, 1.0, -2.0, 8.0]])
    assert network.normalisation(frames).tolist() == [[1.0, 1.0, 0.0, 0.0, -1.0, 1.0]]
    assert "normalisation.shift" in network.state_dict()
    assert "normalisation.shift" not in dict(network.named_parameters())


@pytest.mark.parametrize(("left", "right"), [(0, 0), (5, 5), (2, 9), (20, 0)])
def test_gathered_windows_are_spliced_frames(left, right):
    rng = np.random.default_rng(0)
    utterances = [rng.standard_normal((t, 4)).astype(np.float32) for t in (1, 30, 2, 12)]
    lengths = [len(utterance) for utterance in utterances]
    begins = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    ends = np.repeat(np.cumsum(lengths), lengths)
    order = rng.permutation(sum(lengths))
    windows = gather_windows(
        torch.from_numpy(np.concatenate(utterances)),
        *(torch.from_numpy(x[order].astype(np.int32)) for x in (np.arange(45), begins, ends - 1)),
        window_offsets(left, right, torch.device("cpu")),
    )
    expected = np.concatenate([splice(utterance, left, right) for utterance in utterances])
    np.testing.assert_array_equal(windows.numpy(), expected[order])


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_layers": 0},
        {"hidden_dim": 0},
        {"activation": "tanh"},
        {"dropout": 1.0},
        {"left_context": -1},
        {"group_size": 0},
        {"normalisation": "group"},
        {"bottleneck": 0},
        {"hidden_layers": 3, "bottleneck": [8, 8]},
        {"hiden_dim": 5},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        DnnOptions(**wrong)
