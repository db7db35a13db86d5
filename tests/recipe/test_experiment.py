"""What a recipe's align section stands for: the stages, their order and what they depend on."""

from itertools import pairwise
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


def recipe_with(folder: Path, **sections: Any) -> Experiment:
    recipe = {"name": "x", "corpus": {"preparer": "espeak_digits"}, **sections}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(folder / "recipe.yaml")
    return Experiment(loaded, folder / "exp", jobs=1, allow_pipes=False)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"augmentation": {}}, ["features_sp", "ali_sp"]),
        ({"augmentation": {"speeds": [1], "noise": {}}}, ["features_aug"]),
        ({"augmentation": {"volume": [1, 2]}}, ["features_sp", "features_aug", "ali_sp"]),
        ({"augmentation": {}, "model": {"features": {"type": "fbank"}}},
         ["features_sp", "features_net", "features_net_sp", "ali_sp"]),
        ({"augmentation": {"noise": {}}, "model": {"features": {"type": "fbank"}}},
         ["features_sp", "features_net", "features_aug", "ali_sp"]),
        ({"augmentation": {"noise": {}}, "model": {"features": {"type": "fbank"}},
          "align": {"realign": {}}},
         ["features_sp", "features_net", "features_net_sp", "features_aug", "ali_sp",
          "ali_dnn_sp"]),
    ],
)  # fmt: skip
def test_augmentation_adds_only_the_stages_that_are_needed(
    tmp_path: Path, sections: dict[str, Any], expected: list[str]
) -> None:
    stages = {stage.name: stage for stage in recipe_with(tmp_path, **sections).stages()}
    plain = {stage.name: stage for stage in recipe_with(tmp_path).stages()}
    plain_names = {*plain, "ali_dnn", "frames_dnn2", "dnn2", "decode_dnn2"}
    assert sorted(name for name in stages if name not in plain_names) == sorted(expected)
    before: set[str] = set()
    for stage in stages.values():
        assert set(stage.after) <= before, stage.name
        before.add(stage.name)
    copies = {name for name in expected if name not in ("features_net", "ali_dnn_sp")}
    assert copies <= set(stages["frames"].after)
    if "ali_dnn_sp" in stages:
        assert {"features_net_sp", "dnn"} <= set(stages["ali_dnn_sp"].after)
        assert "ali_dnn_sp" in stages["frames_dnn2"].after


def test_augmentation_leaves_gmms_and_their_alignments_as_they_are(tmp_path: Path) -> None:
    align = {"tri1": {}, "pronunciations": {}}
    digests = []
    for augmentation in (None, {}, {"speeds": [0.8, 1.0], "noise": {}}):
        experiment = recipe_with(tmp_path, align=align, augmentation=augmentation)
        planned = plan_stages(experiment.stages(), experiment.folder)
        digests.append({p.stage.name: p.fingerprint.digest for p in planned})
    for other in digests[1:]:
        changed = {name for name in digests[0] if digests[0][name] != other[name]}
        assert changed == {"frames", "dnn", "decode_dnn", "score"}
    assert digests[1]["features_sp"] != digests[2]["features_sp"]


def test_another_distortion_changes_the_distorted_features_only(tmp_path: Path) -> None:
    (tmp_path / "noises").mkdir()
    digests = []
    for content in (b"", b"RIFF", b"RIFFRIFF"):
        if content:
            (tmp_path / "noises" / "hum.wav").write_bytes(content)
        noise = {"kinds": ["recordings"], "folder": "noises"}
        experiment = recipe_with(tmp_path, augmentation={"noise": noise})
        planned = plan_stages(experiment.stages(), experiment.folder)
        digests.append({p.stage.name: p.fingerprint.digest for p in planned})
    for one, other in pairwise(digests):
        changed = [name for name in one if one[name] != other[name]]
        assert changed == ["features_aug", "frames", "dnn", "decode_dnn", "score"]


def test_a_folder_without_noise_is_told_before_anything_runs(tmp_path: Path) -> None:
    noise = {"kinds": ["recordings"], "folder": "noises"}
    experiment = recipe_with(tmp_path, augmentation={"noise": noise})
    for work in (experiment.run, experiment.check_inputs):
        with pytest.raises(DataError, match="noises: no recordings of noise in this folder"):
            work()
    assert not experiment.folder.exists()
