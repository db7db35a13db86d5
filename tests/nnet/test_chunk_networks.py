"""What holds for every network that is trained on chunks of frames."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plain_layers import logits_of, random_frames, with_statistics
from pydantic import TypeAdapter

from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.nnet.acoustic_model import AcousticModel, log_priors_from_counts
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.dropout import FrameNoise, set_frame_position
from mariana_asr.nnet.options import ModelOptions
from mariana_asr.nnet.time_layers import TimeDropout

OUTPUTS = 7
FACTORED = {"hidden_dim": 12, "bottleneck_dim": 5, "prefinal_dim": 6, "time_strides": [1, 0, 2]}
CONVOLUTIONS = {
    "filters": [3, 4],
    "time_kernels": [4, 3],
    "frequency_kernels": [3, 2],
    "pooling": [2, 2],
    "other_values": 1,
}
NETWORKS = {
    "tdnn": {"type": "tdnn", "hidden_dim": 12},
    "tdnn to the left": {"type": "tdnn", "hidden_dim": 12, "offsets": [[-2, -1, 0], [-1, 0]]},
    "tdnn layer norm": {"type": "tdnn", "hidden_dim": 12, "normalisation": "layer"},
    "tdnnf": {"type": "tdnnf", **FACTORED},
    "tdnnf dropout over time": {"type": "tdnnf", **FACTORED, "dropout_over_time": True},
    "cnn": {"type": "cnn", "hidden_dim": 12, **CONVOLUTIONS},
    "cnn layer norm": {"type": "cnn", "hidden_dim": 12, "normalisation": "layer", **CONVOLUTIONS},
    "cnn limited": {
        "type": "cnn",
        "filters": [4],
        "time_kernels": [5],
        "frequency_kernels": [4],
        "pooling": [3],
        "weight_sharing": "limited",
    },
    "cnn_tdnnf": {"type": "cnn_tdnnf", "filters": [3, 4], "band_steps": [1, 2], **FACTORED},
    "lstm": {"type": "lstm", "cell_dim": 6, "left_context": 5, "right_context": 4},
    "lstm one way": {"type": "lstm", "cell_dim": 6, "bidirectional": False, "left_context": 3},
}
EXACT = [name for name in NETWORKS if not name.startswith("lstm")]
FRAME_DIM = 24


def options_of(name, **further):
    options = NETWORKS[name] | {"chunk_frames": 6, "transform": {"delta_order": 1}} | further
    return TypeAdapter(ModelOptions).validate_python(options)


def make(name, seed=777, **further):
    return build_network(options_of(name, **further), FRAME_DIM, OUTPUTS, seed=seed)


def windows_for(network, count, seed=0):
    frames = network.left_context + network.chunk_frames + network.right_context
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, frames * FRAME_DIM, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frame_is_told_from_just_the_frames_of_its_context(name):
    network = with_statistics(make(name))
    windows = windows_for(network, 40).double().requires_grad_()
    logits = network(windows).view(40, network.chunk_frames, OUTPUTS)
    assert network.chunk_frames == 6
    for frame in (0, 3, 5):
        (gradient,) = torch.autograd.grad(logits[:, frame].sum(), windows, retain_graph=True)
        seen = gradient.view(40, -1, FRAME_DIM).abs().amax(dim=(0, 2)) > 0
        at = torch.arange(len(seen)) - network.left_context - frame
        if network.exact_chunks:
            expected = (at >= -network.left_context) & (at <= network.right_context)
        elif name == "lstm":
            expected = torch.ones(len(seen), dtype=torch.bool)
        else:
            expected = at <= network.right_context
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("length", [1, 4, 30])
def test_chunks_of_any_length_give_the_logits_of_the_whole(name, length):
    network = with_statistics(make(name))
    assert network.exact_chunks
    context = network.left_context + network.right_context
    frames = random_frames(context + 30, FRAME_DIM)
    whole = logits_of(network, frames)
    assert whole.shape == (30, OUTPUTS)
    for begin in range(0, 30 - length + 1, length):
        chunk = logits_of(network, frames[begin : begin + context + length])
        np.testing.assert_allclose(chunk, whole[begin : begin + length], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_windows_are_scored_one_after_the_other(name):
    network = with_statistics(make(name)).float()
    windows = windows_for(network, 3)
    with torch.no_grad():
        together = network(windows)
        apart = torch.cat([network(window[None]) for window in windows])
        assert network(windows[:0]).shape == (0, OUTPUTS)
        hidden = network.output(network.hidden_of(windows))
    assert together.shape == (3 * 6, OUTPUTS)
    torch.testing.assert_close(apart, together)
    torch.testing.assert_close(hidden, together)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_seed_decides_all_initial_weights_and_global_state_is_left_alone(name):
    torch.manual_seed(5)
    first = make(name, seed=1).state_dict()
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)
    same, other = make(name, seed=1), make(name, seed=2)
    assert all(torch.equal(first[key], value) for key, value in same.state_dict().items())
    for key, parameter in other.named_parameters():
        assert torch.isfinite(parameter).all()
        assert parameter.dim() == 1 or not torch.equal(first[key], parameter)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_parameters_learn(name):
    network = make(name).train()
    network(windows_for(network, 20)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad != 0).any(), key


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_depends_on_the_position_alone_and_layers_draw_apart(name):
    network = make(name, dropout=0.4).train()
    noises = [module for module in network.modules() if isinstance(module, FrameNoise)]
    assert len({noise.stream for noise in noises}) == len(noises) > 0
    for module in network.modules():
        # Statistics of the minibatch would tie its windows together.
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    windows = windows_for(network, 6)

    def logits(step_seed, first_row, rows):
        set_frame_position(network, step_seed, first_row)
        with torch.no_grad():
            return network(rows)

    whole = logits(1, 0, windows)
    torch.testing.assert_close(logits(1, 2, windows[2:5]), whole[2 * 6 : 5 * 6])
    assert not torch.allclose(logits(1, 1, windows), whole)
    assert not torch.allclose(logits(2, 0, windows), whole)


def test_dropout_over_time_silences_a_unit_in_all_frames_of_a_chunk():
    frames = torch.ones(50, 9, 30)
    factors = TimeDropout(0.3, 1, over_time=True)(frames)
    assert torch.equal(factors, factors[:, :1].expand(50, 9, 30))
    assert 0.6 < (factors[:, 0] > 0).float().mean() < 0.8
    apart = TimeDropout(0.3, 1, over_time=False)(frames)
    assert not torch.equal(apart, apart[:, :1].expand(50, 9, 30))
    assert torch.equal(TimeDropout(0.3, 1, over_time=True).eval()(frames), frames)


@pytest.mark.parametrize("name", NETWORKS)
def test_models_are_read_as_they_were_saved(name, tmp_path: Path):
    options = options_of(name)
    network = with_statistics(build_network(options, FRAME_DIM, OUTPUTS, seed=4)).float()
    transform = TransformOptions(delta_order=1)
    front_end = FrontEnd({"type": "fbank", "num_mel_bins": 12}, 12, transform)
    model = AcousticModel(
        network, options, front_end, log_priors_from_counts(np.arange(1, OUTPUTS + 1))
    )
    model.save(tmp_path / "final.mdl")
    read = AcousticModel.load(tmp_path / "final.mdl")
    assert read.options == options
    frames = random_frames(33, FRAME_DIM).astype(np.float32)
    expected = model.log_likelihoods(frames)
    np.testing.assert_array_equal(read.log_likelihoods(frames), expected)
    assert expected.shape == (33, OUTPUTS)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_bfloat16_gradients_come_close(name):
    network = make(name, dropout=0.0).train()
    windows = windows_for(network, 30)
    targets = torch.arange(30 * 6) % OUTPUTS
    gradients = []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = network(windows).float()
        torch.nn.functional.cross_entropy(logits, targets).backward()
        gradients.append(network.output.weight.grad.clone())
    exact, rounded = gradients
    assert 0 < (rounded - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("tdnn", {"offsets": [[-1, 0, 2]]}),
        ("cnn_tdnnf", {"filters": [3], "band_steps": [2], "time_strides": [1]}),
        ("lstm", {"hidden_layers": 1}),
    ],
)
def test_compiled_networks_train_alike(name, smaller):
    network = make(name, **smaller).train()
    windows = windows_for(network, 10)
    gradients = []
    for call in (network, torch.compile(network, backend="aot_eager")):
        network.zero_grad()
        set_frame_position(network, 3, 0)
        call(windows).square().sum().backward()
        gradients.append({key: p.grad.clone() for key, p in network.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
