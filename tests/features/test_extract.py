"""Features of whole data directories, good and bad."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from mariana_asr.archives import ArchiveWriter, read_matrix
from mariana_asr.corpus.datadir import DataDir, Segment, read_data_dir
from mariana_asr.errors import DataError, FormatError, StageError
from mariana_asr.features.cmvn import accumulate_cmvn_stats
from mariana_asr.features.compute import compute_features
from mariana_asr.features.extract import extract_features
from mariana_asr.features.options import feature_options
from mariana_asr.kaldi import kaldi_native_io

OPTIONS = feature_options({})


def sound(seconds: float, seed: int = 0, rate: int = 16000) -> NDArray[np.int16]:
    noise = np.random.default_rng(seed).normal(size=round(seconds * rate))
    return (noise * 1000).astype(np.int16)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """Three utterances of two speakers."""
    wav = {}
    for number, utterance in enumerate(["ann-1", "ann-2", "bob-1"]):
        path = tmp_path / "audio" / f"{utterance}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound(0.5 + 0.2 * number, number), 16000)
        wav[utterance] = str(path)
    directory = DataDir(
        path=tmp_path / "data",
        utt2spk={u: u[:3] for u in wav},
        text=dict.fromkeys(wav, "A WORD"),
        wav=wav,
        spk2gender={"ann": "f", "bob": "m"},
    )
    directory.write()
    return directory


def add(data: DataDir, utterance: str, samples: NDArray, rate: int = 16000, **kwargs: str) -> None:
    path = data.path.parent / "audio" / f"{utterance}.wav"
    soundfile.write(path, samples, rate, **kwargs)
    data.wav[utterance] = str(path)
    data.utt2spk[utterance] = utterance.split("-")[0]


def skipped_of(out: Path) -> dict[str, str]:
    lines = (out / "skipped.txt").read_text().splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def test_the_output_is_a_whole_data_directory(data: DataDir, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    result = extract_features(data, out, OPTIONS).data
    assert result == read_data_dir(out)
    assert result.text == data.text
    assert result.wav == data.wav
    assert result.spk2gender == data.spk2gender
    assert set(result.feats or {}) == {"ann-1", "ann-2", "bob-1"}
    for utterance, location in (result.feats or {}).items():
        samples = soundfile.read(data.wav[utterance], dtype="int16")[0].astype(np.float32)
        assert np.array_equal(read_matrix(location), compute_features(samples, 16000, OPTIONS))
    assert (out / "utt2num_frames").read_text() == "ann-1 48\nann-2 68\nbob-1 88\n"
    assert (out / "utt2dur").read_text() == "ann-1 0.500\nann-2 0.700\nbob-1 0.900\n"
    assert json.loads((out / "features.json").read_text()) == OPTIONS.model_dump()
    assert (out / "skipped.txt").read_text() == ""


def test_cmvn_statistics_are_sums_over_the_speakers_utterances(
    data: DataDir, tmp_path: Path
) -> None:
    result = extract_features(data, tmp_path / "feats", OPTIONS).data
    feats = {u: read_matrix(location) for u, location in (result.feats or {}).items()}
    assert set(result.cmvn or {}) == {"ann", "bob"}
    ann = read_matrix((result.cmvn or {})["ann"])
    both = np.concatenate([feats["ann-1"], feats["ann-2"]])
    assert np.allclose(ann, accumulate_cmvn_stats(both))


def test_kaldi_reads_the_features_compressed_or_not(data: DataDir, tmp_path: Path) -> None:
    plain = extract_features(data, tmp_path / "plain", OPTIONS).data
    small = extract_features(data, tmp_path / "small", OPTIONS, compress=True).data
    for result, tolerance in ((plain, 0.0), (small, 0.5)):
        with kaldi_native_io.SequentialFloatMatrixReader(f"scp:{result.path}/feats.scp") as table:
            read = {key: np.array(matrix) for key, matrix in table}
        assert set(read) == set(data.wav)
        for utterance, matrix in read.items():
            expected = read_matrix((plain.feats or {})[utterance])
            assert np.abs(matrix - expected).max() <= tolerance
    sizes = [(tmp_path / kind / "feats.ark").stat().st_size for kind in ("small", "plain")]
    assert sizes[0] < 0.5 * sizes[1]


def test_several_processes_make_the_same_files(data: DataDir, tmp_path: Path) -> None:
    one = extract_features(data, tmp_path / "one", OPTIONS, jobs=1).data
    two = extract_features(data, tmp_path / "two", OPTIONS, jobs=2).data
    for name in ("feats.ark", "cmvn.ark", "utt2num_frames", "utt2spk"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_segments_have_the_features_of_their_part(data: DataDir, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    recording = sound(3.0, 9)
    path = tmp_path / "audio" / "call.wav"
    soundfile.write(path, recording, 16000)
    segments = {"ann-a": Segment("call", 0.5, 1.25), "bob-b": Segment("call", 1.5, 3.0)}
    cut = DataDir(
        path=tmp_path / "cut",
        utt2spk={"ann-a": "ann", "bob-b": "bob", "bob-c": "bob"},
        wav={"call": str(path)},
        segments=segments | {"bob-c": Segment("call", 7.0, 8.0)},
    )
    result = extract_features(cut, out, OPTIONS).data
    part = recording[8000:20000].astype(np.float32)
    expected = compute_features(part, 16000, OPTIONS)
    assert np.array_equal(read_matrix((result.feats or {})["ann-a"]), expected)
    assert result.segments == segments
    assert set(skipped_of(out)) == {"bob-c"}
    assert "over the end" in skipped_of(out)["bob-c"]


def test_bad_utterances_are_skipped_each_with_its_reason(data: DataDir, tmp_path: Path) -> None:
    add(data, "bad-short", sound(0.02))
    add(data, "bad-rate", sound(0.5, rate=8000), 8000)
    add(data, "bad-stereo", np.stack([sound(0.5), sound(0.5)], axis=1))
    add(data, "bad-nan", np.full(8000, np.nan), subtype="FLOAT")
    add(data, "bad-empty", np.zeros(0, dtype=np.int16))
    add(data, "bad-cut", sound(1.0))
    cut = Path(data.wav["bad-cut"])
    cut.write_bytes(cut.read_bytes()[:9000])
    add(data, "bad-text", sound(0.5))
    Path(data.wav["bad-text"]).write_text("not audio")
    data.wav["bad-gone"], data.utt2spk["bad-gone"] = "/nowhere/gone.wav", "bad"
    data.wav["bad-pipe"], data.utt2spk["bad-pipe"] = f"touch {tmp_path}/ran |", "bad"
    data.utt2spk["bad-nowav"] = "bad"
    summary = extract_features(data, tmp_path / "feats", OPTIONS)
    reasons = skipped_of(tmp_path / "feats")
    assert reasons == summary.skipped
    assert not (tmp_path / "ran").exists()
    expected = {
        "bad-short": "0.020 s.*25 ms",
        "bad-rate": "8000 Hz.*16000 Hz",
        "bad-stereo": "2 channels",
        "bad-nan": "NaN",
        "bad-empty": "no samples|empty",
        "bad-cut": "cut short|promises",
        "bad-text": "not an audio file",
        "bad-gone": "no such audio file",
        "bad-pipe": "allow-pipes",
        "bad-nowav": "wav.scp",
    }
    assert reasons.keys() == expected.keys()
    for utterance, pattern in expected.items():
        with pytest.raises(ValueError, match=pattern):
            raise ValueError(reasons[utterance])
    assert summary.data == read_data_dir(tmp_path / "feats")
    assert summary.data.utterances == ["ann-1", "ann-2", "bob-1"]
    assert set(summary.data.cmvn or {}) == {"ann", "bob"}


def test_the_summary_counts_what_was_done(data: DataDir, tmp_path: Path) -> None:
    add(data, "bad-short", sound(0.02))
    summary = extract_features(data, tmp_path / "feats", OPTIONS)
    assert (summary.frames, summary.dim) == (48 + 68 + 88, 13)
    assert summary.audio_seconds == pytest.approx(0.5 + 0.7 + 0.9)
    assert summary.real_time_factor == pytest.approx(summary.wall_seconds / 2.1)
    assert summary.describe().startswith("3 utterances, 204 frames of 13 values, 0.00 hours")
    assert summary.describe().endswith("; 1 skipped")


def test_without_any_usable_utterance_the_old_output_stays(data: DataDir, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    extract_features(data, out, OPTIONS)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "skipped.txt"}
    bad = feature_options({"sample_frequency": 8000})
    with pytest.raises(StageError, match=r"none of 3 utterances.*16000 Hz"):
        extract_features(data, out, bad)
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "skipped.txt"}
    assert after == before


def test_a_second_run_replaces_the_first_as_a_whole(data: DataDir, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    extract_features(data, out, OPTIONS)
    fewer = data.subset(["ann-1", "ann-2"])
    fbank = feature_options({"type": "fbank"})
    extract_features(fewer, out, fbank)
    again = read_data_dir(out)
    assert again.utterances == ["ann-1", "ann-2"]
    assert set(again.cmvn or {}) == {"ann"}
    assert read_matrix((again.feats or {})["ann-2"]).shape == (68, 23)
    assert json.loads((out / "features.json").read_text())["type"] == "fbank"


def test_the_input_directory_is_never_the_output(data: DataDir) -> None:
    with pytest.raises(DataError, match="input directory"):
        extract_features(data, data.path / ".." / "data", OPTIONS)
    assert not (data.path / "feats.ark").exists()


def test_dither_is_reproduced_by_any_number_of_processes(data: DataDir, tmp_path: Path) -> None:
    dithered = feature_options({"dither": 1.0})
    extract_features(data, tmp_path / "one", dithered)
    extract_features(data, tmp_path / "two", dithered, jobs=2)
    assert (tmp_path / "one" / "feats.ark").read_bytes() == (
        tmp_path / "two" / "feats.ark"
    ).read_bytes()


@pytest.fixture
def from_kaldi(tmp_path: Path) -> DataDir:
    """A directory with features and no audio, as someone else's Kaldi may have left it."""
    generator = np.random.default_rng(0)
    path = tmp_path / "kaldi"
    path.mkdir()
    matrices = {u: generator.normal(size=(20, 13)).astype(np.float32) for u in ("a-1", "a-2")}
    matrices["a-3"] = generator.normal(size=(20, 40)).astype(np.float32)
    matrices["a-4"] = np.full((20, 13), np.nan, dtype=np.float32)
    with ArchiveWriter(path / "feats") as writer:
        for utterance, matrix in matrices.items():
            writer.write(utterance, matrix)
    scp = (path / "feats.scp").read_text()
    (path / "feats.scp").write_text(
        scp + f"a-5 /nowhere/raw_mfcc.1.ark:12\na-6 touch {tmp_path}/ran; cat x |\n"
    )
    utterances = [f"a-{number}" for number in range(1, 8)]
    (path / "utt2spk").write_text("".join(f"{u} a\n" for u in utterances))
    (path / "text").write_text("".join(f"{u} WORD\n" for u in utterances))
    return read_data_dir(path)


