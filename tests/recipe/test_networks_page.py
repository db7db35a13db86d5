"""docs/networks.md: its recipes make networks, its code runs, and it names every kind."""

import re
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.custom import build_custom_network
from mariana_asr.nnet.options import CustomOptions, ModelOptions
from mariana_asr.options import validated
from mariana_asr.recipe.schema import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def recipe_of(text: str) -> Recipe:
    tree = {"name": "page", "corpus": {"preparer": "an4"}, **yaml.safe_load(text)}
    return validated(Recipe, tree, "docs/networks.md")


@pytest.mark.parametrize("text", [text for text in blocks("yaml") if "class:" not in text])
def test_every_recipe_on_the_page_makes_a_network(text: str) -> None:
    recipe = recipe_of(text)
    model = recipe.model
    assert not model.adapted
    frame_dim = model.transform.dim((model.features or recipe.features).dim)
    network = build_network(model, frame_dim, 10)
    assert (network.frame_dim, network.num_outputs) == (frame_dim, 10)


def test_every_kind_is_in_the_table() -> None:
    for options in get_args(get_args(ModelOptions)[0]):
        (kind,) = get_args(options.model_fields["type"].annotation)
        assert f"| `{kind}` |" in PAGE


def test_the_network_of_ones_own_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    (tmp_path / "my_networks.py").write_text(code)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    (text,) = [text for text in blocks("yaml") if "class:" in text]
    model = recipe_of(text).model
    assert isinstance(model, CustomOptions)
    network = build_custom_network(model, 39, 10)
    assert network.output.in_features == 128
    network.set_input_statistics(np.arange(39.0), np.full(39, 2.0))
    assert network.mean[5] == 5.0
    sys.modules.pop("my_networks")
