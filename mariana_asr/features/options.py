"""The kinds of features that a recipe can ask for."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from mariana_asr.errors import RecipeError
from mariana_asr.features.fbank import FbankOptions
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.options import validated

FeatureOptions = Annotated[MfccOptions | FbankOptions, Field(discriminator="type")]
"""Options of any kind of features; ``type`` says which."""

_KINDS: dict[str, type[MfccOptions] | type[FbankOptions]] = {
    "mfcc": MfccOptions,
    "fbank": FbankOptions,
}


def feature_options(
    tree: Mapping[str, Any], where: str = "command line"
) -> MfccOptions | FbankOptions:
    """Check plain values (from a command line or ``features.json``) as feature options.

    Args:
        tree: Option names to values; ``type`` picks the kind and is ``mfcc`` if left out.
        where: What to call the place of the values in an error.

    Raises:
        RecipeError: No such kind, an unknown option or a bad value.
    """
    kind = tree.get("type", "mfcc")
    if kind not in _KINDS:
        raise RecipeError(
            f"type: given {kind!r}, which is no kind of features",
            where=where,
            remedy=f"Choose one of {', '.join(_KINDS)}",
        )
    return validated(_KINDS[kind], tree, where)
