"""What a model reads: transforms, their errors, and the check that data fit a model."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mariana_asr.align.training.lda_mllt import LdaMlltOptions
from mariana_asr.align.training.mono import MonoOptions
from mariana_asr.archives import ArchiveWriter, read_matrix, read_script
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError, RecipeError
from mariana_asr.features.cmvn import accumulate_cmvn_stats, apply_cmvn, apply_sliding_cmvn
from mariana_asr.features.deltas import add_deltas
from mariana_asr.features.extract import extract_features
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.linear import write_matrix_file
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.features.options import feature_options
from mariana_asr.options import validated
from mariana_asr.skipped import Skipped

PLAIN = FrontEnd(None, 13, TransformOptions())


def write_features(path: Path, matrices: dict[str, NDArray[np.float32]]) -> DataDir:
    with ArchiveWriter(path / "feats") as writer:
        for utterance, matrix in matrices.items():
            writer.write(utterance, matrix)
    data = DataDir(path, {u: u[0] for u in matrices}, feats=read_script(path / "feats.scp"))
    data.write()
    return data


def noise(frames: int, dim: int = 13, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(4, 2, (frames, dim)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    matrices = {u: noise(30 + i, seed=i) for i, u in enumerate(["a1", "a2", "b1"])}
    return extract_features(
        write_features(tmp_path / "raw", matrices), tmp_path / "data", MfccOptions()
    ).data


def raw(data: DataDir, utterance: str) -> NDArray[np.float32]:
    return read_matrix((data.feats or {})[utterance])


def test_features_come_as_they_are_or_normalised_as_asked(data: DataDir) -> None:
    feats = raw(data, "a2")
    speaker = accumulate_cmvn_stats(np.concatenate([raw(data, "a1"), feats]))
    own = accumulate_cmvn_stats(feats)
    expected = [
        ({"cmvn": "none"}, feats),
        ({}, apply_cmvn(feats, speaker)),
        ({"norm_vars": True}, apply_cmvn(feats, speaker, norm_vars=True)),
        ({"norm_means": False}, feats),
        ({"cmvn": "utterance"}, apply_cmvn(feats, own)),
        (
            {"cmvn": "sliding", "cmn_window": 10, "min_cmn_window": 5},
            apply_sliding_cmvn(feats, cmn_window=10, min_cmn_window=5),
        ),
        ({"cmvn": "sliding", "center": True}, apply_sliding_cmvn(feats, center=True)),
        ({"delta_order": 2}, add_deltas(apply_cmvn(feats, speaker), 2)),
        ({"cmvn": "none", "delta_order": 1, "delta_window": 3}, add_deltas(feats, 1, 3)),
    ]
    for tree, matrix in expected:
        transform = TransformOptions(**tree)
        read = FrontEnd.of(data, transform).read(data, "a2")
        assert read.dtype == np.float32
        assert read.shape[1] == transform.dim(13)
        assert np.allclose(read, matrix, atol=1e-6)


def test_iteration_goes_through_all_utterances_in_their_order(data: DataDir) -> None:
    transform = TransformOptions(delta_order=2)
    front_end = FrontEnd.of(data, transform)
    read = list(front_end.iterate(data))
    assert [utterance for utterance, _ in read] == ["a1", "a2", "b1"]
    for utterance, feats in read:
        assert np.array_equal(feats, front_end.read(data, utterance))


def test_options_that_kaldi_refuses_are_refused() -> None:
    with pytest.raises(RecipeError, match="norm_vars needs norm_means"):
        validated(TransformOptions, {"norm_means": False, "norm_vars": True}, "recipe.yaml")
    with pytest.raises(RecipeError, match="'global'"):
        validated(TransformOptions, {"cmvn": "global"}, "recipe.yaml")


@pytest.fixture
def damaged(tmp_path: Path, data: DataDir) -> tuple[DataDir, dict[str, str]]:
    """The good data, and one utterance for each thing that can be wrong with it."""
    bad = noise(20)
    bad[7, 3] = np.inf
    extra = write_features(
        tmp_path / "extra",
        {"c-dim": noise(20, 40), "c-inf": bad, "c-empty": np.zeros((0, 13), np.float32)},
    )
    feats = {**(data.feats or {}), **(extra.feats or {}), "c-nostats": (data.feats or {})["a1"]}
    feats |= {"c-gone": f"{tmp_path}/gone.ark:7", "c-pipe": f"touch {tmp_path}/ran |"}
    garbage = tmp_path / "garbage.ark"
    garbage.write_bytes(b"\0BFM \4garbage")
    feats["c-garbage"] = f"{garbage}:0"
    speakers = {u: u[0] for u in feats} | {"c-none": "a"}
    expected = {
        "c-dim": "40 dimensions, expected 13",
        "c-inf": "in 1 of 20 frames, first in frame 7",
        "c-empty": "empty",
        "c-nostats": "no CMVN statistics of its speaker c",
        "c-gone": "gone.ark",
        "c-pipe": "not run",
        "c-garbage": "garbage.ark",
        "c-none": "no features",
    }
    return replace(data, utt2spk=speakers, feats=feats), expected


def test_each_bad_utterance_is_an_error_that_names_it(
    damaged: tuple[DataDir, dict[str, str]], tmp_path: Path
) -> None:
    data, expected = damaged
    for utterance, message in expected.items():
        with pytest.raises(DataError, match=message) as raised:
            PLAIN.read(data, utterance)
        assert utterance in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_iteration_skips_bad_utterances_where_it_may(
    damaged: tuple[DataDir, dict[str, str]],
) -> None:
    data, expected = damaged
    skipped = Skipped("training")
    read = [u for u, _ in PLAIN.iterate(data, skipped=skipped)]
    assert read == ["a1", "a2", "b1"]
    assert skipped.reasons.keys() == expected.keys()
    for utterance, message in expected.items():
        assert message in skipped.reasons[utterance]
    with pytest.raises(DataError, match="c-dim"):
        list(PLAIN.iterate(data))


def test_missing_tables_are_an_error_of_the_directory(data: DataDir) -> None:
    skipped = Skipped("training")
    with pytest.raises(DataError, match=r"no cmvn\.scp.*cmvn: utterance"):
        next(PLAIN.iterate(replace(data, cmvn=None), skipped=skipped))
    unnormalised = FrontEnd(None, 13, TransformOptions(cmvn="none"))
    assert len(list(unnormalised.iterate(replace(data, cmvn=None)))) == 3
    with pytest.raises(DataError, match=r"no feats\.scp.*mariana-asr features"):
        next(PLAIN.iterate(replace(data, feats=None), skipped=skipped))


def with_settings(data: DataDir, **changes: Any) -> DataDir:
    settings = feature_options({}).model_dump() | changes
    (data.path / "features.json").write_text(json.dumps(settings))
    return data


def test_a_front_end_comes_back_from_its_file(data: DataDir, tmp_path: Path) -> None:
    transform = TransformOptions(delta_order=2, norm_vars=True)
    for directory in (data, with_settings(data)):
        front_end = FrontEnd.of(directory, transform)
        assert front_end.dim == 39
        front_end.save(tmp_path / "model")
        assert FrontEnd.load(tmp_path / "model") == front_end
    assert front_end.features == feature_options({}).model_dump()


def test_a_front_end_describes_itself_in_a_line(data: DataDir) -> None:
    from_kaldi = FrontEnd.of(data, TransformOptions(cmvn="sliding"))
    assert from_kaldi.describe() == (
        "13 features from Kaldi, CMN over 600 sliding frames: 13 values a frame"
    )
    ours = FrontEnd.of(with_settings(data), TransformOptions(norm_vars=True, delta_order=2))
    assert ours.describe() == (
        "13 mfcc at 16000 Hz, CMVN by speaker, deltas to order 2: 39 values a frame"
    )


def test_data_with_other_feature_options_than_the_models_are_refused(data: DataDir) -> None:
    front_end = FrontEnd.of(with_settings(data), TransformOptions())
    front_end.check(data.path)
    with_settings(data, use_energy=False, low_freq=40.0)
    with pytest.raises(FormatError) as raised:
        front_end.check(data.path)
    assert "low_freq (model: 20.0, data: 40.0), use_energy (model: True, data: False)" in str(
        raised.value
    )
    assert str(data.path / "features.json") in str(raised.value)


def test_what_does_not_change_features_is_no_difference(
    data: DataDir, caplog: pytest.LogCaptureFixture
) -> None:
    front_end = FrontEnd.of(with_settings(data), TransformOptions())
    with_settings(data, allow_downsample=True)
    front_end.check(data.path)
    assert not caplog.records
    with_settings(data, dither=1.0)
    with caplog.at_level(logging.WARNING):
        front_end.check(data.path)
    assert "dither 1.0" in caplog.text


def test_options_that_are_newer_than_a_model_count_as_their_defaults(data: DataDir) -> None:
    settings = feature_options({}).model_dump()
    del settings["blackman_coeff"]
    front_end = FrontEnd(settings, 13, TransformOptions())
    front_end.check(with_settings(data).path)
    with pytest.raises(FormatError, match="blackman_coeff"):
        front_end.check(with_settings(data, blackman_coeff=0.3).path)


def test_where_kaldi_made_the_features_the_dimension_is_checked(
    data: DataDir, tmp_path: Path
) -> None:
    FrontEnd(None, 13, TransformOptions()).check(with_settings(data).path)
    (data.path / "features.json").unlink()
    FrontEnd(feature_options({}).model_dump(), 13, TransformOptions()).check(data.path)
    with pytest.raises(FormatError, match="13 dimensions, the model was trained on 40"):
        FrontEnd(None, 40, TransformOptions()).check(data.path)
    (data.path / "cmvn.scp").unlink()
    FrontEnd(None, 13, TransformOptions(cmvn="utterance")).check(data.path)
    with pytest.raises(DataError, match=r"cmvn\.scp"):
        FrontEnd(None, 13, TransformOptions()).check(data.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a front end"),
        ('{"features": null, "feature_dim": 13}', "transform"),
        ('{"features": null, "feature_dim": "13", "transform": {}}', "feature_dim"),
        ('{"features": null, "feature_dim": 13, "transform": {"cmn": 1}}', "cmn: unknown key"),
        ('{"features": null, "feature_dim": 13, "transform": 3}', "transform"),
    ],
)
def test_a_damaged_front_end_is_an_error_that_names_the_file(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "front_end.json").write_text(content)
    with pytest.raises((FormatError, RecipeError), match=message) as raised:
        FrontEnd.load(tmp_path)
    assert "front_end.json" in str(raised.value)


def test_a_model_directory_without_a_front_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"front_end\.json: no such file"):
        FrontEnd.load(tmp_path)


def test_reading_and_extracting_features_imports_no_torch() -> None:
    code = (
        "import sys, mariana_asr.features.extract, mariana_asr.features.front_end;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_splicing_joins_neighbours_after_normalisation(data: DataDir) -> None:
    transform = TransformOptions(splice_left=2, splice_right=1)
    feats = apply_cmvn(raw(data, "b1"), accumulate_cmvn_stats(raw(data, "b1")))
    read = FrontEnd.of(data, transform).read(data, "b1")
    assert read.shape == (len(feats), 4 * 13)
    assert np.allclose(read[10], feats[8:12].ravel(), atol=1e-6)
    assert np.allclose(read[0], np.concatenate([feats[[0, 0, 0]].ravel(), feats[1]]), atol=1e-6)
    with pytest.raises(RecipeError, match="exclude each other"):
        validated(TransformOptions, {"delta_order": 2, "splice_left": 4}, "recipe.yaml")


def test_a_matrix_and_the_speakers_transforms_come_last(data: DataDir, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    plain = FrontEnd.of(data, TransformOptions(splice_left=1, splice_right=1))
    matrix = random.normal(size=(5, 39)).astype(np.float32)
    front_end = plain.with_matrix(matrix)
    assert front_end.dim == 5
    speakers = {s: random.normal(size=(5, 6)).astype(np.float32) for s in "ab"}
    expected = plain.read(data, "a2") @ matrix.T @ speakers["a"][:, :5].T + speakers["a"][:, 5]
    assert np.allclose(front_end.read(data, "a2", speakers), expected, rtol=1e-4, atol=1e-4)
    read = dict(front_end.iterate(data, speakers=speakers))
    assert np.array_equal(read["a2"], front_end.read(data, "a2", speakers))
    skipped = Skipped("training")
    assert list(dict(front_end.iterate(data, skipped=skipped, speakers={"b": speakers["b"]}))) == [
        "b1"
    ]
    assert skipped.reasons["a1"] == "no fMLLR transform of its speaker a"
    front_end.save(tmp_path)
    assert FrontEnd.load(tmp_path) == front_end
    assert FrontEnd.load(tmp_path) != plain
    assert "spliced -1+1, final.mat: 5 values" in front_end.describe()


def test_a_matrix_of_another_model_is_an_error(data: DataDir, tmp_path: Path) -> None:
    front_end = FrontEnd.of(data, TransformOptions(splice_left=4, splice_right=4))
    front_end.with_matrix(np.ones((40, 117), np.float32)).save(tmp_path)
    write_matrix_file(tmp_path / "final.mat", np.ones((40, 91)))
    with pytest.raises(FormatError, match=r"shape \(40, 91\) does not fit features of 117"):
        FrontEnd.load(tmp_path)
    (tmp_path / "final.mat").write_bytes(b"garbage")
    with pytest.raises(FormatError, match=r"final\.mat"):
        FrontEnd.load(tmp_path)
    (tmp_path / "final.mat").unlink()
    with pytest.raises(FormatError, match=r"final\.mat"):
        FrontEnd.load(tmp_path)


def test_one_option_of_a_transform_leaves_the_others_at_their_defaults(data: DataDir) -> None:
    deltas = validated(MonoOptions, {"transform": {"norm_vars": True}}, "recipe.yaml").transform
    assert (deltas.delta_order, deltas.norm_vars) == (2, True)
    spliced = validated(LdaMlltOptions, {"transform": {"splice_left": 3}}, "recipe.yaml").transform
    assert (spliced.splice_left, spliced.splice_right, spliced.delta_order) == (3, 4, 0)
    plain = TransformOptions(delta_order=2, norm_vars=True)
    assert FrontEnd.of(data, deltas) == FrontEnd.of(data, plain)