def test_features_without_audio_are_adopted_and_the_bad_ones_listed(
    from_kaldi: DataDir, tmp_path: Path
) -> None:
    out = tmp_path / "adopted"
    result = extract_features(from_kaldi, out, OPTIONS).data
    assert result == read_data_dir(out)
    assert result.utterances == ["a-1", "a-2"]
    reasons = skipped_of(out)
    assert "40 dimensions, while most have 13" in reasons["a-3"]
    assert "NaN" in reasons["a-4"]
    assert "raw_mfcc.1.ark" in reasons["a-5"]
    assert "not run" in reasons["a-6"]
    assert not (tmp_path / "ran").exists()
    assert "no features" in reasons["a-7"]
    assert not (out / "features.json").exists()
    for utterance in ("a-1", "a-2"):
        assert str(out) in (result.feats or {})[utterance]
        original = read_matrix((from_kaldi.feats or {})[utterance])
        assert np.array_equal(read_matrix((result.feats or {})[utterance]), original)
    stats = read_matrix((result.cmvn or {})["a"])
    assert stats[0, -1] == 40


def test_extraction_adopts_where_there_is_no_audio(from_kaldi: DataDir, tmp_path: Path) -> None:
    summary = extract_features(from_kaldi, tmp_path / "out", OPTIONS)
    assert summary.data.utterances == ["a-1", "a-2"]
    assert summary.audio_seconds is None
    assert summary.real_time_factor is None


