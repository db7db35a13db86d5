"""Recipes: every mistake is told with its place, and paths mean the same from everywhere."""

from pathlib import Path

import pytest

from mariana_asr.corpus.prepare import An4Options, DataDirsOptions
from mariana_asr.errors import RecipeError
from mariana_asr.recipe.load import load_recipe


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def message_of(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path, text), overrides)
    return str(error.value)


def test_defaults_make_a_short_recipe_enough(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "corpus: {preparer: an4}\n"))
    assert isinstance(recipe.corpus, An4Options)
    assert recipe.name == tmp_path.name
    assert recipe.features.type == "mfcc"
    assert recipe.align.mono.totgauss == 1000


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\ncorpus: {preparer: an4}\nmodel: {hidden_dim: 256}\n")
    recipe = load_recipe(path, ["model.hidden_dim=2048", "train.learning_rate=0.004", "name=b"])
    assert recipe.model.hidden_dim == 2048
    assert recipe.train.learning_rate == 0.004
    assert recipe.name == "b"


def test_relative_paths_are_relative_to_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "corpus: {train: data/train, test: data/test}\n")
    monkeypatch.chdir("/")
    recipe = load_recipe(path, ["lang.lexicon=/abs/lexicon.txt"])
    assert isinstance(recipe.corpus, DataDirsOptions)
    assert recipe.corpus.train == tmp_path / "data" / "train"
    assert recipe.corpus.test == {"test": tmp_path / "data" / "test"}
    assert recipe.lang.lexicon == Path("/abs/lexicon.txt")


def test_a_misspelt_key_is_told_with_file_path_and_what_is_allowed(tmp_path: Path) -> None:
    text = message_of(tmp_path, "corpus: {preparer: an4}\nmodel: {hidden_dims: 3}\n")
    assert "recipe.yaml: model.hidden_dims: unknown key; did you mean 'hidden_dim'?" in text
    text = message_of(tmp_path, "corpus: {preparer: an4}\nalign: {mono: {totgaus: 3}}\n")
    assert "align.mono.totgaus: unknown key; did you mean 'totgauss'?" in text
    text = message_of(tmp_path, "corpus: {preparer: an4}\nmodels: {}\n")
    assert "models: unknown key; did you mean 'model'?" in text


def test_a_misspelt_override_is_told_too(tmp_path: Path) -> None:
    text = message_of(tmp_path, "corpus: {preparer: an4}\n", "train.learning_rat=1")
    assert "train.learning_rat: unknown key; did you mean 'learning_rate'?" in text


def test_a_bad_value_is_told_with_what_is_allowed(tmp_path: Path) -> None:
    text = message_of(tmp_path, "corpus: {preparer: an4}\nmodel: {activation: tanh}\n")
    assert "model.activation: 'tanh' given" in text
    assert "'sigmoid', 'relu', 'maxout' or 'pnorm'" in text
    assert "corpus: {'preparer': 'timit'} given" in message_of(
        tmp_path, "corpus: {preparer: timit}\n"
    )
    assert "name" in message_of(tmp_path, "name: a/b\ncorpus: {preparer: an4}\n")
    assert "score.metrics.0: 'per' given" in message_of(
        tmp_path, "corpus: {preparer: an4}\nscore: {metrics: [per]}\n"
    )
    assert "must not name a test set train" in message_of(
        tmp_path, "corpus: {train: a, test: {train: b}}\n"
    )


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    assert "corpus: required, but not given" in message_of(tmp_path, "name: x\n")
    assert "corpus.test: required" in message_of(tmp_path, "corpus: {train: data/train}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\n", "recipe.yaml:2: not YAML"),
        ("name: a\nname: b\n", "recipe.yaml:2: not YAML: the key 'name' is given twice"),
        ("just words\n", "not a recipe"),
        ("", "not a recipe"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_with_its_line(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert expected in message_of(tmp_path, text)


def test_a_missing_or_foreign_file_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "latin.yaml")


def test_the_recipes_of_this_project_are_right() -> None:
    paths = sorted(Path(__file__).parents[2].glob("recipes/*/*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        load_recipe(path)


def test_the_decoded_sets_are_the_recipes_choice_and_dev_is_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("corpus: {preparer: an4}\n")
    assert load_recipe(path).decode.sets is None
    assert load_recipe(path, ["decode.sets=[dev]"]).decode.sets == ("dev",)
    with pytest.raises(RecipeError, match=r"decode\.sets: .*must have dev among them"):
        load_recipe(path, ["decode.sets=[test]"])
