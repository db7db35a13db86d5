"""Every kind of network that a recipe can name, with its defaults."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.nnet.acoustic_model import AcousticModel, log_priors_from_counts
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.options import ModelOptions

BANDS, FRAME_DIM, OUTPUTS = 40, 120, 7
KINDS = [
    get_args(kind.model_fields["type"].annotation)[0]
    for kind in get_args(get_args(ModelOptions)[0])
]
DNNS = {
    "dnn maxout": {"activation": "maxout", "normalisation": "none"},
    "dnn pnorm": {"activation": "pnorm", "normalisation": "layer", "residual": True},
    "dnn factored": {"bottleneck": [20, 30, 40, 50]},
}
SETTINGS = [*KINDS, *DNNS]


def options_of(setting: str) -> ModelOptions:
    options = {"type": setting.split()[0], **DNNS.get(setting, {})}
    if setting == "custom":
        options["class"] = "own_networks.Convolution"
    return TypeAdapter(ModelOptions).validate_python(options)


def stretch_of(network, frames: int, seed: int = 0) -> torch.Tensor:
    """Two windows of so many scored frames."""
    context = network.left_context + network.right_context
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, (context + frames) * FRAME_DIM, generator=generator)


def test_the_union_has_a_tag_for_each_kind():
    assert len(KINDS) == len(set(KINDS)) >= 7
    for model in ({}, {"hidden_layers": 3}):
        assert TypeAdapter(ModelOptions).validate_python(model).type == "dnn"
    with pytest.raises(ValidationError, match=r"'dnn'.*'custom'"):
        TypeAdapter(ModelOptions).validate_python({"type": "rnn"})


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_network_gives_logits_for_each_frame_of_each_window(setting):
    network = build_network(options_of(setting), FRAME_DIM, OUTPUTS)
    assert isinstance(network, nn.Module)
    assert network.training
    assert (network.frame_dim, network.num_outputs) == (FRAME_DIM, OUTPUTS)
    logits = network(stretch_of(network, network.chunk_frames))
    assert logits.shape == (2 * network.chunk_frames, OUTPUTS)
    logits.square().sum().backward()
    unused = [name for name, each in network.named_parameters() if each.grad is None]
    assert unused == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_frames_of_long_stretches_get_the_logits_of_their_own_windows(setting):
    network = build_network(options_of(setting), FRAME_DIM, OUTPUTS).eval()
    if not network.exact_chunks:
        assert setting == "lstm"
        return
    frames = 2 * network.chunk_frames + 3
    whole = stretch_of(network, frames)
    width = network.left_context + 1 + network.right_context
    each = whole.view(2, -1, FRAME_DIM)
    pieces = [each[n, t : t + width].flatten() for n in range(2) for t in range(frames)]
    with torch.no_grad():
        torch.testing.assert_close(
            network(whole), network(torch.stack(pieces)), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_seed_decides_the_initial_weights(setting):
    options = options_of(setting)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build_network(options, FRAME_DIM, OUTPUTS, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    same = build_network(options, FRAME_DIM, OUTPUTS, seed=1).state_dict()
    other = build_network(options, FRAME_DIM, OUTPUTS, seed=2).state_dict()
    assert list(first) == list(same) == list(other)
    assert all(torch.equal(first[name], same[name]) for name in first)
    matrices = [name for name, tensor in first.items() if tensor.dim() > 1]
    assert matrices
    assert not any(torch.equal(first[name], other[name]) for name in matrices)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_saved_network_gives_the_same_scores(setting, tmp_path: Path):
    options = options_of(setting)
    network = build_network(options, FRAME_DIM, OUTPUTS, seed=9)
    if hasattr(network, "set_input_statistics"):
        rng = np.random.default_rng(1)
        network.set_input_statistics(rng.standard_normal(FRAME_DIM), rng.random(FRAME_DIM) + 0.5)
    network(stretch_of(network, network.chunk_frames))  # for running statistics
    front_end = FrontEnd({"type": "fbank"}, BANDS, TransformOptions(delta_order=2))
    model = AcousticModel(network, options, front_end, log_priors_from_counts(np.arange(1, 8)))
    model.save(tmp_path / "nnet.pt")
    loaded = AcousticModel.load(tmp_path / "nnet.pt")
    assert loaded.options == options
    features = np.random.default_rng(2).standard_normal((50, FRAME_DIM)).astype(np.float32)
    scores = loaded.log_likelihoods(features)
    np.testing.assert_array_equal(scores, model.log_likelihoods(features))
    assert np.isfinite(scores).all()
    assert scores.std(axis=0).min() > 0