def test_adopted_features_must_have_the_options_asked_for(data: DataDir, tmp_path: Path) -> None:
    made = extract_features(data, tmp_path / "made", OPTIONS).data
    silent = DataDir(path=made.path, utt2spk=made.utt2spk, text=made.text, feats=made.feats)
    again = extract_features(silent, tmp_path / "again", OPTIONS).data
    assert json.loads((again.path / "features.json").read_text()) == OPTIONS.model_dump()
    other = feature_options({"num_ceps": 12})
    with pytest.raises(FormatError, match=r"num_ceps \(asked for: 12, there: 13\)"):
        extract_features(silent, tmp_path / "other", other)


def test_a_directory_with_neither_audio_nor_features_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no audio, no features"):
        extract_features(DataDir(tmp_path / "x", {"a": "a"}), tmp_path / "y", OPTIONS)


def test_a_pickle_in_an_archive_is_not_loaded(tmp_path: Path, from_kaldi: DataDir) -> None:
    path = tmp_path / "evil.ark"
    path.write_bytes(b"a-1 PKL" + pickle.dumps(np.ones((3, 13))))
    (from_kaldi.feats or {})["a-1"] = f"{path}:4"
    extract_features(from_kaldi, tmp_path / "out", OPTIONS)
    assert "could run any code" in skipped_of(tmp_path / "out")["a-1"]
