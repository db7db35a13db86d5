"""docs/training.md: its recipes are valid, its code runs, and it leaves no key of the log out."""

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from mariana_asr.engine.exchange.meter import ExchangeFigures
from mariana_asr.engine.frames.packing import pack_frames
from mariana_asr.engine.options import (
    CosineOptions,
    EngineOptions,
    TrainOptions,
    exchanges,
    optimisers,
    pretraining,
    schedules,
)
from mariana_asr.engine.training.totals import Totals
from mariana_asr.engine.training.train import train_network
from mariana_asr.options import validated
from mariana_asr.recipe.schema import NetworkSections, Recipe, TrainSection

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_recipe_on_the_page_is_valid(text: str) -> None:
    tree = yaml.safe_load(text)
    validated(Recipe, {"name": "page", "corpus": {"preparer": "an4"}, **tree}, "docs/training.md")
    # What needs decoding is for recipes alone.
    recipes_alone = TrainSection.model_fields.keys() - TrainOptions.model_fields.keys()
    for key in recipes_alone & tree.get("train", {}).keys():
        del tree["train"][key]
    options = validated(NetworkSections, tree, "docs/training.md")
    # Each says something, and not only what the defaults are.
    assert set(tree) <= {"train", "engine", "model"}
    assert options != NetworkSections() or tree == {"engine": {"workers": "auto"}}


@pytest.mark.parametrize(
    "module", [exchanges, optimisers, pretraining, schedules], ids=lambda module: module.__name__
)
def test_every_kind_is_named(module) -> None:
    for name in dir(module):
        options = getattr(module, name)
        kinds = getattr(options, "model_fields", {}).get("type")
        if kinds is not None:
            for kind in get_args(kinds.annotation):
                assert f"`{kind}`" in PAGE


def test_options_that_the_page_names_exist() -> None:
    sections = {"train": TrainSection, "engine": EngineOptions}
    named = re.findall(r"`(train|engine)\.(\w+)", PAGE)
    assert len(named) > 10
    for section, option in named:
        assert option in sections[section].model_fields


def test_the_page_explains_every_key_of_the_log_and_its_network_trains(tmp_path: Path) -> None:
    def utterances():
        rng = np.random.default_rng(0)
        for number in range(5):
            targets = rng.integers(0, 4, 20)
            yield f"u{number}", np.eye(4, 3, dtype=np.float32)[targets], targets

    stores = [pack_frames(tmp_path / name, utterances(), num_outputs=4) for name in ("a", "b")]
    (code,) = blocks("python")
    names: dict = {}
    exec(code, names)
    options = TrainOptions(schedule=CosineOptions(epochs=1), minibatch_size=10)
    train_network(names["Linear"](3, 4), *stores, options, tmp_path, EngineOptions(workers=1))
    keys = set()
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        keys |= json.loads(line).keys()
    exchange = ExchangeFigures(steps=1, busy_seconds=1.0)
    keys |= Totals(exchange=exchange).record().keys() | {"exchange"}
    explained = set()
    for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE):
        explained |= set(re.findall(r"`(\w+)`", row))
    assert keys <= explained
