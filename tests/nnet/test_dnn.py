import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mariana_asr.features.splice import splice
from mariana_asr.nnet.dnn import Dnn, DnnOptions
from mariana_asr.nnet.dropout import FrameDropout
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


def test_rectified_networks_keep_the_variance_from_layer_to_layer():
    network = Dnn(DnnOptions(hidden_dim=800, **PLAIN), frame_dim=40, num_outputs=600)
    inputs = torch.randn(500, 440, generator=torch.Generator().manual_seed(1))
    assert network.hidden(inputs).square().mean().item() == pytest.approx(1, rel=0.3)


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
        {"hiden_dim": 5},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        DnnOptions(**wrong)
