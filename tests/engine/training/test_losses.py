"""The losses of training beside plain formulas, and training with them on several workers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from frame_tasks import CLASSES, DIM, pack_linear_task, relative_difference
from gloo import run_workers
from torch import nn

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.pool import NO_TARGET
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.engine.options import (
    EngineOptions,
    ExponentialOptions,
    LossOptions,
    SpecAugmentOptions,
    TrainOptions,
)
from mariana_asr.engine.training.objective import FrameClassification, GroupTask
from mariana_asr.engine.training.train import Job, run_job, train_network
from mariana_asr.errors import RecipeError
from mariana_asr.nnet.dnn import Dnn, DnnOptions

GROUPS = np.array([0, 0, 1, 1, 1, 2, 2, 0, 2, 1])
NETWORK = DnnOptions(hidden_layers=2, hidden_dim=16, left_context=1, right_context=1)
KINDS = [
    LossOptions(label_smoothing=0.2),
    LossOptions(group_smoothing=0.3),
    LossOptions(focal_gamma=2.0),
    LossOptions(label_smoothing=0.1, group_smoothing=0.2, focal_gamma=0.5),
    LossOptions(group_task=0.4),
]


class Linear(nn.Module):
    """A network of one layer, whose hidden values are its input."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, CLASSES)

    def hidden_of(self, windows):
        return windows

    def forward(self, windows):
        return self.output(self.hidden_of(windows))


def plain_loss(logits, group_logits, target, options: LossOptions) -> float:
    """The loss of one frame, written out."""
    posteriors = np.exp(logits - logits.max())
    posteriors /= posteriors.sum()
    members = [c for c in range(CLASSES) if GROUPS[c] == GROUPS[target]]
    wanted = np.full(CLASSES, options.label_smoothing / CLASSES)
    wanted[members] += options.group_smoothing / len(members)
    wanted[target] += 1.0 - options.label_smoothing - options.group_smoothing
    loss = -(wanted * np.log(posteriors)).sum()
    loss *= (1.0 - posteriors[target]) ** options.focal_gamma
    group_posteriors = np.exp(group_logits) / np.exp(group_logits).sum()
    return loss - options.group_task * math.log(group_posteriors[GROUPS[target]])


@pytest.mark.parametrize("options", KINDS)
def test_losses_are_those_of_the_formulas_and_what_is_no_frame_counts_for_nothing(options):
    torch.manual_seed(0)
    network, windows = Linear(), torch.randn(7, 4)
    targets = torch.tensor([3, 0, NO_TARGET, 9, 5, 5, NO_TARGET])
    with GroupTask(network, 3):
        nn.init.normal_(network.group_task.weight)
        objective = FrameClassification(network, options, groups=torch.tensor(GROUPS))
        loss, correct = objective(windows, targets)
        logits = network(windows).detach().double().numpy()
        group_logits = network.group_task(windows).detach().double().numpy()
    frames = [(row, int(target)) for row, target in enumerate(targets) if target != NO_TARGET]
    expected = sum(plain_loss(logits[r], group_logits[r], t, options) for r, t in frames)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert correct.item() == sum(logits[r].argmax() == t for r, t in frames)
    assert not hasattr(network, "group_task")


def test_held_out_frames_are_measured_by_the_plain_cross_entropy():
    torch.manual_seed(0)
    network, windows, targets = Linear(), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 4])
    options = LossOptions(label_smoothing=0.3, focal_gamma=1.0)
    objective = FrameClassification(network, options).eval()
    plain = nn.functional.cross_entropy(network(windows), targets, reduction="sum")
    assert objective(windows, targets)[0].item() == pytest.approx(plain.item())


def test_the_gradient_of_a_frame_that_is_right_for_certain_is_finite():
    network = Linear()
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.zero_()[2] = 200.0
    objective = FrameClassification(network, LossOptions(focal_gamma=0.5))
    loss, _ = objective(torch.ones(1, 4), torch.tensor([2]))
    loss.backward()
    assert torch.isfinite(network.output.bias.grad).all()


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    train = pack_linear_task(folder / "train", seed=1, utterances=20)
    return train.directory, pack_linear_task(folder / "dev", seed=2, utterances=4).directory


OPTIONS = TrainOptions(
    learning_rate=0.002,
    minibatch_size=128,
    schedule=ExponentialOptions(epochs=2),
    loss=LossOptions(group_smoothing=0.1, group_task=0.5),
    spec_augment=SpecAugmentOptions(frequency_width=2, time_masks=1, time_width=1),
)


def trained(workers: Workers, stores, out: Path) -> dict[str, torch.Tensor]:
    network = Dnn(NETWORK, DIM, CLASSES, seed=5)
    with GroupTask(network, 3):
        job = Job(network, *stores, OPTIONS, EngineOptions(), out, torch.tensor(GROUPS))
        run_job(job, workers)
        return network.state_dict()


def test_two_workers_learn_a_second_task_behind_masks_as_one_does(stores, tmp_path):
    alone = trained(Workers.alone(torch.device("cpu")), stores, tmp_path / "one")
    assert alone["group_task.weight"].abs().sum() > 0
    for state in run_workers(trained, 2, stores, tmp_path / "two"):
        assert relative_difference(state, alone) < 1e-5


def test_the_second_task_does_not_stay_in_the_network(stores, tmp_path):
    network = Dnn(NETWORK, DIM, CLASSES)
    train, held_out = map(FrameStore.open, stores)
    names = set(network.state_dict())
    train_network(network, train, held_out, OPTIONS, tmp_path, groups=GROUPS)
    assert set(network.state_dict()) == names


def test_a_loss_that_needs_groups_or_layers_says_so(stores, tmp_path):
    train, held_out = map(FrameStore.open, stores)
    with pytest.raises(RecipeError, match="groups of classes are not known"):
        train_network(Dnn(NETWORK, DIM, CLASSES), train, held_out, OPTIONS, tmp_path)
    with pytest.raises(RecipeError, match=r"Identity cannot have a second task.*hidden_of"):
        GroupTask(nn.Identity(), 3)
