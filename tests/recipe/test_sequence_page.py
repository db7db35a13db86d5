"""docs/sequence.md: its recipes are valid, and the options and stages that it names exist."""

import re
from pathlib import Path

import pytest
import yaml

from mariana_asr.options import validated
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.schema import LatticeSection, Recipe, SequenceSection

PAGE = (Path(__file__).parents[2] / "docs" / "sequence.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def recipe_of(text: str) -> Recipe:
    tree = {"name": "page", "corpus": {"preparer": "an4"}, **yaml.safe_load(text)}
    return validated(Recipe, tree, "docs/sequence.md")


@pytest.mark.parametrize("text", RECIPES)
def test_every_recipe_on_the_page_is_valid(text: str) -> None:
    assert recipe_of(text).networks == ["dnn", "dnn_seq"]


def test_every_stage_is_in_the_table(tmp_path: Path) -> None:
    experiment = Experiment(recipe_of(RECIPES[0]), tmp_path, jobs=1, allow_pipes=False)
    stages = {stage.name for stage in experiment.stages() if stage.name.endswith("_seq")}
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+_seq)`", row)} == stages


def test_options_that_the_page_names_exist() -> None:
    named = re.findall(r"`lattices\.(\w+)", PAGE)
    assert len(named) >= 3
    assert set(named) <= LatticeSection.model_fields.keys()
    for name in ("drop_frames", "boost", "acoustic_scale", "utterances_per_step", "realign"):
        assert f"`{name}" in PAGE
        assert name in SequenceSection.model_fields
