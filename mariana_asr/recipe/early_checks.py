"""What is looked at before the first stage, so that it does not fail hours later."""

from mariana_asr.align.utterances import GmmAcousticModel
from mariana_asr.features.augmentation.noises import check_recordings
from mariana_asr.nnet.options import BandedFramesOptions, CustomOptions
from mariana_asr.recipe.bands import with_bands
from mariana_asr.recipe.kaldi_import import kaldi_model_dir
from mariana_asr.recipe.schema import Recipe

TRIED_OUTPUTS = 100
"""Outputs of the network by which a class is tried out, before the number of pdfs is known."""


def check_early(recipe: Recipe) -> None:
    """Try out the network, and look for recordings of noise and rooms.

    Raises:
        RecipeError: The network cannot be made, or does not fit its features.
        DataError: There are no such recordings.
    """
    _check_network(recipe)
    if recipe.augmentation is not None:
        check_recordings(recipe.augmentation)


def _check_network(recipe: Recipe) -> None:
    model = recipe.model
    if isinstance(model, BandedFramesOptions):
        if model.features is None and recipe.corpus.preparer == "kaldi_dirs":
            return  # these may have features already, of whatever kind
        features = model.features or recipe.features
        model = with_bands(model, features.model_dump(), features.dim)
    elif not isinstance(model, CustomOptions):
        return
    # Only here: this imports torch, and may run code that is not ours.
    from mariana_asr.nnet.build import build_network

    build_network(model, _frame_dim(recipe), TRIED_OUTPUTS)


def _frame_dim(recipe: Recipe) -> int:
    """Values a frame that the network is given."""
    model, align = recipe.model, recipe.align
    if not model.adapted:
        return model.transform.dim((model.features or recipe.features).dim)
    dim = 0 if model.features is None else model.transform.dim(model.features.dim)
    if align.kaldi is not None:
        return dim + GmmAcousticModel.load(kaldi_model_dir(align.kaldi)).front_end.dim
    if align.tri2 is not None:
        return dim + align.tri2.dim
    return dim + (align.tri1 or align.mono).transform.dim(recipe.features.dim)
