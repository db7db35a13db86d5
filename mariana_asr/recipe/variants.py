"""Variants of a recipe: every combination of some values, or named sets of changes."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from mariana_asr.errors import RecipeError
from mariana_asr.recipe.load import read_yaml

NAMED = "variants"
"""Stands for the choice among the named variants where others are choices of a key's value."""

_LONGEST_NAME = 150
"""Characters of a folder's name: systems allow 255 bytes, and the seed is to come."""

_FOLDER_NAME = r"\w[\w.+-]*"

Choice = tuple[str, str, Mapping[str, Any]]
"""Words for a table, a folder's name, and what is changed: key paths and their values."""


@dataclass(frozen=True)
class Variant:
    """A recipe with some changes.

    Attributes:
        name: Its name as part of a folder's name.
        label: Its name in a table.
        changes: Key paths (``section.key``) and the values that they get.
        choices: What was chosen of each thing varied: a key path with its value in words, or
            ``variants`` with the name of a named variant.
    """

    name: str
    label: str
    changes: Mapping[str, Any]
    choices: Mapping[str, str]

    def label_without(self, keys: Sequence[str]) -> str:
        """The label of the choices that are left without some of them."""
        left = {key: value for key, value in self.choices.items() if key not in keys}
        return _label(left) if left else "all"


def make_variants(vary: Sequence[str], named: Path | None = None) -> list[Variant]:
    """Combine each value of what is varied with each of everything else.

    Args:
        vary: ``section.key=VALUE,VALUE,...`` words; values are YAML, such as ``[a,b],[c]``.
        named: A YAML file of named variants, ``name: {section.key: value, ...}``.

    Returns:
        The variants, the last key changing fastest; one without changes where nothing is varied.

    Raises:
        RecipeError: A word or the file cannot be read, something is varied twice, or two variants
            would have the same name.
    """
    varied = [_parse_vary(word) for word in vary]
    keys = [key for key, _ in varied]
    if twice := [key for key, number in Counter(keys).items() if number > 1]:
        raise RecipeError(f"{twice[0]} is varied twice", where="command line")
    axes: dict[str, list[Choice]] = {NAMED: _read_named(named)} if named is not None else {}
    for key, values in varied:
        axes[key] = [
            (_words(value), f"{_short(key, keys)}-{_slug(value)}", {key: value}) for value in values
        ]
    variants = [
        Variant(
            name="+".join(name for _, name, _ in choices) or "base",
            label=_label(dict(zip(axes, (words for words, _, _ in choices), strict=True))),
            changes={key: value for _, _, changes in choices for key, value in changes.items()},
            choices=dict(zip(axes, (words for words, _, _ in choices), strict=True)),
        )
        for choices in product(*axes.values())
    ]
    _check_names([variant.name for variant in variants])
    return variants


def _parse_vary(word: str) -> tuple[str, list[Any]]:
    key, equals, text = word.partition("=")
    key = key.strip()
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise RecipeError(f"the values in {word!r} are not YAML", where="command line") from error
    if not equals or not all(key.split(".")) or not values:
        raise RecipeError(
            f"{word!r} is not of the form key=value,value,...",
            where="command line",
            remedy="Write for example model.hidden_dim=256,512,1024",
        )
    if key == "name":
        raise RecipeError("variants have names of their own: leave name out", where="command line")
    return key, values


def _read_named(path: Path) -> list[Choice]:
    tree = read_yaml(path, "a file of variants", "`name: {section.key: value}` lines")
    for name, changes in tree.items():
        if not isinstance(name, str) or not re.fullmatch(_FOLDER_NAME, name):
            raise RecipeError(
                f"{name!r} is no name of a variant",
                where=path,
                remedy="Use letters, digits and . _ + - (it names a folder)",
            )
        is_map = isinstance(changes, dict) and all(isinstance(key, str) for key in changes)
        if not is_map or "name" in changes:
            raise RecipeError(
                f"expected key paths and values, found {changes!r}",
                where=f"{path}: {name}",
                remedy="Write for example `wide: {model.hidden_dim: 1024}`, or {} for no change",
            )
    if not tree:
        raise RecipeError("it names no variant", where=path)
    return [(name, name, changes) for name, changes in tree.items()]


def _check_names(names: list[str]) -> None:
    remedy = "Give the variants names in a file (--variants)"
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise RecipeError(f"two variants would be named {twice[0]}", remedy=remedy)
    if too_long := [name for name in names if len(name) > _LONGEST_NAME]:
        raise RecipeError(f"the name {too_long[0]} is too long for a folder", remedy=remedy)


def _label(choices: Mapping[str, str]) -> str:
    keys = [key for key in choices if key != NAMED]
    words = [
        value if key == NAMED else f"{_short(key, keys)}={value}" for key, value in choices.items()
    ]
    return ", ".join(words) or "base"


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key path, where no other ends alike."""
    last = key.rsplit(".", 1)[-1]
    return last if sum(other.rsplit(".", 1)[-1] == last for other in keys) == 1 else key


def _words(value: Any) -> str:
    """A value as it is written in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _slug(value: Any) -> str:
    """A value as part of a folder's name."""
    words = _words(value)
    slug = re.sub(r"[^\w.-]+", "-", words).rstrip("-")
    return (slug if words.startswith("-") else slug.lstrip("-")) or "empty"
