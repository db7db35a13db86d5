"""Front ends of networks: speakers' transforms at their end, and features of two kinds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mariana_asr.archives import ArchiveWriter, read_script
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError
from mariana_asr.features.deltas import add_deltas
from mariana_asr.features.extract import extract_features
from mariana_asr.features.fbank import FbankOptions
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.features.mfcc import MfccOptions
from mariana_asr.features.splice import splice

Matrix = NDArray[np.float32]
RANDOM = np.random.default_rng(7)
FIRST = {u: RANDOM.normal(3, 2, (20 + n, 4)).astype(np.float32) for n, u in enumerate("abc")}
SECOND = {u: RANDOM.normal(-1, 5, (20 + n, 3)).astype(np.float32) for n, u in enumerate("abc")}
SPEAKERS = {"a": "s", "b": "s", "c": "t"}
LDA = RANDOM.normal(size=(5, 12)).astype(np.float32)
FMLLR = {s: RANDOM.normal(size=(5, 6)).astype(np.float32) for s in "st"}
ADAPTED = FrontEnd(None, 4, TransformOptions(splice_left=1, splice_right=1), LDA, adapted=True)


def write_features(path: Path, matrices: dict[str, Matrix]) -> DataDir:
    with ArchiveWriter(path / "feats") as writer:
        for utterance, matrix in matrices.items():
            writer.write(utterance, matrix)
    speakers = {u: SPEAKERS[u] for u in matrices}
    data = DataDir(path, speakers, feats=read_script(path / "feats.scp"))
    data.write()
    return data


@pytest.fixture
def first(tmp_path: Path) -> DataDir:
    raw = write_features(tmp_path / "raw_first", FIRST)
    return extract_features(raw, tmp_path / "first", MfccOptions()).data


@pytest.fixture
def joined(first: DataDir, tmp_path: Path) -> DataDir:
    raw = write_features(tmp_path / "raw_second", SECOND)
    return extract_features(raw, tmp_path / "joined", FbankOptions(), beside=first).data


def without_mean(feats: Matrix, *others: Matrix) -> Matrix:
    return feats - np.concatenate([feats, *others]).mean(axis=0)


def by_hand(utterance: str, others: str = "") -> Matrix:
    """Mean of the speaker off, three frames spliced, LDA, fMLLR: each as it is written down."""
    feats = without_mean(FIRST[utterance], *(FIRST[u] for u in others))
    own = FMLLR[SPEAKERS[utterance]]
    return splice(feats, 1, 1) @ LDA.T @ own[:, :5].T + own[:, 5]


def test_adapted_features_are_those_of_the_gmms_and_transformed_by_speaker(first: DataDir) -> None:
    assert ADAPTED.dim == 5
    read = dict(ADAPTED.iterate(first, speakers=FMLLR))
    for utterance, others in (("a", "b"), ("b", "a"), ("c", "")):
        assert np.allclose(read[utterance], by_hand(utterance, others), rtol=1e-4, atol=1e-3)
        alone = ADAPTED.read(first, utterance, FMLLR)
        assert np.array_equal(read[utterance], alone)


def test_without_transforms_an_adapted_front_end_refuses(first: DataDir) -> None:
    for read in (
        lambda: ADAPTED.read(first, "a"),
        lambda: list(ADAPTED.iterate(first)),
        lambda: ADAPTED.check_speakers(None),
    ):
        with pytest.raises(DataError, match=r"adapted to each speaker.*--transform-dir"):
            read()
    # Where speakers could be adapted, but need not be, they are not.
    assert replace(ADAPTED, adapted=False).read(first, "a").shape == (20, 5)


def test_transforms_of_other_gmms_are_refused(first: DataDir) -> None:
    ADAPTED.check_speakers(FMLLR)
    ADAPTED.check_speakers({"s": FMLLR["s"][:, :5]})
    for shape in ((4, 5), (5, 7)):
        with pytest.raises(FormatError, match=r"speaker t has shape .* 5 values a frame"):
            ADAPTED.check_speakers(FMLLR | {"t": np.zeros(shape, np.float32)}, "decode/trans.1")
    with pytest.raises(DataError, match="no fMLLR transform of its speaker t"):
        ADAPTED.read(first, "c", {"s": FMLLR["s"]})


def test_features_of_two_kinds_stand_side_by_side_and_only_the_first_are_adapted(
    joined: DataDir,
) -> None:
    others = FrontEnd(None, 3, TransformOptions(delta_order=2))
    front_end = replace(ADAPTED, beside=others)
    assert (front_end.stored_dim, front_end.adapted_dim, front_end.dim) == (7, 5, 14)
    read = dict(front_end.iterate(joined, speakers=FMLLR))
    for utterance, same_speaker in (("a", "b"), ("b", "a"), ("c", "")):
        assert read[utterance].shape == (len(FIRST[utterance]), 14)
        adapted, own = np.split(read[utterance], [5], axis=1)
        assert np.allclose(adapted, by_hand(utterance, same_speaker), rtol=1e-4, atol=1e-3)
        second = without_mean(SECOND[utterance], *(SECOND[u] for u in same_speaker))
        assert np.allclose(own, add_deltas(second, 2), atol=1e-4)
        assert np.array_equal(read[utterance], front_end.read(joined, utterance, FMLLR))


def test_only_the_columns_that_ask_for_it_need_cmvn_statistics(joined: DataDir) -> None:
    plain = replace(ADAPTED, transform=TransformOptions(cmvn="none"), matrix=None)
    front_end = replace(plain, beside=FrontEnd(None, 3, TransformOptions(cmvn="none")))
    none = replace(joined, cmvn=None)
    unit = {s: np.eye(4, 5, dtype=np.float32) for s in "st"}
    assert np.array_equal(front_end.read(none, "a", unit), np.hstack([FIRST["a"], SECOND["a"]]))
    with pytest.raises(DataError, match=r"no cmvn\.scp"):
        replace(plain, beside=FrontEnd(None, 3, TransformOptions())).read(none, "a", unit)


def test_joining_keeps_what_has_both_kinds_and_lists_the_rest(
    first: DataDir, tmp_path: Path
) -> None:
    longer = np.concatenate([SECOND["b"], SECOND["b"][:1]])
    raw = write_features(tmp_path / "raw_second", {"b": longer, "c": SECOND["c"]})
    fewer = first.subset(["b", "c"])
    raw = replace(raw, utt2spk=SPEAKERS)
    summary = extract_features(raw, tmp_path / "joined", FbankOptions(), beside=fewer)
    assert summary.data.utterances == ["c"]
    assert summary.dim == 7
    assert summary.skipped["b"] == f"22 frames, but 21 in {first.path}"
    assert "no features" in summary.skipped["a"]
    raw = write_features(tmp_path / "raw_all", SECOND)
    summary = extract_features(raw, tmp_path / "joined", FbankOptions(), beside=fewer)
    assert summary.data.utterances == ["b", "c"]
    assert str(first.path) in summary.skipped["a"]


def with_settings(data: DataDir, first: object, second: object) -> DataDir:
    settings = {"type": "joined", "first": first, "second": second}
    (data.path / "features.json").write_text(json.dumps(settings))
    return data


def test_settings_of_both_kinds_are_checked(joined: DataDir) -> None:
    mfcc, fbank = MfccOptions().model_dump(), FbankOptions().model_dump()
    others = FrontEnd(fbank, 3, TransformOptions())
    front_end = replace(ADAPTED, features=mfcc, beside=others)
    # Both kinds come from Kaldi here: nothing is known of them but the dimension.
    front_end.check(joined.path)
    front_end.check(with_settings(joined, mfcc, fbank).path)
    with pytest.raises(FormatError, match=r"options.*: second\.low_freq \(model: 20\.0, data: 40"):
        front_end.check(with_settings(joined, mfcc, fbank | {"low_freq": 40.0}).path)
    with pytest.raises(FormatError, match=r"first\.num_ceps"):
        front_end.check(with_settings(joined, mfcc | {"num_ceps": 12}, fbank).path)
    front_end.check(with_settings(joined, None, fbank).path)
    (joined.path / "features.json").write_text(json.dumps(mfcc))
    with pytest.raises(FormatError, match=r"type \(model: joined, data: mfcc\)"):
        front_end.check(joined.path)
    (joined.path / "features.json").unlink()
    with pytest.raises(FormatError, match="7 dimensions, the model was trained on 8"):
        replace(front_end, beside=replace(others, feature_dim=4)).check(joined.path)


def test_all_of_it_comes_back_from_its_files(tmp_path: Path) -> None:
    others = FrontEnd(FbankOptions().model_dump(), 3, TransformOptions(delta_order=2))
    front_end = replace(ADAPTED, features=MfccOptions().model_dump(), beside=others)
    front_end.save(tmp_path)
    loaded = FrontEnd.load(tmp_path)
    assert loaded == front_end
    assert loaded.adapted
    assert replace(front_end, adapted=False) != loaded
    assert replace(front_end, beside=None) != loaded
    assert loaded.describe() == (
        "4 mfcc at 16000 Hz, CMN by speaker, spliced -1+1, final.mat, fMLLR by speaker; "
        "beside 3 fbank at 16000 Hz, CMN by speaker, deltas to order 2: 14 values a frame"
    )
