"""docs/features.md: its recipes and commands are valid, and the stages that it names exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mariana_asr.cli.main import main
from mariana_asr.features.options import feature_options
from mariana_asr.options import assignment_tree, validated
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.schema import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    mariana-asr (.*)$", PAGE, re.MULTILINE)


def recipe_of(text: str) -> Recipe:
    tree = {"name": "page", "corpus": {"preparer": "an4"}, **yaml.safe_load(text)}
    return validated(Recipe, tree, "docs/features.md")


@pytest.mark.parametrize("text", RECIPES)
def test_every_recipe_on_the_page_is_valid(text: str) -> None:
    recipe_of(text)


@pytest.mark.parametrize("text", COMMANDS)
def test_every_command_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(text)
    for word in words:
        if "=" not in word and not word.startswith("-"):
            Path(word).mkdir(parents=True, exist_ok=True)
    command = main.get_command(main.make_context("mariana-asr", [], resilient_parsing=True), name)
    assert command is not None
    context = command.make_context(name, words)
    if name == "features":
        feature_options(assignment_tree(context.params["assignments"]))


def test_the_stages_that_the_page_names_exist(tmp_path: Path) -> None:
    adapted = [recipe for recipe in map(recipe_of, RECIPES) if recipe.model.adapted]
    assert len(adapted) == 2
    alone, both = (
        [s.name for s in Experiment(recipe, tmp_path, jobs=1, allow_pipes=False).stages()]
        for recipe in adapted
    )
    assert "features_net" not in alone
    assert "features_net" in both
    for name in ("features_net", "frames", "ali", "decode_tri3", "decode_dnn"):
        assert f"`{name}" in PAGE
        assert name in both
