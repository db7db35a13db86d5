import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError

from mariana_asr.errors import FormatError, RecipeError
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.nnet import acoustic_model
from mariana_asr.nnet.acoustic_model import AcousticModel, log_priors_from_counts
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.options import CustomOptions, DnnOptions
from mariana_asr.options import validated
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import recipe_text
from mariana_asr.recipe.schema import NetworkSections, Recipe

NETWORKS = (Path(__file__).parent / "own_networks.py").read_text()


@pytest.fixture(autouse=True)
def _imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The working directory holds the modules of a user, which nothing has imported yet."""
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets" / "__init__.py").write_text("")
    (tmp_path / "mynets" / "some.py").write_text(NETWORKS)
    (tmp_path / "broken_net.py").write_text("import not_there_at_all\n")
    (tmp_path / "unfinished_net.py").write_text("class Net(\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "mynets"]:
        del sys.modules[name]


def options_of(name: str, **options) -> CustomOptions:
    return CustomOptions.model_validate({"class": f"mynets.some.{name}", "options": options})


def test_a_class_in_the_working_directory_is_made_with_its_options():
    network = build_network(options_of("Convolution", hidden=3, scale=2.0), 4, 6)
    assert (network.frame_dim, network.num_outputs, network.scale) == (4, 6, 2.0)
    assert network.layers[0].weight.shape == (3, 4, 4)
    assert network.training
    assert (network.chunk_frames, network.exact_chunks) == (5, True)
    assert network(torch.zeros(2, (2 + 7 + 1) * 4)).shape == (2 * 7, 6)


def test_what_a_network_does_not_say_is_one_frame_at_a_time():
    network = build_network(options_of("Single"), 4, 6)
    assert (network.chunk_frames, network.exact_chunks) == (1, False)


@pytest.mark.parametrize("name", ["Convolution", "Single"])
def test_the_seed_decides_the_weights_and_global_state_is_left_alone(name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build_network(options_of(name), 4, 6, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    same = build_network(options_of(name), 4, 6, seed=1).state_dict()
    other = build_network(options_of(name), 4, 6, seed=2).state_dict()
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere_to_find.Net", r"cannot import nowhere_to_find: ModuleNotFoundError"),
        ("mynets.other.Net", r"cannot import mynets\.other: ModuleNotFoundError"),
        ("broken_net.Net", r"cannot import broken_net: .*No module named 'not_there_at_all'"),
        ("unfinished_net.Net", r"cannot import unfinished_net: SyntaxError"),
        ("mynets.some.Nett", r"mynets\.some \(.*some\.py\) has no Nett"),
        ("mynets.some.NoModule", r"not a class derived from torch\.nn\.Module"),
        ("mynets.some.function", r"not a class derived from torch\.nn\.Module"),
        ("mynets.some.WithoutContext", r"has no attribute num_outputs, left_context"),
        ("mynets.some.NegativeContext", r"left_context .* is -1, not .* at least 0"),
        ("mynets.some.FractionalChunks", r"chunk_frames .* is 2\.0, not a whole number"),
        ("mynets.some.OtherOutputs", r"num_outputs .* is 7, .* made with num_outputs=6"),
        ("mynets.some.WrongShape", r"\(2, 1, 6\) for windows of shape \(2, 12\).* \(2, 6\) are"),
        ("mynets.some.ReturnsPair", r"gives tuple for windows"),
        ("mynets.some.FailsWhenCalled", r"fails on windows of .*: IndexError: no such thing"),
        ("mynets.some.FalselyExact", r"says exact_chunks, but gives frames other logits"),
    ],
)
def test_what_is_no_network_is_told_exactly(path, message):
    with pytest.raises(RecipeError, match=message) as caught:
        build_network(CustomOptions.model_validate({"class": path}), 4, 6)
    assert caught.value.where == "model.class"


def test_wrong_options_of_the_class_are_told():
    with pytest.raises(RecipeError, match=r"model\.options: TypeError: .*'hiden'"):
        build_network(options_of("Convolution", hiden=3), 4, 6)


@pytest.mark.parametrize("path", ["Net", "", "a..b", "my-nets.Net", ".Net", 5])
def test_what_names_no_class_is_refused(path):
    with pytest.raises(ValidationError):
        CustomOptions.model_validate({"class": path})


def test_modules_that_are_installed_come_before_those_in_the_working_directory(tmp_path: Path):
    (tmp_path / "yaml.py").write_text("raise RuntimeError('shadowed')\n")
    build_network(options_of("Single"), 4, 6)
    assert sys.path[-1] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def recipe_of(model: object) -> Recipe:
    tree = {"name": "own", "corpus": {"preparer": "an4"}, "model": model}
    return validated(Recipe, tree, "test")


def test_a_class_alone_means_a_network_of_ones_own():
    recipe = recipe_of({"class": "mynets.some.Single"})
    assert recipe.model == options_of("Single")
    assert recipe_of({}).model == DnnOptions()
    assert validated(NetworkSections, {"model": {"class": "a.B"}}, "test").model.type == "custom"


def test_recipes_keep_the_key_that_users_write():
    recipe = recipe_of({"class": "mynets.some.Convolution", "options": {"hidden": 3}})
    tree = yaml.safe_load(recipe_text(recipe))
    assert tree["model"]["class"] == "mynets.some.Convolution"
    assert "class_path" not in tree["model"]
    assert validated(Recipe, tree, "again") == recipe
    assert CustomOptions.model_validate(json.loads(recipe.model.model_dump_json())) == recipe.model


def test_a_misspelt_key_is_told_with_those_that_there_are():
    with pytest.raises(RecipeError, match=r"model\.optons: unknown key; did you mean 'options'"):
        recipe_of({"class": "mynets.some.Single", "optons": {}})
    with pytest.raises(RecipeError, match=r"\bclass, .*options"):
        recipe_of({"class": "mynets.some.Single", "hidden_dim": 3})


def test_a_stage_depends_on_the_class_its_options_and_its_file(tmp_path: Path):
    recipe = recipe_of({"class": "mynets.some.Convolution", "options": {"hidden": 3}})
    experiment = Experiment(recipe, tmp_path / "exp", jobs=1, allow_pipes=False)
    (stage,) = [stage for stage in experiment.stages() if stage.name == "dnn"]
    assert stage.options["model"]["class"] == "mynets.some.Convolution"
    assert stage.options["model"]["options"] == {"hidden": 3}
    assert stage.files == (tmp_path / "mynets" / "some.py",)


def test_a_run_begins_by_trying_the_network_out(tmp_path: Path):
    recipe = recipe_of({"class": "mynets.some.WrongShape"})
    experiment = Experiment(recipe, tmp_path / "exp", jobs=1, allow_pipes=False)
    # 13 coefficients with deltas, three frames.
    with pytest.raises(RecipeError, match=r"windows of shape \(2, 117\)"):
        experiment.run()
    assert not (tmp_path / "exp").exists()


def test_networks_of_ones_own_are_not_pretrained():
    tree = {"model": {"class": "mynets.some.Single"}, "train": {"pretraining": "denoising"}}
    with pytest.raises(RecipeError, match="only fully connected networks are pretrained"):
        validated(NetworkSections, tree, "test")


def saved_model(path: Path) -> AcousticModel:
    options = options_of("Convolution", hidden=3)
    network = build_network(options, 4, 6, seed=3)
    front_end = FrontEnd({"type": "mfcc", "num_ceps": 4}, 4, TransformOptions())
    model = AcousticModel(network, options, front_end, log_priors_from_counts(np.arange(1, 7)))
    model.save(path)
    return model


def test_a_saved_model_is_loaded_with_the_class_that_it_names(tmp_path: Path):
    model = saved_model(tmp_path / "nnet.pt")
    loaded = AcousticModel.load(tmp_path / "nnet.pt")
    assert loaded.options == model.options
    features = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.log_likelihoods(features), model.log_likelihoods(features))


def test_a_saved_model_whose_class_is_gone_says_so(tmp_path: Path):
    saved_model(tmp_path / "nnet.pt")
    (tmp_path / "mynets" / "some.py").unlink()
    del sys.modules["mynets.some"]
    with pytest.raises(FormatError, match=r"nnet\.pt: .*cannot import mynets\.some.*PYTHONPATH"):
        AcousticModel.load(tmp_path / "nnet.pt")


def test_loading_calls_nothing_but_classes_of_networks(tmp_path: Path):
    path = tmp_path / "nnet.pt"
    saved_model(path)
    content = torch.load(path, weights_only=True)
    for named in ("mynets.some.function", "pathlib.Path", "os.system"):
        description = json.loads(content["description"])
        description["network"] |= {"class": named, "options": {}}
        # As an attacker would: with the right checksum.
        changed = content | {"description": json.dumps(description)}
        changed["sha256"] = acoustic_model._digest(changed)
        torch.save(changed, path)
        with pytest.raises(FormatError, match="not a class derived from"):
            AcousticModel.load(path)
