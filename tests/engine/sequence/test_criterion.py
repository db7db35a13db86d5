"""Criteria on lattices, against every path written out, and their gradients by differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sequences import lattice_of, paths_of, plain_losses, random_sequence_lattice

from mariana_asr.engine.sequence.criterion import Criterion, LatticeLoss
from mariana_asr.engine.sequence.lattice import NO_CLASS

CLASSES = 4
GROUPS = torch.tensor([0, 1, 2, 2])
"""Classes 2 and 3 count as the same, as silence's do."""

RISK = Criterion("smbr")
MMI = Criterion("mmi", drop_frames=False)


@st.composite
def tasks(draw):
    """A lattice with scores and reference classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = draw(st.integers(1, 5))
    lattice = random_sequence_lattice(rng, frames, CLASSES)
    scores = torch.from_numpy(rng.normal(scale=2.0, size=(frames, CLASSES)))
    return lattice, scores, torch.from_numpy(rng.integers(CLASSES, size=frames))


def loss_of(lattice, scores, targets, criterion):
    return LatticeLoss.apply(scores, targets, GROUPS, lattice, criterion)


@given(tasks())
@settings(max_examples=100, deadline=None)
def test_risk_is_the_expected_number_of_wrong_frames_over_all_paths(task):
    lattice, scores, targets = task
    expected, _ = plain_losses(lattice, scores.tolist(), targets.tolist(), GROUPS.tolist())
    loss, accuracy, dropped = loss_of(lattice, scores, targets, RISK)
    assert accuracy.item() == pytest.approx(expected, abs=1e-5)
    assert loss.item() == pytest.approx(len(targets) - expected, abs=1e-5)
    assert dropped.item() == 0


@given(tasks(), st.sampled_from([0.0, 0.7]))
@settings(max_examples=100, deadline=None)
def test_mmi_is_the_reference_against_the_sum_over_all_paths(task, boost):
    lattice, scores, targets = task
    _, expected = plain_losses(lattice, scores.tolist(), targets.tolist(), GROUPS.tolist(), boost)
    criterion = Criterion("mmi", boost=boost, drop_frames=False)
    loss, _, _ = loss_of(lattice, scores, targets, criterion)
    assert loss.item() == pytest.approx(-expected, rel=1e-5, abs=1e-5)


def differences(lattice, scores, targets, value):
    """Gradient of a plain function of the scores, by central differences."""
    gradient = torch.zeros_like(scores)
    step = 1e-5
    for place in np.ndindex(*scores.shape):
        ends = []
        for sign in (1, -1):
            moved = scores.clone()
            moved[place] += sign * step
            ends.append(value(lattice, moved.tolist(), targets.tolist()))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@given(tasks())
@settings(max_examples=25, deadline=None)
def test_the_gradient_of_the_risk_is_that_of_all_paths_written_out(task):
    lattice, scores, targets = task
    given_scores = scores.clone().requires_grad_()
    (3.0 * loss_of(lattice, given_scores, targets, RISK)[0]).backward()
    expected = differences(
        lattice, scores, targets, lambda *a: -plain_losses(*a, GROUPS.tolist())[0]
    )
    torch.testing.assert_close(given_scores.grad, 3.0 * expected, atol=1e-6, rtol=1e-6)


@given(tasks(), st.sampled_from([0.0, 0.7]))
@settings(max_examples=25, deadline=None)
def test_the_gradient_of_mmi_is_that_of_all_paths_written_out(task, boost):
    lattice, scores, targets = task
    given_scores = scores.clone().requires_grad_()
    criterion = Criterion("mmi", boost=boost, drop_frames=False)
    loss_of(lattice, given_scores, targets, criterion)[0].backward()
    expected = differences(
        lattice, scores, targets, lambda *a: -plain_losses(*a, GROUPS.tolist(), boost)[1]
    )
    torch.testing.assert_close(given_scores.grad, expected, atol=1e-6, rtol=1e-6)


@given(tasks())
@settings(max_examples=25, deadline=None)
def test_frames_without_the_reference_in_the_lattice_are_left_out_of_mmi(task):
    lattice, scores, targets = task
    known = [set(labels) for labels in zip(*(c for _, c in paths_of(lattice)), strict=True)]
    missing = torch.tensor(
        [t not in labels for t, labels in zip(targets.tolist(), known, strict=True)]
    )
    # What is on no path may be as unlikely as can be: a class that training never saw.
    scores[missing.nonzero().flatten(), targets[missing]] = -1e18
    given_scores = scores.clone().requires_grad_()
    loss, _, dropped = loss_of(lattice, given_scores, targets, Criterion("mmi"))
    loss.backward()
    assert dropped.item() == missing.sum().item()
    assert torch.isfinite(loss)
    assert (given_scores.grad[missing] == 0.0).all()
    whole = scores.clone().requires_grad_()
    loss_of(lattice, whole, targets, MMI)[0].backward()
    torch.testing.assert_close(given_scores.grad[~missing], whole.grad[~missing])


def two_words(frames=3):
    """Word 0 0 0 ... against word 1 1 1 ..., equally likely but for the scores."""
    arcs = []
    for frame in range(frames):
        first = [0, 0] if frame == 0 else [2 * frame - 1, 2 * frame]
        last = [2 * frames - 1] * 2 if frame == frames - 1 else [2 * frame + 1, 2 * frame + 2]
        arcs += [(first[word], last[word], word, frame, 0.0) for word in (0, 1)]
    return lattice_of(2 * frames, arcs)


def test_kaldis_formula_for_two_words():
    """Kaldi's acc_diff: posterior times (right frames of the path - expected right frames)."""
    scores = torch.zeros(3, CLASSES, requires_grad=True)
    with torch.no_grad():
        scores[:, 0] = 0.2
    targets = torch.tensor([0, 0, 1])
    loss, accuracy, _ = loss_of(two_words(), scores, targets, RISK)
    loss.backward()
    share = 1 / (1 + math.exp(-0.6))
    mean = 2 * share + (1 - share)
    assert accuracy.item() == pytest.approx(mean)
    expected = torch.zeros(3, CLASSES)
    expected[:, 0], expected[:, 1] = -share * (2 - mean), -(1 - share) * (1 - mean)
    torch.testing.assert_close(scores.grad, expected)


