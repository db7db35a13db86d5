"""Sequence training as stages of an experiment: which there are, and what they follow from."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mariana_asr.errors import RecipeError
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import load_recipe
from mariana_asr.recipe.runner import Stage, plan_stages


def experiment_of(folder: Path, **sections: Any) -> Experiment:
    recipe = {"name": "x", "corpus": {"preparer": "espeak_digits"}, **sections}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(folder / "recipe.yaml")
    return Experiment(loaded, folder / "exp", jobs=1, allow_pipes=False)


def stages_of(folder: Path, **sections: Any) -> dict[str, Stage]:
    stages = {stage.name: stage for stage in experiment_of(folder, **sections).stages()}
    before: set[str] = set()
    for stage in stages.values():
        assert set(stage.after) <= before, stage.name
        before.add(stage.name)
    return stages


SEQUENCE = ["lang_seq", "graph_seq", "lattices_seq", "dnn_seq", "decode_dnn_seq", "score"]


def test_the_reference_is_aligned_by_the_network_unless_told_otherwise(tmp_path: Path) -> None:
    stages = stages_of(tmp_path, sequence={})
    assert list(stages)[-9:] == ["decode_dnn", "ali_seq", "frames_seq", *SEQUENCE]
    assert stages["ali_seq"].after == ("features", "lang", "dnn")
    assert stages["lattices_seq"].after == ("dnn", "frames_seq", "graph_seq")
    assert stages["dnn_seq"].after == ("lang", "dnn", "frames_seq", "lattices_seq")
    assert "decode_dnn_seq" in stages["score"].after
    stages = stages_of(tmp_path, sequence={"realign": False})
    assert list(stages)[-7:] == ["decode_dnn", *SEQUENCE]
    assert stages["lattices_seq"].after == ("dnn", "frames", "graph_seq")
    assert "lattices_seq" not in stages_of(tmp_path)


def test_it_begins_with_the_last_network(tmp_path: Path) -> None:
    align = {"tri2": {}, "pronunciations": {}, "realign": {}}
    stages = stages_of(tmp_path, align=align, sequence={"realign": False})
    assert stages["lattices_seq"].after == ("dnn2", "frames_dnn2", "graph_seq")
    assert stages["graph_seq"].after == ("lang_seq", "dnn2")
    assert stages["lang_seq"].after == ("features", "lang_pron")
    assert stages["decode_dnn_seq"].after == ("features", "dnn_seq", "graph_pron")


def test_copies_of_the_training_set_are_aligned_too(tmp_path: Path) -> None:
    stages = stages_of(tmp_path, sequence={}, augmentation={})
    assert {"ali_seq_sp", "features_sp"} <= set(stages["frames_seq"].after)
    assert "dnn" in stages["ali_seq_sp"].after


def changed_stages(folder: Path, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    digests = []
    for sequence in (before, after):
        experiment = experiment_of(folder, sequence=sequence)
        planned = plan_stages(experiment.stages(), experiment.folder)
        digests.append({p.stage.name: p.fingerprint.digest for p in planned})
    common = [name for name in digests[0] if name in digests[1]]
    return [name for name in common if digests[0][name] != digests[1][name]]


@pytest.mark.parametrize(
    ("after", "first"),
    [
        ({"realign": False}, "lattices_seq"),
        ({"lattices": {"lm_order": 2}}, "lang_seq"),
        ({"lattices": {"beam": 9}}, "lattices_seq"),
        ({"acoustic_scale": 0.2}, "lattices_seq"),
        ({"prior_scale": 1.0}, "ali_seq"),
        ({"learning_rate": 0.1}, "dnn_seq"),
        ({"criterion": "mmi", "boost": 0.1}, "dnn_seq"),
    ],
)
def test_what_an_option_changes_runs_anew(
    tmp_path: Path, after: dict[str, Any], first: str
) -> None:
    assert changed_stages(tmp_path, {}, after)[0] == first


def test_what_does_not_go_together_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="sequence: boost is for the criterion mmi"):
        experiment_of(tmp_path, sequence={"boost": 0.1})
    with pytest.raises(RecipeError, match="sequence: schedule newbob looks at what part"):
        experiment_of(tmp_path, sequence={"criterion": "mmi", "schedule": "newbob"})
