"""docs/sweeps.md: its variants and commands are valid, and it leaves no option out."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mariana_asr.cli.sweep import command
from mariana_asr.recipe.load import load_recipe
from mariana_asr.recipe.sweep import Sweep
from mariana_asr.recipe.variants import make_variants

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [
    text.replace("\\\n", " ")
    for text in re.findall(r"^    (mariana-asr sweep (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
]


def sweep_of(folder: Path, vary: tuple[str, ...] = (), named: Path | None = None) -> Sweep:
    recipe = ROOT / "recipes" / "fsdd" / "recipe.yaml"
    variants = make_variants(vary, named)
    return Sweep(recipe, [], variants, [], folder, jobs=1, allow_pipes=False)


@pytest.mark.parametrize("text", BLOCKS)
def test_every_file_of_variants_changes_a_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "variants.yaml"
    path.write_text(text)
    sweep = sweep_of(tmp_path, named=path)
    assert [run.variant.name for run in sweep.runs] == list(yaml.safe_load(text))
    recipe = ROOT / "recipes" / "fsdd" / "recipe.yaml"
    as_it_is = load_recipe(recipe).model_copy(update={"name": "x"})
    for run in sweep.runs:
        changed = run.experiment.recipe.model_copy(update={"name": "x"})
        # jackson is the recipe's own test speaker, with another speaker for dev.
        assert (changed == as_it_is) == (not run.variant.changes), run.variant.name


@pytest.mark.parametrize("text", COMMANDS)
def test_every_command_is_one(tmp_path: Path, text: str) -> None:
    _, _, *words = shlex.split(text)
    for name in ("recipe.yaml", "variants.yaml", "speakers.yaml"):
        (tmp_path / name).touch()
    words = [
        str(tmp_path / Path(word).name) if word.endswith(".yaml") and "=" not in word else word
        for word in words
    ]
    context = command.make_context("sweep", words)
    sweep_of(tmp_path, context.params["vary"])


def test_there_are_commands_and_variants() -> None:
    assert len(COMMANDS) == 3
    assert len(BLOCKS) == 2


def test_no_option_is_left_out() -> None:
    own = [name for parameter in command.params for name in parameter.opts if name[:2] == "--"]
    elsewhere = {"--exp", "--jobs", "--allow-pipes"}
    assert [name for name in own if name not in elsewhere and f"{name}" not in PAGE] == []
