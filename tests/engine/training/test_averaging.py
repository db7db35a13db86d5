"""Averages of weights, and batch norm's statistics for them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task
from torch import nn

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.training.averaging import average_weights, recompute_batch_norm
from mariana_asr.nnet.dnn import Dnn, DnnOptions

OPTIONS = DnnOptions(
    hidden_layers=2,
    hidden_dim=9,
    left_context=1,
    right_context=2,
    dropout=0.4,
    normalisation="batch",
)


def test_floating_point_tensors_are_averaged_and_whole_numbers_are_the_lasts():
    states = [
        {"weight": torch.tensor([1.0, 2.0]), "steps": torch.tensor(3)},
        {"weight": torch.tensor([4.0, 2.0]), "steps": torch.tensor(5)},
        {"weight": torch.tensor([10.0, 2.0]), "steps": torch.tensor(9)},
    ]
    averages = average_weights(states)
    assert averages["weight"].tolist() == [5.0, 2.0]
    assert averages["weight"].dtype == torch.float32
    assert averages["steps"].item() == 9
    # The originals stay as they are.
    averages["weight"].zero_()
    assert states[2]["weight"].tolist() == [10.0, 2.0]


def test_the_average_of_equal_weights_is_the_weights_bit_for_bit():
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e-3
    for number in (1, 3, 7):
        assert torch.equal(average_weights([{"w": weight}] * number)["w"], weight)


def test_weights_of_different_networks_are_not_averaged():
    with pytest.raises(ValueError, match="of one network"):
        average_weights([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])
    with pytest.raises(ValueError, match="at least one"):
        average_weights([])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    return pack_linear_task(tmp_path_factory.mktemp("store"), seed=1, utterances=60)


def windows_of(store: FrameStore, left: int, right: int) -> torch.Tensor:
    """Every frame with its context, edge frames repeated: a plain loop."""
    rows = []
    for number in range(store.num_utterances):
        frames, _ = store.read_utterance(number)
        for t in range(len(frames)):
            places = np.clip(np.arange(t - left, t + right + 1), 0, len(frames) - 1)
            rows.append(frames[places].reshape(-1))
    return torch.from_numpy(np.stack(rows))


def test_statistics_are_those_of_the_training_frames_without_dropout(store: FrameStore):
    network = Dnn(OPTIONS, DIM, CLASSES, seed=3)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == 2
    inputs: list[torch.Tensor] = []
    for norm in norms:
        norm.running_mean.fill_(123.0)
        momentum = norm.momentum
    recompute_batch_norm(network, store)
    assert all(norm.momentum == momentum for norm in norms)
    assert not any(module.training for module in network.modules())

    # The first layer's input does not depend on any statistics.
    windows = windows_of(store, 1, 2)
    hook = norms[0].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        network(windows)
    hook.remove()
    first = inputs[0].double()
    assert len(first) == store.num_frames
    assert len(first) > 2048, "one minibatch shows nothing of how several are put together"
    mean, variance = norms[0].running_mean.double(), norms[0].running_var.double()
    torch.testing.assert_close(mean, first.mean(dim=0), rtol=1e-5, atol=1e-5)
    # Within minibatches, without the little that their means differ.
    torch.testing.assert_close(variance, first.var(dim=0), rtol=0.01, atol=0)


def test_of_the_statistics_nothing_is_left_but_what_was_seen(store: FrameStore):
    """Two networks that differ in their old statistics alone end with the same ones."""
    networks = [Dnn(OPTIONS, DIM, CLASSES, seed=3) for _ in range(2)]
    for module in networks[1].modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.fill_(-5.0)
            module.running_var.fill_(7.0)
            module.num_batches_tracked.fill_(1000)
    for network in networks:
        recompute_batch_norm(network, store, frames=500)
    one, other = (network.state_dict() for network in networks)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_network_without_batch_norm_is_left_alone(store: FrameStore, tmp_path: Path):
    options = OPTIONS.model_copy(update={"normalisation": "none"})
    network = Dnn(options, DIM, CLASSES, seed=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recompute_batch_norm(network, store)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
