"""Averages of weights, and batch norm's statistics for them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task
from torch import nn

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.options import LossOptions, SpecAugmentOptions, TrainOptions
from mariana_asr.engine.training.averaging import average_weights, recompute_batch_norm
from mariana_asr.nnet.dnn import Dnn, DnnOptions
from mariana_asr.nnet.dropout import FrameDropout

OPTIONS = DnnOptions(
    hidden_layers=2,
    hidden_dim=9,
    left_context=1,
    right_context=2,
    dropout=0.4,
    normalisation="batch",
)
# Of a second task nothing is left but the option.
TRAINING = TrainOptions(minibatch_size=200, loss=LossOptions(group_task=0.5))


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


def inputs_of(norm: nn.BatchNorm1d, network: Dnn, windows: torch.Tensor) -> torch.Tensor:
    """What batch norm is given when the network sees some windows, in double precision."""
    given: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].double()))
    with torch.no_grad():
        network(windows)
    hook.remove()
    return given[0]


def test_statistics_are_those_of_the_training_frames(store: FrameStore):
    network = Dnn(OPTIONS, DIM, CLASSES, seed=3)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == 2
    for norm in norms:
        norm.running_mean.fill_(123.0)
        momentum = norm.momentum
    recompute_batch_norm(network, store, TRAINING)
    assert all(norm.momentum == momentum for norm in norms)
    assert not any(module.training for module in network.modules())

    # What the first one is given depends neither on statistics nor on dropout.
    first = inputs_of(norms[0], network, windows_of(store, 1, 2))
    assert len(first) == store.num_frames
    assert len(first) % TRAINING.minibatch_size, "minibatches of different sizes count by them"
    mean, variance = norms[0].running_mean.double(), norms[0].running_var.double()
    torch.testing.assert_close(mean, first.mean(dim=0), rtol=1e-5, atol=1e-5)
    # Within minibatches, without the little that their means differ.
    torch.testing.assert_close(variance, first.var(dim=0), rtol=0.01, atol=0)


def test_statistics_are_of_activations_under_dropout(store: FrameStore):
    network = Dnn(OPTIONS, DIM, CLASSES, seed=3)
    recompute_batch_norm(network, store, TRAINING)
    second = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)][1]
    windows = windows_of(store, 1, 2)
    without = inputs_of(second, network, windows).var(dim=0)
    for module in network.modules():
        if isinstance(module, FrameDropout):
            module.train()
    under_dropout = inputs_of(second, network, windows).var(dim=0)
    found = second.running_var.double()
    torch.testing.assert_close(found, under_dropout, rtol=0.1, atol=0)
    assert (without < 0.9 * found).all()


def test_statistics_are_of_masked_input_where_training_masks_it(store: FrameStore):
    masks = SpecAugmentOptions(frequency_masks=3, frequency_width=DIM, bands=DIM)
    variances = []
    for options in (TRAINING, TRAINING.model_copy(update={"spec_augment": masks})):
        network = Dnn(OPTIONS, DIM, CLASSES, seed=3)
        recompute_batch_norm(network, store, options)
        norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm1d))
        variances.append(norm.running_var)
    assert (variances[1] < 0.7 * variances[0]).all()


def test_the_callers_random_numbers_are_left_alone(store: FrameStore):
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    recompute_batch_norm(Dnn(OPTIONS, DIM, CLASSES, seed=3), store, TRAINING, frames=500)
    assert torch.equal(torch.rand(3), expected)


def test_of_the_statistics_nothing_is_left_but_what_was_seen(store: FrameStore):
    """Two networks that differ in their old statistics alone end with the same ones."""
    networks = [Dnn(OPTIONS, DIM, CLASSES, seed=3) for _ in range(2)]
    for module in networks[1].modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.fill_(-5.0)
            module.running_var.fill_(7.0)
            module.num_batches_tracked.fill_(1000)
    for network in networks:
        recompute_batch_norm(network, store, TRAINING, frames=500)
    one, other = (network.state_dict() for network in networks)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_network_without_batch_norm_is_left_alone(store: FrameStore, tmp_path: Path):
    options = OPTIONS.model_copy(update={"normalisation": "none"})
    network = Dnn(options, DIM, CLASSES, seed=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recompute_batch_norm(network, store, TRAINING)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
