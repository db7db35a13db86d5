import math
import shutil

import numpy as np
import pytest
import torch

from mariana_asr.nnet.dnn import Dnn, DnnOptions
from mariana_asr.nnet.dropout import FrameDropout, FrameNoise, set_frame_position

ROWS, UNITS = 2048, 512


def silenced(p=0.5, *, stream=0, step_seed=0, first_row=0, rows=ROWS):
    """(rows, UNITS) bool: the units that dropout sets to zero."""
    dropout = FrameDropout(p, stream)
    set_frame_position(dropout, step_seed, first_row)
    return dropout(torch.ones(rows, UNITS)).numpy() == 0


def correlation(first, second):
    """Standard deviations by which two masks of share 1/2 agree more often than by chance."""
    return (2 * np.mean(first == second) - 1) * math.sqrt(first.size)


@pytest.mark.parametrize("p", [0.001, 0.2, 0.5, 0.9])
def test_the_wanted_share_is_silenced_in_all_and_in_each_row_and_unit(p):
    mask = silenced(p)
    for share in (mask.mean(keepdims=True), mask.mean(axis=0), mask.mean(axis=1)):
        deviation = (share - p) / math.sqrt(p * (1 - p) * share.size / mask.size)
        assert np.abs(deviation).max() < (10 if p == 0.001 else 6)  # few events are skewed
        if share.size > 1:
            assert np.mean(deviation**2) == pytest.approx(1, abs=5 * math.sqrt(2 / share.size))


