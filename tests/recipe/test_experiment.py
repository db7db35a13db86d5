"""What a recipe's align section stands for: the stages, their order and what they depend on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mariana_asr.errors import DataError, RecipeError
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import load_recipe
from mariana_asr.recipe.runner import Stage, plan_stages

DATA = ["corpus", "features", "lang"]


def rung(name: str) -> list[str]:
    return [name, f"graph_{name}", f"decode_{name}"]


def experiment_of(folder: Path, align: dict[str, Any]) -> Experiment:
    recipe = {"name": "x", "corpus": {"preparer": "espeak_digits"}, "align": align}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(folder / "recipe.yaml")
    return Experiment(loaded, folder / "exp", jobs=1, allow_pipes=False)


def stages_of(folder: Path, align: dict[str, Any]) -> dict[str, Stage]:
    return {stage.name: stage for stage in experiment_of(folder, align).stages()}


NETWORK = ["frames", "dnn", "decode_dnn", "score"]


@pytest.mark.parametrize(
    ("align", "expected"),
    [
        ({}, [*rung("mono"), "ali", *NETWORK]),
        ({"tri1": {}}, [*rung("mono"), *rung("tri1"), "ali", *NETWORK]),
        ({"tri3": {}}, [*rung("mono"), *rung("tri3"), "ali", *NETWORK]),
        (
            {"tri2": {}, "pronunciations": {}},
            [*rung("mono"), *rung("tri2"), "ali", "lang_pron", "graph_pron", *NETWORK],
        ),
        (
            {"realign": {}},
            [*rung("mono"), "ali", *NETWORK[:-1], "ali_dnn", "frames_dnn2", "dnn2",
             "decode_dnn2", "score"],
        ),
    ],
)  # fmt: skip
def test_only_what_a_recipe_names_is_trained(
    tmp_path: Path, align: dict[str, Any], expected: list[str]
) -> None:
    stages = stages_of(tmp_path, align)
    assert list(stages) == [*DATA, *expected]
    before: set[str] = set()
    for stage in stages.values():
        assert set(stage.after) <= before, stage.name
        before.add(stage.name)


def test_each_rung_starts_from_the_one_before_and_the_network_from_the_last(
    tmp_path: Path,
) -> None:
    align = {"tri1": {}, "tri2": {}, "tri3": {}, "pronunciations": {}, "realign": {}}
    stages = stages_of(tmp_path, align)
    assert [stages[name].after for name in ("mono", "tri1", "tri2", "tri3", "ali")] == [
        ("features", "lang"),
        *(("features", "lang", name) for name in ("mono", "tri1", "tri2", "tri3")),
    ]
    assert stages["decode_dnn"].after == ("features", "dnn", "graph_pron")
    assert stages["graph_pron"].after == ("lang_pron", "tri3")
    assert stages["ali_dnn"].after == ("features", "lang", "dnn")
    assert stages["dnn2"].after == ("ali_dnn", "frames_dnn2")
    assert {"decode_tri3", "decode_dnn", "decode_dnn2"} <= set(stages["score"].after)


def test_a_recipe_with_all_defaults_written_out_means_the_same(tmp_path: Path) -> None:
    align = {"tri1": {"num_leaves": 7}, "tri3": {}, "realign": {"beam": 11}}
    experiment = experiment_of(tmp_path, align)
    text = yaml.safe_dump(experiment.recipe.model_dump(mode="json"))
    (tmp_path / "whole.yaml").write_text(text)
    assert load_recipe(tmp_path / "whole.yaml") == experiment.recipe


def test_a_file_of_questions_belongs_to_the_recipe(tmp_path: Path) -> None:
    align = {"tri1": {"questions": "questions.int"}, "tri2": {}}
    experiment = experiment_of(tmp_path, align)
    with pytest.raises(DataError, match=r"questions\.int: cannot read"):
        plan_stages(experiment.stages(), experiment.folder)
    digests = []
    for questions in ("1 2\n", "1 2\n3\n"):
        (tmp_path / "questions.int").write_text(questions)
        planned = plan_stages(experiment.stages(), experiment.folder)
        digests.append({p.stage.name: p.fingerprint.digest for p in planned})
    changed = [name for name in digests[0] if digests[0][name] != digests[1][name]]
    assert changed[:4] == ["tri1", "graph_tri1", "decode_tri1", "tri2"]


@pytest.mark.parametrize(
    ("align", "message"),
    [
        ({"tri1": {}, "tri3": {}}, "align: with kaldi no GMM is trained: leave out tri1, tri3"),
        ({"pronunciations": {}}, "align: pronunciations need our own lexicon: leave out kaldi or"),
        ({"kaldi": {"ali": "exp/tri3_ali"}}, "align.kaldi.lang: required, but not given"),
    ],
)
def test_what_does_not_go_together_is_told(
    tmp_path: Path, align: dict[str, Any], message: str
) -> None:
    kaldi = {"kaldi": {"ali": "exp/tri3_ali", "lang": "data/lang"}}
    with pytest.raises(RecipeError) as error:
        experiment_of(tmp_path, kaldi | align)
    assert message in str(error.value)


def test_kaldis_lang_directory_leaves_no_choice_of_a_lexicon(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("corpus: {preparer: an4}\nalign: {kaldi: {ali: exp, lang: lang}}\n")
    assert load_recipe(path).align.rungs == []
    with pytest.raises(RecipeError, match=r"align\.kaldi\.lang has a lexicon already: leave out"):
        load_recipe(path, ["lang.lexicon=lexicon.txt"])
