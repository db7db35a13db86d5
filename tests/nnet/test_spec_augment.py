"""Masks over frequency and time."""

import pytest
import torch

from mariana_asr.errors import RecipeError
from mariana_asr.nnet.spec_augment import SpecAugment

BANDS, COPIES, FRAMES = 20, 3, 30
MEAN = torch.arange(1.0, BANDS * COPIES + 1)


def masks(frequency=(0, 0), time=(0, 0)) -> SpecAugment:
    return SpecAugment(
        MEAN,
        bands=BANDS,
        frequency_masks=frequency[0],
        frequency_width=frequency[1],
        time_masks=time[0],
        time_width=time[1],
    )


def masked(layer: SpecAugment, windows: int) -> torch.Tensor:
    """(windows, FRAMES, COPIES, BANDS) what is masked, after a check of what takes its place."""
    outputs = layer(torch.zeros(windows, FRAMES * BANDS * COPIES)).view(windows, FRAMES, -1)
    covered = outputs != 0
    assert torch.equal(outputs, covered * MEAN)
    return covered.view(windows, FRAMES, COPIES, BANDS)


def test_a_frequency_mask_is_a_stretch_of_bands_in_all_frames_and_deltas():
    covered = masked(masks(frequency=(1, 5)), 4000)
    bands = covered[:, 0, 0]
    assert torch.equal(covered, bands[:, None, None].expand_as(covered))
    edges = bands.int().diff(dim=1).abs().sum(dim=1)
    assert edges.max() <= 2
    widths = bands.sum(dim=1)
    shares = torch.bincount(widths, minlength=6) / len(widths)
    # Widths 0 to 5 are equally likely: 1/6 each, with a standard deviation of 0.006.
    assert shares.tolist() == pytest.approx([1 / 6] * 6, abs=0.03)
    assert bands.float().mean(dim=0).min() > 0.02


def test_a_time_mask_is_a_stretch_of_whole_frames():
    covered = masked(masks(time=(1, 8)), 2000)
    frames = covered[:, :, 0, 0]
    assert torch.equal(covered, frames[:, :, None, None].expand_as(covered))
    assert frames.int().diff(dim=1).abs().sum(dim=1).max() <= 2
    assert sorted(set(frames.sum(dim=1).tolist())) == list(range(9))


def test_masks_do_not_depend_on_how_a_minibatch_is_dealt_out():
    layer = masks(frequency=(2, 5), time=(2, 4))
    layer.set_position(7, 0)
    whole = masked(layer, 10)
    layer.set_position(7, 6)
    assert torch.equal(masked(layer, 4), whole[6:])
    layer.set_position(8, 0)
    assert not torch.equal(masked(layer, 10), whole)


def test_nothing_is_masked_outside_of_training():
    windows = torch.randn(3, FRAMES * BANDS * COPIES)
    assert torch.equal(masks(frequency=(2, 5)).eval()(windows), windows)


def test_bands_that_do_not_fit_are_an_error():
    with pytest.raises(RecipeError, match="60 values cannot have 7 bands"):
        SpecAugment(MEAN, bands=7, frequency_masks=1, frequency_width=2, time_masks=0, time_width=0)