def test_scores_far_apart_neither_overflow_nor_vanish():
    scores = torch.zeros(3, CLASSES, dtype=torch.float64)
    scores[:, 0], scores[:, 1] = 1e4, -1e4
    for targets, wrong in ((torch.tensor([0, 0, 0]), 0), (torch.tensor([1, 1, 1]), 3)):
        assert loss_of(two_words(), scores, targets, RISK)[0].item() == wrong
    loss, _, dropped = loss_of(two_words(), scores, torch.tensor([1, 1, 1]), MMI)
    assert loss.item() == pytest.approx(6e4)
    assert dropped.item() == 0
    assert loss_of(two_words(), scores, torch.tensor([1, 1, 1]), Criterion("mmi"))[2].item() == 3


def test_a_lattice_of_one_path_has_nothing_to_teach():
    arcs = [(0, 1, 2, 0, -3.0), (1, 2, NO_CLASS, 0, -1.0), (2, 3, 0, 1, 0.5)]
    scores = torch.randn(2, CLASSES, requires_grad=True)
    loss_of(lattice_of(4, arcs), scores, torch.tensor([2, 0]), RISK)[0].backward()
    assert (scores.grad == 0.0).all()
    scores.grad = None
    loss_of(lattice_of(4, arcs), scores, torch.tensor([2, 0]), MMI)[0].backward()
    torch.testing.assert_close(scores.grad, torch.zeros(2, CLASSES), atol=1e-7, rtol=0.0)
