import copy

import numpy as np
import pytest
import torch
from plain_layers import (
    affine,
    batch_normed,
    layer_over_frames,
    logits_of,
    normalised_input,
    random_frames,
    with_statistics,
)

from mariana_asr.nnet.options import TdnnfOptions
from mariana_asr.nnet.orthonormal import move_towards_orthonormal
from mariana_asr.nnet.tdnnf import Tdnnf
from mariana_asr.nnet.time_layers import SemiOrthogonalLinear


def plain_factored_layer(layer, stride, scale, below):
    """Kaldi's tdnnf-layer: Append(Offset(-s, x), x), linear; Append(0, s), affine; bypass."""
    offsets, later = ([-stride, 0], [0, stride]) if stride else ([0], [0])

    def linear(frame):
        return affine(layer.linear, np.concatenate([below(frame + o) for o in offsets]))

    nonlinear = layer_over_frames(layer.nonlinear, later, linear)
    return lambda frame: nonlinear(frame) + scale * below(frame)


def plain_tdnnf(network, options, frames):
    inputs = normalised_input(network, frames)
    value = layer_over_frames(network.first, options.input_offsets, lambda t: inputs[t])
    factored = network.factored
    for layer, stride in zip(factored.layers, options.time_strides, strict=True):
        value = plain_factored_layer(layer, stride, options.bypass_scale, value)

    def small(frame):
        return affine(factored.prefinal_linear, value(frame))

    big = layer_over_frames(factored.prefinal, [0], small)
    last = len(frames) - network.right_context
    return [
        affine(network.output, batch_normed(factored.final_norm, affine(factored.final_linear, h)))
        for h in (big(t) for t in range(network.left_context, last))
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"time_strides": [1, 0, 3]},
        {"time_strides": [2], "bypass_scale": 0.0},
        {"time_strides": [1, 1], "input_offsets": [0, 2], "bypass_scale": 1.0},
    ],
)
def test_logits_are_those_of_kaldis_layers_frame_by_frame(settings):
    options = TdnnfOptions(hidden_dim=12, bottleneck_dim=5, prefinal_dim=4, **settings)
    network = with_statistics(Tdnnf(options, frame_dim=6, num_outputs=7))
    frames = random_frames(network.left_context + 5 + network.right_context, 6)
    found = logits_of(network, frames)
    assert found.shape == (5, 7)
    np.testing.assert_allclose(found, plain_tdnnf(network, options, frames), atol=1e-12)


def test_factored_layers_begin_with_kaldis_variance_and_others_as_before_rectifiers():
    # Kaldi's param-stddev is 1 / sqrt(inputs).
    network = Tdnnf(TdnnfOptions(), frame_dim=40, num_outputs=300)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 2:
            gain = (
                2.0 if name in ("first.affine.weight", "factored.prefinal.affine.weight") else 1.0
            )
            assert parameter.var().item() == pytest.approx(gain / parameter.shape[1], rel=0.05)
        else:
            assert (parameter == 0).all()


def kaldi_constrain_orthonormal(matrix):
    """ConstrainOrthonormalInternal with scale -1, and the transposition of its caller."""
    if matrix.shape[0] > matrix.shape[1]:
        return kaldi_constrain_orthonormal(matrix.T).T
    p = matrix @ matrix.T
    update_speed = 0.125
    trace_p, trace_p_p = np.trace(p), np.trace(p.T @ p)
    if trace_p < 1e-15:
        return matrix
    scale = np.sqrt(trace_p_p / trace_p)
    ratio = trace_p_p * p.shape[0] / trace_p**2
    if ratio > 1.02:
        update_speed *= 0.5
        if ratio > 1.1:
            update_speed *= 0.5
    p = p - scale**2 * np.eye(len(p))
    alpha = update_speed / scale**2
    return matrix + -4.0 * alpha * (p @ matrix)


def matrix_with(singular_values, columns, seed=0):
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((len(singular_values),) * 2))[0]
    right = np.linalg.qr(rng.standard_normal((columns, columns)))[0][: len(singular_values)]
    return left @ np.diag(singular_values) @ right


@pytest.mark.parametrize(
    "matrix",
    [
        np.random.default_rng(1).standard_normal((8, 50)),
        np.random.default_rng(2).standard_normal((30, 7)) * 0.01,
        np.random.default_rng(3).standard_normal((6, 6)) * 100,
        matrix_with([1.0, 1.1, 0.9, 1.05], 9),  # a ratio between 1.02 and 1.1
        matrix_with([3.0, 3.01, 2.99], 5),  # below 1.02
        np.zeros((3, 5)),
    ],
)
def test_the_constraints_step_is_kaldis(matrix):
    moved = torch.from_numpy(matrix.copy())
    move_towards_orthonormal(moved)
    np.testing.assert_allclose(moved, kaldi_constrain_orthonormal(matrix), rtol=1e-9, atol=1e-12)


def test_the_examples_cover_all_speeds():
    def ratio(matrix):
        squares = np.linalg.svd(matrix, compute_uv=False) ** 2
        return (squares**2).mean() / squares.mean() ** 2

    assert ratio(np.random.default_rng(1).standard_normal((8, 50))) > 1.1
    assert 1.02 < ratio(matrix_with([1.0, 1.1, 0.9, 1.05], 9)) < 1.1
    assert 1.0 < ratio(matrix_with([3.0, 3.01, 2.99], 5)) < 1.02


@pytest.mark.parametrize("shape", [(20, 80), (80, 20)])
def test_repeated_steps_end_with_a_semi_orthogonal_matrix(shape):
    matrix = torch.from_numpy(np.random.default_rng(5).standard_normal(shape)).float()
    for _ in range(60):
        move_towards_orthonormal(matrix)
    singular_values = torch.linalg.svdvals(matrix)
    assert (singular_values.max() / singular_values.min()).item() == pytest.approx(1, abs=1e-5)


def test_the_constraint_is_applied_to_first_maps_after_every_fourth_step():
    options = TdnnfOptions(hidden_dim=12, bottleneck_dim=5, prefinal_dim=4, time_strides=[1, 0])
    network = Tdnnf(options, frame_dim=6, num_outputs=7)
    before = copy.deepcopy(network)
    constrained = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, SemiOrthogonalLinear)
    }
    assert constrained == {
        "factored.layers.0.linear.weight",
        "factored.layers.1.linear.weight",
        "factored.prefinal_linear.weight",
        "factored.final_linear.weight",
    }
    for step in range(1, 9):
        network.after_step()
        for name, parameter in network.named_parameters():
            expected = dict(before.named_parameters())[name].detach().double().numpy()
            if name in constrained:
                for _ in range(step // 4):
                    expected = kaldi_constrain_orthonormal(expected)
            np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-4, atol=1e-6)
    assert network.state_dict()["steps"] == 8


def test_steps_are_counted_on_from_a_saved_state():
    options = TdnnfOptions(hidden_dim=12, bottleneck_dim=5, prefinal_dim=4, time_strides=[1])
    network, resumed = (Tdnnf(options, 6, 7, seed=seed) for seed in (1, 2))
    for _ in range(3):
        network.after_step()
    resumed.load_state_dict(network.state_dict())
    network.after_step()
    resumed.after_step()
    assert all(
        torch.equal(value, resumed.state_dict()[name])
        for name, value in network.state_dict().items()
    )


def test_without_the_constraint_steps_change_nothing():
    network = Tdnnf(TdnnfOptions(hidden_dim=12, orthonormal_every=0), 6, 7)
    before = copy.deepcopy(network.state_dict())
    for _ in range(8):
        network.after_step()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
