import numpy as np
import pytest
import torch
from plain_layers import (
    affine,
    layer_over_frames,
    logits_of,
    normalised_input,
    random_frames,
    with_statistics,
)
from pydantic import ValidationError

from mariana_asr.nnet.options import TdnnOptions
from mariana_asr.nnet.tdnn import Tdnn
from mariana_asr.nnet.time_layers import SplicedLinear


def plain_tdnn(network, offsets, frames):
    """Logits of each frame with all its context, by recursion from the top."""
    inputs = normalised_input(network, frames)

    def value(frame):
        return inputs[frame]

    for layer, layer_offsets in zip(network.layers, offsets, strict=True):
        value = layer_over_frames(layer, layer_offsets, value)
    last = len(frames) - network.right_context
    return [affine(network.output, value(t)) for t in range(network.left_context, last)]


@pytest.mark.parametrize(
    "offsets",
    [
        [[-2, -1, 0, 1, 2], [-1, 2], [-3, 3], [-7, 2], [0]],
        [[0]],
        [[-1, 0, 3], [0, 2]],
        [[-4, 0], [-1, 0, 1, 5]],
    ],
)
def test_logits_are_those_of_a_recursion_over_frames(offsets):
    options = TdnnOptions(offsets=offsets, hidden_dim=9)
    network = with_statistics(Tdnn(options, frame_dim=5, num_outputs=4))
    assert network.left_context == -sum(min(layer) for layer in offsets)
    assert network.right_context == sum(max(layer) for layer in offsets)
    frames = random_frames(network.left_context + 6 + network.right_context, 5)
    found = logits_of(network, frames)
    assert found.shape == (6, 4)
    np.testing.assert_allclose(found, plain_tdnn(network, offsets, frames), atol=1e-12)


def test_the_default_is_the_network_of_peddinti_and_others():
    network = Tdnn(TdnnOptions(), frame_dim=40, num_outputs=100)
    assert (network.left_context, network.right_context) == (13, 9)
    linear = [layer.affine.in_features for layer in network.layers]
    assert linear == [5 * 40, 2 * 512, 2 * 512, 2 * 512, 512]


def test_a_spliced_map_is_torchs_convolution_with_dilation():
    layer = SplicedLinear([-3, 0, 3], 4, 6)
    frames = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(1))
    kernel = layer.weight.view(6, 3, 4).transpose(1, 2)
    expected = torch.nn.functional.conv1d(frames.transpose(1, 2), kernel, layer.bias, dilation=3)
    torch.testing.assert_close(layer(frames), expected.transpose(1, 2))


def test_layers_begin_with_the_variance_that_keeps_that_of_their_input():
    network = Tdnn(TdnnOptions(hidden_dim=600, normalisation="none"), frame_dim=40, num_outputs=500)
    for layer in network.layers:
        weight = layer.affine.weight
        assert weight.var().item() == pytest.approx(2 / weight.shape[1], rel=0.02)
        assert (layer.affine.bias == 0).all()
    assert network.output.weight.var().item() == pytest.approx(1 / 600, rel=0.02)
    frames = torch.randn(50, 42 * 40, generator=torch.Generator().manual_seed(1))
    assert network.eval().hidden_of(frames).square().mean().item() == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"offsets": []}, "at least 1"),
        ({"offsets": [[]]}, "at least 1"),
        ({"offsets": [[1, 0]]}, "rise"),
        ({"offsets": [[0, 0]]}, "rise"),
        ({"offsets": [[1, 2]]}, "at most 0"),
        ({"offsets": [[-2, -1]]}, "at least 0"),
        ({"chunk_frames": 0}, "greater than or equal to 1"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_impossible_options_of_time_delay_networks_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        TdnnOptions(**wrong)
