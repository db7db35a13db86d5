"""Recipes whose networks take features of their own or adapted ones: checks and stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from mariana_asr.archives import ArchiveWriter, read_script
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, RecipeError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import load_recipe
from mariana_asr.recipe.runner import Stage, plan_stages
from mariana_asr.recipe.sets import ExperimentSets
from mariana_asr.recipe.work import StageWork
from mariana_asr.skipped import Skipped

Matrix = NDArray[np.float32]

FBANK = {"type": "fbank", "num_mel_bins": 40}
SAT = {"tri2": {}, "tri3": {}}


def experiment_of(folder: Path, **sections: Any) -> Experiment:
    recipe = {"name": "x", "corpus": {"preparer": "espeak_digits"}, **sections}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(folder / "recipe.yaml")
    return Experiment(loaded, folder / "exp", jobs=1, allow_pipes=False)


def stages_of(folder: Path, **sections: Any) -> dict[str, Stage]:
    stages = experiment_of(folder, **sections).stages()
    before: set[str] = set()
    for stage in stages:
        assert set(stage.after) <= before, stage.name
        before.add(stage.name)
    return {stage.name: stage for stage in stages}


def test_features_of_the_networks_own_are_a_stage_that_networks_alone_depend_on(
    tmp_path: Path,
) -> None:
    align = {"tri1": {}, "realign": {}}
    stages = stages_of(tmp_path, align=align, model={"features": FBANK})
    assert stages["features_net"].after == ("corpus",)
    readers = [name for name, stage in stages.items() if "features_net" in stage.after]
    assert readers == ["frames", "decode_dnn", "ali_dnn", "frames_dnn2", "decode_dnn2"]
    assert all("features" in stages[name].after for name in readers)
    assert "features_net" not in stages_of(tmp_path, align=align)


def test_networks_on_adapted_features_depend_on_both_kinds_of_transforms(tmp_path: Path) -> None:
    stages = stages_of(tmp_path, align=SAT | {"realign": {}}, model={"adapted": True})
    assert stages["frames"].after == ("features", "ali")
    assert stages["ali_dnn"].after == ("features", "ali", "lang", "dnn")
    assert stages["frames_dnn2"].after == ("features", "ali", "ali_dnn")
    for network in ("dnn", "dnn2"):
        expected = ("features", "decode_tri3", network, "graph_tri3")
        assert stages[f"decode_{network}"].after == expected
    model = {"adapted": True, "features": FBANK}
    stages = stages_of(tmp_path, align=SAT, model=model)
    assert stages["features_net"].after == ("corpus", "features")
    assert stages["decode_dnn"].after == (
        "features", "features_net", "decode_tri3", "dnn", "graph_tri3",
    )  # fmt: skip


def test_what_the_network_takes_decides_what_runs_anew(tmp_path: Path) -> None:
    models: list[dict[str, Any]] = [
        {},
        {"features": FBANK},
        {"adapted": True},
        {"adapted": True, "features": FBANK},
    ]
    digests = []
    for model in models:
        experiment = experiment_of(tmp_path, align=SAT, model=model)
        planned = plan_stages(experiment.stages(), experiment.folder)
        digests.append({p.stage.name: p.fingerprint.digest for p in planned})
    assert len({digest["tri3"] for digest in digests}) == 1
    assert len({digest["decode_tri3"] for digest in digests}) == 1
    for name in ("frames", "dnn", "decode_dnn"):
        assert len({digest[name] for digest in digests}) == 4


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"align": {"tri2": {}}, "model": {"adapted": True}}, "model.adapted needs GMMs that are"),
        (
            {"align": SAT, "model": {"adapted": True}, "decode": {"adapt": False}},
            "set decode.adapt to true",
        ),
        (
            {"align": SAT, "model": {"adapted": True, "transform": {"cmvn": "none"}}},
            "model.transform has no effect on adapted features",
        ),
        (
            {"model": {"features": FBANK | {"frame_shift": 12.5}}},
            "model.features.frame_shift is 12.5, features.frame_shift is 10.0",
        ),
        (
            {"model": {"features": FBANK}, "features": {"sample_frequency": 8000}},
            "model.features.sample_frequency is 16000.0, features.sample_frequency is 8000.0",
        ),
        ({"model": {"features": FBANK | {"snip_edges": False}}}, "model.features.snip_edges"),
        ({"model": {"features": FBANK | {"frame_length": 32}}}, "model.features.frame_length"),
        ({"model": {"features": {"type": "plp"}}}, "model.features"),
    ],
)
def test_what_a_network_cannot_be_given_is_refused(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        experiment_of(tmp_path, **sections)
    assert message in str(error.value)


def test_longer_frames_give_as_many_where_edges_are_kept(tmp_path: Path) -> None:
    features = {"snip_edges": False}
    model = {"features": FBANK | {"snip_edges": False, "frame_length": 32}}
    assert "features_net" in stages_of(tmp_path, features=features, model=model)


def test_the_transform_of_own_features_beside_adapted_ones_is_free(tmp_path: Path) -> None:
    model = {"adapted": True, "features": FBANK, "transform": {"delta_order": 0}}
    recipe = experiment_of(tmp_path, align=SAT, model=model).recipe
    assert recipe.model.transform.delta_order == 0


@pytest.mark.parametrize(
    ("model", "align", "dim"),
    [
        ({}, SAT, 3 * 13),
        ({"features": FBANK, "transform": {"delta_order": 1}}, SAT, 2 * 40),
        ({"adapted": True}, SAT, 40),
        ({"adapted": True}, {"tri2": {"dim": 30}, "tri3": {}}, 30),
        ({"adapted": True}, {"tri1": {"transform": {"delta_order": 1}}, "tri3": {}}, 2 * 13),
        ({"adapted": True, "features": FBANK}, SAT, 40 + 3 * 40),
    ],
)
def test_a_network_of_ones_own_is_tried_out_on_what_it_will_be_given(
    tmp_path: Path, model: dict[str, Any], align: dict[str, Any], dim: int
) -> None:
    # A class that cannot be called so: the error says how it was.
    experiment = experiment_of(tmp_path, align=align, model={"class": "torch.nn.Linear", **model})
    with pytest.raises(RecipeError, match=f"cannot be made with frame_dim={dim}, "):
        experiment.run()


def write_set(folder: Path, matrices: dict[str, Matrix]) -> None:
    with ArchiveWriter(folder / "feats") as writer:
        for utterance, matrix in matrices.items():
            writer.write(utterance, matrix)
    DataDir(
        folder,
        dict.fromkeys(matrices, "speaker"),
        text=dict.fromkeys(matrices, "WORD"),
        feats=read_script(folder / "feats.scp"),
    ).write()


def test_networks_skip_and_list_what_lacks_their_own_features(tmp_path: Path) -> None:
    recipe = experiment_of(tmp_path, model={"features": FBANK}).recipe
    gmms = {u: np.full((4, 13), n, np.float32) for n, u in enumerate("abc")}
    own = {u: np.full((4, 40), n, np.float32) for n, u in enumerate("bcd")}
    write_set(tmp_path / "features" / "dev", gmms)
    write_set(tmp_path / "features_net" / "dev", own)
    data = ExperimentSets(recipe, tmp_path).network("dev")
    # What the GMMs have is what error rates are counted on, for every system.
    assert data.utterances == ["a", "b", "c"]
    assert data.text.keys() == {"a", "b", "c"}
    skipped = Skipped("test")
    front_end = FrontEnd.of(data, TransformOptions(cmvn="none"))
    read = dict(front_end.iterate(data, skipped=skipped))
    assert read.keys() == {"b", "c"}
    assert all(np.array_equal(feats, own[utterance]) for utterance, feats in read.items())
    assert skipped.reasons.keys() == {"a"}
    assert "no features" in skipped.reasons["a"]


def test_own_features_need_audio(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, model={"features": FBANK})
    corpus = tmp_path / "exp" / "corpus" / "train"
    corpus.mkdir(parents=True)
    (corpus / "utt2spk").write_text("a a\n")
    (corpus / "feats.scp").write_text("a feats.ark:2\n")
    work = StageWork(experiment.recipe, tmp_path / "exp", jobs=1, allow_pipes=False)
    with pytest.raises(DataError, match=r"train: no audio.*Leave out model\.features"):
        work.network_features(tmp_path / "out")
