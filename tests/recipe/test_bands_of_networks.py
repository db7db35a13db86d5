"""Networks with convolutions over frequency are told about their features."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mariana_asr.errors import RecipeError
from mariana_asr.features.fbank import FbankOptions
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.nnet.options import CnnOptions, CnnTdnnfOptions, TdnnOptions
from mariana_asr.recipe.bands import with_bands
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import load_recipe


@pytest.mark.parametrize("kind", [CnnOptions, CnnTdnnfOptions])
@pytest.mark.parametrize(
    ("settings", "others"),
    [
        ({}, 0),
        ({"pitch": {}}, 3),
        ({"pitch": {"add_raw_log_pitch": True}}, 4),
        ({"use_energy": True, "htk_compat": True}, 1),
    ],
)
def test_what_comes_after_the_bands_is_found_in_the_features_options(kind, settings, others):
    features = FbankOptions(num_mel_bins=30, **settings)
    assert with_bands(kind(), features.model_dump(), features.dim).other_values == others
    said = kind(other_values=2)
    assert with_bands(said, features.model_dump(), features.dim) == said


def test_features_of_unknown_origin_and_other_networks_are_left_alone():
    assert with_bands(CnnOptions(), None, 40) == CnnOptions()
    mfcc = MfccOptions()
    assert with_bands(TdnnOptions(), mfcc.model_dump(), mfcc.dim) == TdnnOptions()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"type": "cnn"}}, "its features are mfcc"),
        (
            {
                "model": {"type": "cnn_tdnnf"},
                "features": {"type": "fbank", "num_mel_bins": 40, "use_energy": True},
            },
            "its features are fbank, of which energy is the first",
        ),
        (
            {"model": {"type": "cnn", "features": {"type": "fbank", "num_mel_bins": 12}}},
            "needs at least 5 bands, and has 1",
        ),
    ],
)
def test_features_that_do_not_fit_are_told_before_the_first_stage(
    tmp_path: Path, sections: dict[str, Any], message: str
):
    recipe = {"name": "x", "corpus": {"preparer": "espeak_digits"}, **sections}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match=message):
        Experiment(loaded, tmp_path / "exp", jobs=1, allow_pipes=False).run()
    assert not (tmp_path / "exp").exists()
