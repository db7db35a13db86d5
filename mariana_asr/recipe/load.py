"""Reading a recipe: YAML, overrides, and paths made absolute."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from mariana_asr.errors import RecipeError
from mariana_asr.options import parse_assignments, set_key, validated
from mariana_asr.recipe.schema import Recipe

OptionsT = TypeVar("OptionsT", bound=BaseModel)


def load_recipe(
    path: str | Path, overrides: Iterable[str] = (), changes: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe and check it.

    Relative paths in a recipe, and in what overrides it, are relative to the folder of its file,
    so that it means the same from wherever it is started.

    Args:
        path: The recipe's file.
        overrides: ``section.key=value`` words that override it.
        changes: Key paths (``section.key``) and their values, which override both.

    Raises:
        RecipeError: The file is missing, is not YAML, or does not fit the schema; all problems
            at once, each with its key path, what was given and what is allowed.
    """
    path = Path(path)
    tree = read_yaml(path, "a recipe", "sections such as corpus, features and model")
    for keys, value in parse_assignments(overrides):
        set_key(tree, keys, value)
    for key, value in (changes or {}).items():
        set_key(tree, key.split("."), deepcopy(value))
    tree.setdefault("name", path.stem if path.stem != "recipe" else path.resolve().parent.name)
    recipe = validated(Recipe, tree, str(path))
    return _with_absolute_paths(recipe, path.resolve().parent)


def recipe_text(recipe: Recipe) -> str:
    """The whole recipe with all defaults, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path, what: str, expected: str) -> dict[str, Any]:
    """Read a YAML file that holds keys and values.

    Args:
        path: The file.
        what: What it should be, for an error's message.
        expected: What it should hold.

    Raises:
        RecipeError: It is missing or is something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.load(file, Loader=_UniqueKeyLoader)
    except OSError as error:
        raise RecipeError(f"cannot read: {error.strerror}", where=path) from error
    except UnicodeDecodeError as error:
        raise RecipeError("not UTF-8", where=path) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"not YAML: {error.problem}", where=f"{path}:{line}") from error
    if not isinstance(tree, dict):
        raise RecipeError(
            f"not {what}: expected {expected}",
            where=path,
            remedy="recipes/ has examples",
        )
    return tree


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which plain YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key_node.value!r} is given twice",
                        problem_mark=key_node.start_mark,
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _with_absolute_paths(options: OptionsT, base: Path) -> OptionsT:
    """Copy options with every relative Path in them joined to ``base``."""
    changes = {name: _absolute(getattr(options, name), base) for name in type(options).model_fields}
    return options.model_copy(update=changes)


def _absolute(value: Any, base: Path) -> Any:
    if isinstance(value, Path):
        return base / value.expanduser()
    if isinstance(value, BaseModel):
        return _with_absolute_paths(value, base)
    if isinstance(value, dict):
        return {key: _absolute(below, base) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_absolute(below, base) for below in value)
    return value
