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

One YAML file describes an experiment. Its sections follow the flow: `corpus`, `features`, `lang`,
`align`, `model`, `train`, `decode`, `score`. Only `corpus` is required; `name` names the folder of
the outputs, `exp/NAME`, and is by default the recipe's own. Unknown keys are refused, with a guess
at what was meant. Relative paths are relative to the recipe's file. Any key can be overridden on
the command line:

    mariana-asr train recipe.yaml model.hidden_dim=2048 train.learning_rate=0.004

`exp/NAME/recipe.yaml` holds the recipe as it was run, with all defaults.

This page is made from the code by `scripts/write_recipe_reference.py`.
"""


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, field in Recipe.model_fields.items():
        if name != "name":
            parts += _section(name, field)
    return "\n".join(parts)


def _section(path: str, field: FieldInfo) -> Iterator[str]:
    members = list(_models(field.annotation))
    for member in members:
        tag = next((m for m in ("preparer", "type") if m in member.model_fields), None)
        chosen = f" with `{tag}: {member.model_fields[tag].default}`" if tag else ""
        yield f"## `{path}`{chosen if len(members) > 1 else ''}\n"
        yield _markdown(cleandoc(member.__doc__ or "")) + "\n"
        nested = {n: f for n, f in member.model_fields.items() if list(_models(f.annotation))}
        plain = [(n, f) for n, f in member.model_fields.items() if n not in nested]
        if plain:
            yield _table(plain)
        for name, below in nested.items():
            yield from _section(f"{path}.{name}", below)


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
        default = "required" if field.is_required() else f"`{_shown(field.get_default())}`"
        description = " ".join(_markdown(field.description or "").split())
        lines.append(f"| `{name}` | {default} | {description} |")
    return "\n".join(lines) + "\n"


def _markdown(docstring: str) -> str:
    return docstring.replace("``", "`")


def _shown(value: Any) -> str:
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
