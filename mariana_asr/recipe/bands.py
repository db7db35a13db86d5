"""What networks with convolutions over frequency are told about their features."""

from collections.abc import Mapping
from typing import Any

from mariana_asr.errors import RecipeError
from mariana_asr.nnet.options import BandedFramesOptions, ModelOptions


def with_bands(
    model: ModelOptions, features: Mapping[str, Any] | None, feature_dim: int
) -> ModelOptions:
    """Check that a network that needs frequency bands gets them, and tell it where they end.

    Args:
        model: Any network; others than those are given back as they are.
        features: Options of the features that it is given, or None if these are not known.
        feature_dim: Values a frame of these features, before deltas.

    Returns:
        The options with ``other_values`` filled in.

    Raises:
        RecipeError: The features are no bands.
    """
    if not isinstance(model, BandedFramesOptions) or features is None:
        return model
    energy_first = bool(features.get("use_energy")) and not features.get("htk_compat")
    if features.get("type") != "fbank" or energy_first:
        given = f"{features.get('type')}{', of which energy is the first' if energy_first else ''}"
        raise RecipeError(
            f"the filters of type: {model.type} slide over frequency bands, and its features are "
            f"{given}",
            where="model",
            remedy="Give it a filter bank of its own: model.features: {type: fbank, "
            "num_mel_bins: 40}",
        )
    if model.other_values is not None:
        return model
    return model.model_copy(update={"other_values": feature_dim - features["num_mel_bins"]})
