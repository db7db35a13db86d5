"""Options: key=value words, and errors that name the key, what was given and what is allowed."""

from typing import Annotated, Literal

import pytest
from pydantic import BeforeValidator, Field

from mariana_asr.errors import RecipeError
from mariana_asr.options import (
    Options,
    default_tag,
    narrowed,
    options_from_assignments,
    validated,
)


class Mfcc(Options):
    type: Literal["mfcc"] = "mfcc"
    num_ceps: int = Field(13, ge=1)


class Fbank(Options):
    type: Literal["fbank"] = "fbank"
    num_mel_bins: int = 23


class Model(Options):
    hidden_dim: int = 512
    activation: Literal["relu", "sigmoid"] = "sigmoid"


class Recipe(Options):
    name: str
    features: Annotated[
        Annotated[Mfcc | Fbank, Field(discriminator="type")],
        BeforeValidator(default_tag("type", "mfcc")),
    ] = Mfcc()
    model: Model = Model()
    speakers: float | list[str] = 0.1


def check(**tree: object) -> Recipe:
    return validated(Recipe, {"name": "x", **tree}, "recipe.yaml")


def test_a_misspelt_key_is_named_with_its_path_a_guess_and_what_is_allowed() -> None:
    with pytest.raises(RecipeError) as error:
        check(model={"hiden_dim": 3})
    assert str(error.value) == (
        "recipe.yaml: model.hiden_dim: unknown key; did you mean 'hidden_dim'? "
        "(allowed: activation, hidden_dim)"
    )


def test_a_key_of_another_member_of_a_union_is_refused_under_the_path_the_user_wrote() -> None:
    with pytest.raises(RecipeError) as error:
        check(features={"type": "fbank", "num_ceps": 3})
    assert "recipe.yaml: features.num_ceps: unknown key" in str(error.value)
    assert "(allowed: num_mel_bins, type)" in str(error.value)


def test_a_bad_value_is_told_with_what_was_given_and_what_is_allowed() -> None:
    with pytest.raises(RecipeError, match=r"model\.activation: 'tanh' given.*'relu' or 'sigmoid'"):
        check(model={"activation": "tanh"})
    with pytest.raises(RecipeError, match=r"features\.num_ceps: 0 given.*greater than or equal"):
        check(features={"num_ceps": 0})
    with pytest.raises(RecipeError, match=r"speakers: \{'a': 1\} given"):
        check(speakers={"a": 1})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RecipeError, match="name: required, but not given"):
        validated(Recipe, {}, "recipe.yaml")


def test_several_problems_come_at_once_one_a_line() -> None:
    with pytest.raises(RecipeError) as error:
        check(model={"a": 1, "b": 2}, features={"type": "plp"})
    assert len(str(error.value).splitlines()) == 4
    assert "features: {'type': 'plp'} given" in str(error.value)


def test_the_usual_member_of_a_union_need_not_be_named() -> None:
    assert check(features={"num_ceps": 20}).features == Mfcc(num_ceps=20)


def test_words_of_a_command_line_fill_nested_options() -> None:
    recipe = options_from_assignments(
        Recipe, ["name=an4", "model.hidden_dim=2048", "speakers=[a, b]"]
    )
    assert recipe == Recipe(name="an4", model=Model(hidden_dim=2048), speakers=["a", "b"])


@pytest.mark.parametrize("word", ["name", "=3", "a..b=3", "name=[", "model=3", "name.x=3"])
def test_a_bad_word_is_refused(word: str) -> None:
    with pytest.raises(RecipeError):
        options_from_assignments(Recipe, ["name=an4", word])


def test_options_are_narrowed_to_the_class_they_extend() -> None:
    class Below(Options):
        depth: int = 1

    class Base(Options):
        size: int = 2
        below: Below = Below()

    class Wider(Base):
        more: str = "x"

    wider = Wider(size=3, below=Below(depth=4), more="y")
    narrow = narrowed(wider, Base)
    assert type(narrow) is Base
    assert narrow == Base(size=3, below=Below(depth=4))
    with pytest.raises(TypeError, match="Base does not extend Wider"):
        narrowed(narrow, Wider)