def test_what_is_left_is_scaled_so_that_the_expectation_stays():
    dropout = FrameDropout(0.2, 0)
    inputs = torch.randn(50, 7, dtype=torch.float64)
    outputs = dropout(inputs)
    assert outputs.dtype == torch.float64
    kept = outputs != 0
    torch.testing.assert_close(outputs[kept], inputs[kept] / 0.8, rtol=1e-6, atol=0)
    assert dropout(inputs.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(dropout(inputs.bfloat16()) != 0, kept)


def test_the_gradient_passes_where_the_values_do():
    dropout = FrameDropout(0.3, 1)
    inputs = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    outputs = dropout(inputs)
    gradient = torch.randn(20, 6, dtype=torch.float64)
    outputs.backward(gradient)
    torch.testing.assert_close(inputs.grad, gradient * (outputs / inputs).detach())
    assert torch.autograd.gradcheck(dropout, (inputs,))


def test_in_evaluation_and_without_dropout_all_passes():
    inputs = torch.randn(4, 3)
    assert FrameDropout(0.5, 0).eval()(inputs) is inputs
    assert FrameDropout(0.0, 0)(inputs) is inputs


def test_masks_of_a_minibatch_are_the_same_in_parts():
    whole = silenced(0.3, step_seed=123)
    for begin, end in ((0, 1), (1, 700), (700, ROWS), (5, 5)):
        part = silenced(0.3, step_seed=123, first_row=begin, rows=end - begin)
        np.testing.assert_array_equal(part, whole[begin:end])


def test_the_same_position_gives_the_same_mask_and_global_generators_are_left_alone():
    state = torch.get_rng_state()
    np.testing.assert_array_equal(silenced(step_seed=2**70 + 5), silenced(step_seed=2**70 + 5))
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_of_steps_and_layers_are_independent():
    masks = [silenced(step_seed=step, stream=layer) for step in range(6) for layer in range(6)]
    masks += [silenced(step_seed=2**32), silenced(step_seed=-1), silenced(step_seed=1 << 40)]
    z = [correlation(a, b) for i, a in enumerate(masks) for b in masks[:i]]
    assert np.abs(z).max() < 5
    assert np.mean(np.square(z)) == pytest.approx(1, abs=5 * math.sqrt(2 / len(z)))
    # Nor is one the other moved by some rows or units.
    for rows, units in ((1, 0), (0, 1), (16, 0), (0, 64)):
        moved = [np.roll(mask, (rows, units), (0, 1)) for mask in masks]
        z = [correlation(a, b) for a in masks[:8] for b in moved[:8]]
        assert np.abs(z).max() < 5


def test_rows_and_units_are_pairwise_independent():
    signs = np.where(silenced(step_seed=99), 1.0, -1.0).astype(np.float32)
    for table in (signs, signs.T):
        z = (table @ table.T)[np.triu_indices(len(table), 1)] / math.sqrt(table.shape[1])
        assert np.abs(z).max() < 6.5  # of two million pairs
        assert z.mean() == pytest.approx(0, abs=5 / math.sqrt(z.size))
        assert z.var() == pytest.approx(1, abs=5 * math.sqrt(2 / z.size))


def test_quadruples_of_two_rows_and_two_units_are_independent():
    # What the hash is made of, a key of the row and one of the unit, would show here first.
    # The pairs of rows and of units that are taken share none, so all quadruples are apart.
    signs = np.where(silenced(step_seed=7), 1, -1)
    products = signs[0::2] * signs[1::2]
    fours = (products[:, 0::2] * products[:, 1::2]).ravel()
    assert abs(fours.mean()) * math.sqrt(fours.size) < 5


def test_pairs_of_bytes_of_neighbours_are_uniform():
    noise = FrameNoise(3)
    noise.set_position(11, 0)
    high = noise.bits(ROWS, UNITS).numpy() >> 28  # arithmetic: -8 to 7
    for first, second in ((high[:, :-1], high[:, 1:]), (high[:-1], high[1:])):
        counts = np.bincount((16 * (first + 8) + second + 8).ravel(), minlength=256)
        expected = first.size / 256
        chi_square = np.square(counts - expected).sum() / expected
        assert chi_square == pytest.approx(255, abs=5 * math.sqrt(2 * 255))


def test_sampled_units_have_their_probability():
    noise = FrameNoise(0)
    noise.set_position(1, 0)
    probabilities = torch.rand(ROWS, UNITS, generator=torch.Generator().manual_seed(0))
    probabilities[0], probabilities[1] = 0.0, 1.0
    sample = noise.sampled(probabilities)
    assert sample.dtype == torch.float32
    assert (sample[0] == 0).all()
    assert (sample[1] == 1).all()
    assert ((sample == 0) | (sample == 1)).all()
    variance = (probabilities * (1 - probabilities)).sum().item()
    assert abs((sample - probabilities).sum().item()) < 5 * math.sqrt(variance)
    high = probabilities > 0.9
    assert sample[high].mean().item() == pytest.approx(0.95, abs=0.01)


def test_a_network_has_other_masks_in_each_layer_and_no_more_state_than_before():
    options = {"hidden_layers": 3, "hidden_dim": 16, "left_context": 0, "right_context": 0}
    network = Dnn(DnnOptions(**options, dropout=0.5), 3, 2)
    plain = Dnn(DnnOptions(**options, dropout=0.0), 3, 2)
    layers = [layer for layer in network.modules() if isinstance(layer, FrameDropout)]
    assert len(layers) == 3
    set_frame_position(network, 5, 10)
    ones = torch.ones(30, 16)
    masks = [layer(ones) for layer in layers]
    assert not any(torch.equal(masks[i], masks[j]) for i in range(3) for j in range(i))
    assert not any("keys" in name for name in network.state_dict())
    assert len(network.state_dict()) == len(plain.state_dict())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_dropout_draws_the_same_masks():
    torch._dynamo.reset()
    dropout = FrameDropout(0.4, 2)
    compiled = torch.compile(dropout, dynamic=False)
    inputs = torch.randn(40, 5)
    with torch._inductor.config.patch(cpp_cache_precompile_headers=False):  # takes longer
        for step in range(3):
            set_frame_position(compiled, step * 12345, 7 * step)
            torch.testing.assert_close(compiled(inputs), dropout(inputs))


def test_a_network_is_compiled_once_and_not_in_each_step():
    options = {"hidden_layers": 2, "hidden_dim": 24, "left_context": 0, "right_context": 0}
    network = Dnn(DnnOptions(**options, dropout=0.4), 5, 3)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(network, dynamic=False, backend="aot_eager")
    inputs = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    for step in range(4):
        set_frame_position(compiled, step * 12345, step)
        outputs = compiled(inputs)
        outputs.square().sum().backward()
        torch.testing.assert_close(outputs, network(inputs), rtol=1e-5, atol=1e-5)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_frames_of_a_window_have_masks_of_their_own_whoever_has_the_window():
    layer = FrameDropout(0.5, stream=1)
    layer.set_position(3, 0)
    whole = layer(torch.ones(6, 4, 50))
    assert len({mask.numpy().tobytes() for mask in whole.view(24, 50)}) == 24
    parts = []
    for first, windows in ((0, 2), (2, 4)):
        layer.set_position(3, first)
        parts.append(layer(torch.ones(windows, 4, 50)))
    assert torch.equal(torch.cat(parts), whole)
    layer.set_position(3, 0)
    assert torch.equal(layer(torch.ones(24, 50)), whole.view(24, 50))
