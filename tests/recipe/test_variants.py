"""Variants of a recipe: their names, their changes, and what cannot be one."""

from pathlib import Path

import pytest

from mariana_asr.errors import RecipeError
from mariana_asr.recipe.load import load_recipe
from mariana_asr.recipe.variants import Variant, make_variants


def labels(variants: list[Variant]) -> list[str]:
    return [variant.label for variant in variants]


def test_every_value_is_combined_with_every_other_the_last_changing_fastest() -> None:
    variants = make_variants(["model.left_context=3,5", "model.type=dnn,tdnn"])
    assert labels(variants) == [
        "left_context=3, type=dnn",
        "left_context=3, type=tdnn",
        "left_context=5, type=dnn",
        "left_context=5, type=tdnn",
    ]
    assert variants[1].changes == {"model.left_context": 3, "model.type": "tdnn"}
    assert variants[1].choices == {"model.left_context": "3", "model.type": "tdnn"}
    assert variants[1].name == "left_context-3+type-tdnn"
    assert variants[1].label_without(["model.type"]) == "left_context=3"
    assert variants[1].label_without(["model.type", "model.left_context"]) == "all"


def test_values_are_yaml_with_lists_and_mappings_of_their_own() -> None:
    words = ["corpus.test_speakers=[a, b],[c]", "train.schedule={type: cosine, epochs: 3},newbob"]
    variants = make_variants(words)
    assert [tuple(variant.changes.values()) for variant in variants] == [
        (["a", "b"], {"type": "cosine", "epochs": 3}),
        (["a", "b"], "newbob"),
        (["c"], {"type": "cosine", "epochs": 3}),
        (["c"], "newbob"),
    ]
    assert variants[0].name == "test_speakers-a-b+schedule-epochs-3-type-cosine"
    assert variants[3].label == "test_speakers=[c], schedule=newbob"


def test_values_keep_their_types() -> None:
    (variant, *others) = make_variants(["a.b=1,0.5,-2,true,null,'7'"])
    values = [v.changes["a.b"] for v in (variant, *others)]
    assert values == [1, 0.5, -2, True, None, "7"]
    assert [type(value) for value in values] == [int, float, int, bool, type(None), str]
    assert others[1].name == "b--2"


def test_keys_that_end_alike_are_named_in_full() -> None:
    (variant,) = make_variants(["train.seed=1", "corpus.seed=2"])
    assert variant.label == "train.seed=1, corpus.seed=2"
    assert variant.name == "train.seed-1+corpus.seed-2"


def test_named_variants_are_combined_with_values(tmp_path: Path) -> None:
    path = tmp_path / "named.yaml"
    path.write_text("baseline: {}\nwide: {model.hidden_dim: 1024, train.learning_rate: 0.002}\n")
    variants = make_variants(["features.use_energy=false,true"], path)
    assert labels(variants) == [
        "baseline, use_energy=false",
        "baseline, use_energy=true",
        "wide, use_energy=false",
        "wide, use_energy=true",
    ]
    assert variants[3].name == "wide+use_energy-true"
    assert variants[3].changes == {
        "model.hidden_dim": 1024,
        "train.learning_rate": 0.002,
        "features.use_energy": True,
    }
    assert variants[3].label_without(["variants"]) == "use_energy=true"


def test_where_nothing_is_varied_there_is_the_recipe_itself() -> None:
    (variant,) = make_variants([])
    assert (variant.name, variant.label, variant.changes) == ("base", "base", {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.hidden_dim"], "not of the form key=value,value"),
        (["model.hidden_dim="], "not of the form key=value,value"),
        (["model..hidden_dim=3"], "not of the form key=value,value"),
        (["model.hidden_dim=[3"], "not YAML"),
        (["name=a,b"], "variants have names of their own"),
        (["a.b=1,2", "a.b=3"], "a.b is varied twice"),
        (["a.b=1,1"], "two variants would be named b-1"),
        (["a.b=x y,x-y"], "two variants would be named b-x-y"),
        ([f"a.b={'x' * 200}"], "too long for a folder"),
    ],
)
def test_what_cannot_be_varied_is_told(words: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_variants(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- wide\n", "not a file of variants: expected"),
        ("{}\n", "it names no variant"),
        ("a/b: {}\n", "'a/b' is no name of a variant"),
        ("3: {}\n", "3 is no name of a variant"),
        ("wide: 1024\n", "wide: expected key paths and values, found 1024"),
        ("wide: {name: x}\n", "expected key paths and values"),
        ("wide: {}\nwide: {}\n", "'wide' is given twice"),
    ],
)
def test_a_file_that_names_no_variants_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "named.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        make_variants([], path)


def test_changes_override_the_recipe_and_the_command_line_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("corpus: {preparer: an4}\nmodel: {hidden_dim: 5}\n")
    changes = {"model": {"hidden_layers": 2}, "model.hidden_dim": 7}
    recipe = load_recipe(path, ["model.hidden_dim=6"], changes)
    assert recipe.model.model_dump().items() >= {"hidden_layers": 2, "hidden_dim": 7}.items()
    # A section that is replaced as a whole may take keys from other changes; it is not theirs.
    assert changes["model"] == {"hidden_layers": 2}
