"""The base of every set of options, and how ``key=value`` words on a command line fill one."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mariana_asr.errors import RecipeError

OptionsT = TypeVar("OptionsT", bound=BaseModel)


class Options(BaseModel):
    """A set of options: immutable, and a key it does not know is an error.

    Each room declares its options beside the code they steer; the recipe's schema is made of
    these same classes, so an option has one name, one default and one description.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def parse_assignments(assignments: Iterable[str]) -> list[tuple[list[str], Any]]:
    """Parse ``a.b=value`` words into key paths and values; values are read as YAML.

    Raises:
        RecipeError: A word has no ``=`` or an empty key, or its value is not YAML.
    """
    parsed = []
    for word in assignments:
        key, equals, value = word.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise RecipeError(
                f"{word!r} is not of the form key=value",
                where="command line",
                remedy="Write for example train.learning_rate=0.004",
            )
        try:
            parsed.append((path, yaml.safe_load(value)))
        except yaml.YAMLError as error:
            raise RecipeError(f"the value in {word!r} is not YAML", where="command line") from error
    return parsed


def options_from_assignments(cls: type[OptionsT], assignments: Iterable[str]) -> OptionsT:
    """Fill an options class from ``key=value`` words.

    Raises:
        RecipeError: A word cannot be read, names no option of ``cls``, or has a bad value.
    """
    tree: dict[str, Any] = {}
    for path, value in parse_assignments(assignments):
        set_key(tree, path, value)
    return validated(cls, tree, "command line")


def set_key(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set ``tree[path[0]][path[1]]... = value``, making the mappings on the way.

    Raises:
        RecipeError: Something on the way is not a mapping.
    """
    for depth, key in enumerate(path[:-1]):
        below = tree.setdefault(key, {})
        if below is None:
            below = tree[key] = {}
        if not isinstance(below, dict):
            raise RecipeError(
                f"{'.'.join(path[: depth + 1])} is {below!r}, not a section with keys of its own",
                where=".".join(path),
            )
        tree = below
    tree[path[-1]] = value


def validated(cls: type[OptionsT], tree: Mapping[str, Any], where: str) -> OptionsT:
    """Check a tree of plain values against an options class.

    Raises:
        RecipeError: One line a problem: the key path, what was given, and what is allowed.
    """
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(explain(error, cls), where=where) from error


def explain(error: ValidationError, cls: type[BaseModel]) -> str:
    """Say each problem of a validation as ``key.path: what was given, what is allowed``."""
    import difflib

    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        path = ".".join(location)
        given = problem.get("input")
        if problem["type"] == "extra_forbidden":
            allowed = sorted(_keys_at(cls, location[:-1]))
            close = difflib.get_close_matches(location[-1], allowed, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            lines.append(f"{path}: unknown key{hint} (allowed: {', '.join(allowed)})")
        elif problem["type"] == "missing":
            lines.append(f"{path}: required, but not given")
        else:
            lines.append(f"{path}: given {given!r}; {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines) if len(lines) == 1 else "\n  " + "\n  ".join(lines)


def _keys_at(cls: type[BaseModel], location: list[str]) -> set[str]:
    """Names of the keys allowed at a location of a schema, through unions and optionals."""
    schema = cls.model_json_schema()
    definitions = schema.get("$defs", {})
    candidates = [schema]
    for part in location:
        following: list[dict[str, Any]] = []
        for candidate in candidates:
            for variant in _variants(candidate, definitions):
                if part in variant.get("properties", {}):
                    following.append(variant["properties"][part])
                elif isinstance(variant.get("additionalProperties"), dict):
                    following.append(variant["additionalProperties"])
                elif "items" in variant:
                    following.append(variant["items"])
                else:
                    # pydantic names the chosen variant of a discriminated union in the location.
                    following.append(variant)
        candidates = following
    return {
        key
        for candidate in candidates
        for variant in _variants(candidate, definitions)
        for key in variant.get("properties", {})
    }


def _variants(schema: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in schema:
        return _variants(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    branches = [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])]
    return [v for branch in branches for v in _variants(branch, definitions)] or [schema]
