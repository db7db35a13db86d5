import numpy as np
import pytest
import torch
from plain_layers import (
    affine,
    batch_normed,
    logits_of,
    normalised_input,
    random_frames,
    with_statistics,
)
from pydantic import ValidationError

from mariana_asr.errors import RecipeError
from mariana_asr.nnet.cnn import Cnn
from mariana_asr.nnet.cnn_tdnnf import CnnTdnnf
from mariana_asr.nnet.options import CnnOptions, CnnTdnnfOptions

DELTAS = {"transform": {"delta_order": 2}}
STATIC = {"transform": {"delta_order": 0}}


def split(frames, copies, other_values):
    """Maps (copies, T, bands) and other values (T, copies, others) of frames."""
    copied = frames.reshape(len(frames), copies, -1)
    bands = copied.shape[2] - other_values
    return copied[:, :, :bands].transpose(1, 0, 2), copied[:, :, bands:]


def filtered(weight, bias, maps, time, band):
    """One filter, (maps, kernel in time, kernel in frequency), at one place."""
    window = maps[:, time : time + weight.shape[1], band : band + weight.shape[2]]
    return float((weight * window).sum() + bias)


def plain_pooled(layer, maps, pooling, step, limited):
    """A convolution with pooling, one filter and one maximum after the other."""
    weight = layer.convolution.weight.detach().numpy()
    bias = layer.convolution.bias.detach().numpy()
    times = maps.shape[1] - weight.shape[2] + 1
    bands = maps.shape[2] - weight.shape[3] + 1
    sections = [range(at, at + pooling) for at in range(0, bands - pooling + 1, step)]
    filters = len(weight) // (len(sections) if limited else 1)
    outputs = np.empty((filters, times, len(sections)))
    for number in range(filters):
        for section, places in enumerate(sections):
            chosen = section * filters + number if limited else number
            for time in range(times):
                found = [filtered(weight[chosen], bias[chosen], maps, time, b) for b in places]
                outputs[number, time, section] = max(0.0, *found)
    if limited:
        # Each section's filters are normalised for themselves.
        outputs = outputs.transpose(2, 0, 1).reshape(-1, times, 1)
    return batch_normed(layer.norm.norm, outputs.transpose(1, 2, 0)).transpose(2, 0, 1)


def plain_cnn(network, options, frames):
    copies, limited = options.transform.copies, options.weight_sharing == "limited"
    inputs = normalised_input(network, frames)
    maps, others = split(inputs, copies, options.other_values or 0)
    for number, layer in enumerate(network.convolutions):
        step = (options.pooling_steps or options.pooling)[number]
        maps = plain_pooled(layer, maps, options.pooling[number], step, limited)
    logits = []
    for time in range(maps.shape[1]):
        values = maps[:, time].T.reshape(-1)  # band by band
        window = others[time : time + network.left_context + 1 + network.right_context]
        values = np.concatenate([values, window.reshape(len(window), -1).T.reshape(-1)])
        for layer in network.dense:
            values = batch_normed(layer.norm, np.maximum(affine(layer.affine, values), 0.0))
        logits.append(affine(network.output, values))
    return logits


SMALL = {"hidden_dim": 8, "hidden_layers": 2}
TWO = {
    "filters": [3, 4],
    "time_kernels": [3, 2],
    "frequency_kernels": [4, 3],
    "pooling": [2, 2],
}
ONE = {"filters": [5], "time_kernels": [4], "frequency_kernels": [3], "pooling": [3]}


@pytest.mark.parametrize(
    ("settings", "frame_dim"),
    [
        (TWO | DELTAS, 36),
        (TWO | STATIC, 13),
        (TWO | {"pooling_steps": [1, 2]} | STATIC, 12),
        (ONE | {"pooling_steps": [2], "weight_sharing": "limited"} | DELTAS, 36),
        (ONE | {"weight_sharing": "limited"} | STATIC, 12),
        (TWO | {"other_values": 3} | DELTAS, 45),
    ],
)
def test_logits_are_those_of_loops_over_filters(settings, frame_dim):
    options = CnnOptions(**settings, **SMALL)
    network = with_statistics(Cnn(options, frame_dim=frame_dim, num_outputs=5))
    context = sum(options.time_kernels) - len(options.time_kernels)
    assert network.left_context + network.right_context == context
    assert 0 <= network.left_context - network.right_context <= 1
    frames = random_frames(context + 4, frame_dim)
    found = logits_of(network, frames)
    assert found.shape == (4, 5)
    np.testing.assert_allclose(found, plain_cnn(network, options, frames), atol=1e-12)


