"""Write docs/recipe.md from the options' own names, defaults and descriptions.

python scripts/write_recipe_reference.py            # writes docs/recipe.md
python scripts/write_recipe_reference.py --check    # fails if it is out of date
"""

import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mariana_asr.recipe.schema import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"
INTRODUCTION = """# The recipe

One YAML file describes an experiment. Its sections follow the flow: `corpus`, `features`,
`augmentation`, `lang`, `align`, `model`, `train`, `engine`, `decode`, `score`. Only `corpus` is
required; `name` names the folder of the outputs, `exp/NAME`, and is by default the recipe's own.
Unknown keys are refused, with a guess at what was meant. Relative paths are relative to the
recipe's file. Any key can be overridden on the command line:

    mariana-asr train recipe.yaml model.hidden_dim=2048 train.learning_rate=0.004

Where a section is one of several kinds, `type` says which. In `train` and `engine` a kind with its
defaults may be written as a word: `train.schedule=cosine`, `engine.exchange=bf16`.

`exp/NAME/recipe.yaml` holds the recipe as it was run, with all defaults.

This page is made from the code by `scripts/write_recipe_reference.py`.
"""


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    written: set[tuple[str, Any]] = set()
    for name, field in Recipe.model_fields.items():
        if name != "name":
            parts += _section(name, field, written)
    return "\n".join(parts)


def _section(path: str, field: FieldInfo, written: set[tuple[str, Any]]) -> Iterator[str]:
    # Several kinds may share a section below them.
    if (path, field.annotation) in written:
        return
    written.add((path, field.annotation))
    members = list(_models(field.annotation))
    for member in members:
        is_chosen = len(members) > 1
        tag = next((m for m in ("preparer", "type") if m in member.model_fields), None)
        kinds = get_args(member.model_fields[tag].annotation) if tag else ()
        chosen = " or ".join(f"`{tag}: {kind}`" for kind in kinds)
        yield f"## `{path}`{f' with {chosen}' if is_chosen and chosen else ''}\n"
        if is_chosen and isinstance(field.default, member):
            yield "The default.\n"
        yield _markdown(cleandoc(member.__doc__ or "")) + "\n"
        nested = {n: f for n, f in member.model_fields.items() if list(_models(f.annotation))}
        # The heading says all of a kind that has one name.
        said = {tag} if is_chosen and len(kinds) == 1 else set()
        rows = [
            (n, f)
            for n, f in member.model_fields.items()
            if n not in said and (n not in nested or len(list(_models(f.annotation))) > 1)
        ]
        if rows:
            yield _table(rows)
        for name, below in nested.items():
            yield from _section(f"{path}.{name}", below, written)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The options classes that a field's type stands for, through unions and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in get_args(annotation):
        yield from _models(part)


def _table(fields: list[tuple[str, FieldInfo]]) -> str:
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, field in fields:
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else f"`{_shown(value)}`"
        description = " ".join(_markdown(field.description or "").split())
        lines.append(f"| `{field.alias or name}` | {default} | {description} |")
    return "\n".join(lines) + "\n"


def _markdown(docstring: str) -> str:
    return docstring.replace("``", "`")


def _shown(value: Any) -> str:
    if isinstance(value, BaseModel):  # one of several kinds, which have sections of their own
        value = getattr(value, "type", value)
    text = "null" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= 60 else text[:57] + "..."


def main() -> None:
    """Write the page, or check it."""
    page = reference()
    if "--check" not in sys.argv:
        PAGE.write_text(page, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"{PAGE} is out of date: run {sys.argv[0]}")


if __name__ == "__main__":
    main()
