"""What ``features.json`` says of a data directory's features, and how two of them compare."""

from pathlib import Path
from typing import Any

from mariana_asr.corpus.datadir import FEATURES_FILE
from mariana_asr.errors import FormatError, RecipeError
from mariana_asr.features.options import feature_options
from mariana_asr.files import read_json

Settings = dict[str, Any]
"""The options of features, and their kind as ``type``."""

JOINED = "joined"
"""The kind of features that are two kinds side by side."""

PARTS = ("first", "second")
"""Under these keys the settings of joined features hold those of the two kinds, each None where
they are not known."""

_HARMLESS_KEYS = frozenset({"allow_downsample", "allow_upsample"})
"""Options that say which audio is accepted, not what the features of accepted audio are."""


def read_feature_settings(data_dir: str | Path) -> Settings | None:
    """Options that a data directory's features were computed with; None if Kaldi made them.

    Raises:
        FormatError: ``features.json`` is damaged.
    """
    path = Path(data_dir) / FEATURES_FILE
    if not path.exists():
        return None
    settings = read_json(path)
    if not isinstance(settings, dict) or (
        settings.get("type") == JOINED
        and not all(isinstance(settings.get(part, 0), dict | None) for part in PARTS)
    ):
        raise FormatError("expected the options of the features", where=path)
    return settings


def joined_settings(first: Settings | None, second: Settings | None) -> Settings:
    """The settings of features of two kinds side by side."""
    return {"type": JOINED, **dict(zip(PARTS, (first, second), strict=True))}


def settings_of_parts(settings: Settings | None) -> tuple[Settings | None, Settings | None] | None:
    """The settings of both kinds of joined features; None if the features are of one kind."""
    if settings is None or settings.get("type") != JOINED:
        return None
    first, second = (settings[part] for part in PARTS)
    return first, second


def compare_settings(one: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    """Options that differ between two ``features.json``, with both values.

    Options that only say which audio is accepted do not count, nor do those of a kind of joined
    features that one side does not know.
    """
    ones, others = settings_of_parts(one), settings_of_parts(other)
    if ones is not None and others is not None:
        return {
            f"{name}.{key}": values
            for name, mine, theirs in zip(PARTS, ones, others, strict=True)
            if mine is not None and theirs is not None
            for key, values in compare_settings(mine, theirs).items()
        }
    if ones is not None or others is not None:
        return {"type": (one.get("type"), other.get("type"))}
    one, other = _with_defaults(one), _with_defaults(other)
    return {
        key: (one.get(key), other.get(key))
        for key in sorted((one.keys() | other.keys()) - _HARMLESS_KEYS)
        if one.get(key) != other.get(key)
    }


def _with_defaults(settings: Settings) -> Settings:
    """Add options that came into being after the settings were written, where that can be told."""
    try:
        return feature_options(settings).model_dump()
    except RecipeError:
        return settings
