"""The base of every set of options, and how ``key=value`` words on a command line fill one."""

import difflib
from collections.abc import Callable, Iterable, Mapping
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


def narrowed(options: BaseModel, cls: type[OptionsT]) -> OptionsT:
    """The part of some options that a class they extend knows: what its code is given.

    Raises:
        TypeError: They do not extend that class.
    """
    if not isinstance(options, cls):
        raise TypeError(f"{type(options).__name__} does not extend {cls.__name__}")
    return cls(**{name: getattr(options, name) for name in cls.model_fields})


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
    return validated(cls, assignment_tree(assignments), "command line")


def assignment_tree(assignments: Iterable[str]) -> dict[str, Any]:
    """Make the tree of values that ``key.path=value`` words set.

    Raises:
        RecipeError: A word cannot be read.
    """
    tree: dict[str, Any] = {}
    for path, value in parse_assignments(assignments):
        set_key(tree, path, value)
    return tree


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
        problems = [_explain(details, cls, tree) for details in error.errors()]
        lines = list(dict.fromkeys(problems))
        text = lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)
        raise RecipeError(text, where=where) from error


def default_tag(key: str, tag: str) -> Callable[[Any], Any]:
    """Make a validator that gives a mapping without ``key`` the value ``tag`` there.

    It lets the member of a union be left out of a recipe where one member is the usual one.
    """

    def fill(value: Any) -> Any:
        return {key: tag, **value} if isinstance(value, Mapping) else value

    return fill


def tag_alone(key: str, tag: str) -> Callable[[Any], Any]:
    """As :func:`default_tag`; and a single word stands for the mapping with that tag alone."""
    fill = default_tag(key, tag)
    return lambda value: {key: value} if isinstance(value, str) else fill(value)


def _explain(details: Any, cls: type[BaseModel], tree: Mapping[str, Any]) -> str:
    """Say one problem of a validation as ``key.path: what was given, what is allowed``."""
    location = [str(part) for part in details["loc"]]
    missing = location[-1:] if details["type"] == "missing" else []
    path = ".".join(_given_keys(location, tree) + missing)
    if details["type"] == "extra_forbidden":
        allowed = sorted(_allowed_keys(cls, location[:-1]))
        close = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{path}: unknown key{hint} (allowed: {', '.join(allowed)})"
    if missing:
        return f"{path}: required, but not given"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if details["type"] == "value_error" and isinstance(details["input"], Mapping | BaseModel):
        # A check over several options: its message names those at fault.
        return f"{path}: {message}" if path else message
    return f"{path}: {details['input']!r} given, but it {message}"


def _given_keys(location: list[str], tree: Any) -> list[str]:
    """The keys that the user wrote: a location without pydantic's names of union members."""
    keys = []
    for part in location:
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            continue
        keys.append(part)
    return keys


def _allowed_keys(cls: type[BaseModel], location: list[str]) -> set[str]:
    """Names of the keys allowed at a location of an options class."""
    schema = cls.model_json_schema()
    candidates = _members(schema, schema.get("$defs", {}))
    for part in location:
        below = [
            schema["properties"][part] for schema in candidates if part in schema["properties"]
        ] or [
            schema["additionalProperties"]
            for schema in candidates
            if isinstance(schema.get("additionalProperties"), dict)
        ]
        definitions = schema.get("$defs", {})
        if below:
            candidates = [m for member in below for m in _members(member, definitions)]
        else:  # the part names a member of a union by its tag
            candidates = [
                member
                for member in candidates
                if any(value.get("const") == part for value in member["properties"].values())
            ]
    return {key for member in candidates for key in member["properties"]}


def _members(schema: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The object schemas that a schema stands for: through references, unions and optionals."""
    if "$ref" in schema:
        return _members(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    branches = [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])]
    if branches:
        return [member for branch in branches for member in _members(branch, definitions)]
    return [{"properties": {}, **schema}]