def test_the_papers_network_has_the_papers_shape():
    # Abdel-Hamid et al. 2014: 40 bands with deltas and 15 frames; filters over 8 bands and pooling
    # over 6 with a shift of 2 give 14 maxima.
    options = CnnOptions(
        filters=[150],
        time_kernels=[15],
        frequency_kernels=[8],
        pooling=[6],
        pooling_steps=[2],
        hidden_dim=1000,
    )
    network = Cnn(options, frame_dim=120, num_outputs=183)
    assert (network.left_context, network.right_context) == (7, 7)
    assert network.convolutions[0].convolution.weight.shape == (150, 3, 15, 8)
    assert network.dense[0].affine.in_features == 14 * 150


def plain_stepping(layer, maps, step):
    """3 by 3 filters at every step-th band, with zeros beyond the lowest and the highest."""
    weight = layer.convolution.weight.detach().numpy()
    bias = layer.convolution.bias.detach().numpy()
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1)))
    times, bands = maps.shape[1] - 2, range(0, maps.shape[2], step)
    outputs = np.array(
        [
            [[max(0.0, filtered(w, b, padded, t, at)) for at in bands] for t in range(times)]
            for w, b in zip(weight, bias, strict=True)
        ]
    )
    return batch_normed(layer.norm.norm, outputs.transpose(1, 2, 0)).transpose(2, 0, 1)


@pytest.mark.parametrize("other_values", [0, 2])
@pytest.mark.parametrize("bands", [8, 11])
def test_convolutions_below_factored_layers_are_loops_over_filters(bands, other_values):
    options = CnnTdnnfOptions(
        filters=[3, 4],
        band_steps=[1, 2],
        other_values=other_values,
        hidden_dim=12,
        bottleneck_dim=4,
        first_bottleneck_dim=6,
        prefinal_dim=5,
        time_strides=[0, 2],
        **DELTAS,
    )
    frame_dim = 3 * (bands + other_values)
    network = with_statistics(CnnTdnnf(options, frame_dim=frame_dim, num_outputs=5))
    assert network.left_context == network.right_context == 2 + 2
    frames = random_frames(4 + 3 + 4, frame_dim)
    maps, others = split(normalised_input(network, frames), 3, other_values)
    for layer, step in zip(network.convolutions, options.band_steps, strict=True):
        maps = plain_stepping(layer, maps, step)
    joined = maps.transpose(1, 2, 0).reshape(maps.shape[1], -1)
    windows = [others[t : t + 5].reshape(5, -1).T.reshape(-1) for t in range(len(joined))]
    joined = np.concatenate([joined, np.array(windows)], axis=1)
    with torch.no_grad():
        expected = network.output(network.factored(torch.from_numpy(joined)[None]))[0]
    np.testing.assert_allclose(logits_of(network, frames), expected, atol=1e-12)
    assert network.factored.layers[0].linear.out_features == 6
    assert network.factored.layers[0].bypass_scale == 0.0
    assert network.factored.layers[1].bypass_scale == 0.66


@pytest.mark.parametrize("options", [CnnOptions(**DELTAS), CnnTdnnfOptions(**DELTAS)])
def test_frames_without_such_bands_are_one_clear_error(options):
    kind = Cnn if options.type == "cnn" else CnnTdnnf
    with pytest.raises(RecipeError, match="121 values a frame are not 3 copies"):
        kind(options, 121, 5)
    with pytest.raises(RecipeError, match="no bands are left of 40 values"):
        kind(options.model_copy(update={"other_values": 40}), 120, 5)


def test_too_few_bands_for_the_convolutions_are_one_clear_error():
    with pytest.raises(RecipeError, match="needs at least 10 bands, and has 9"):
        Cnn(CnnOptions(**STATIC), 9, 5)
    with pytest.raises(RecipeError, match="needs at least 5 bands, and has 4"):
        Cnn(CnnOptions(**STATIC), 19, 5)
    Cnn(CnnOptions(**STATIC), 22, 5)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (CnnOptions, {"filters": [3]}, "each convolution needs one value"),
        (CnnOptions, {"pooling_steps": [3]}, "each convolution needs one value"),
        (CnnOptions, {"weight_sharing": "limited"}, "single convolution"),
        (CnnOptions, {"pooling": [0, 1]}, "greater than or equal to 1"),
        (CnnOptions, {"adapted": True}, "frequency bands"),
        (CnnTdnnfOptions, {"filters": [3]}, "each convolution needs one value"),
        (CnnTdnnfOptions, {"adapted": True}, "frequency bands"),
    ],
)
def test_impossible_options_of_convolutional_networks_are_refused(kind, wrong, message):
    with pytest.raises(ValidationError, match=message):
        kind(**wrong)
