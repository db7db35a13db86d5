"""Kaldi archives: what is written is read back, by kaldi_native_io (Kaldi's own code) too."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mariana_asr.archives import (
    ArchiveWriter,
    iterate_matrices,
    read_int_vectors,
    read_matrix,
    read_script,
    write_int_vectors,
)
from mariana_asr.errors import DataError, FormatError
from mariana_asr.kaldi import kaldi_native_io

MATRICES = {
    "a": np.arange(12, dtype=np.float32).reshape(4, 3),
    "b": np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32),
}


def write(prefix: Path, compress: bool = False) -> None:
    with ArchiveWriter(prefix, compress=compress) as writer:
        for key, matrix in MATRICES.items():
            writer.write(key, matrix)


def test_matrices_come_back_through_archive_index_and_kaldi(tmp_path: Path) -> None:
    write(tmp_path / "feats")
    for path in (tmp_path / "feats.ark", tmp_path / "feats.scp"):
        read = dict(iterate_matrices(path))
        assert list(read) == ["a", "b"]
        assert all(np.array_equal(read[k], MATRICES[k]) for k in MATRICES)
    with kaldi_native_io.SequentialFloatMatrixReader(f"scp:{tmp_path / 'feats.scp'}") as reader:
        by_kaldi = {key: np.array(value) for key, value in reader}
    assert all(np.array_equal(by_kaldi[k], MATRICES[k]) for k in MATRICES)


def test_compressed_matrices_are_near_and_kaldi_reads_the_same(tmp_path: Path) -> None:
    write(tmp_path / "feats", compress=True)
    read = dict(iterate_matrices(tmp_path / "feats.scp"))
    assert np.abs(read["b"] - MATRICES["b"]).max() < np.ptp(MATRICES["b"]) / 64
    with kaldi_native_io.SequentialFloatMatrixReader(f"scp:{tmp_path / 'feats.scp'}") as reader:
        by_kaldi = {key: np.array(value) for key, value in reader}
    np.testing.assert_allclose(read["b"], by_kaldi["b"], atol=1e-5)


def test_a_failed_writer_leaves_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), ArchiveWriter(tmp_path / "feats") as writer:
        writer.write("a", MATRICES["a"])
        raise ValueError("boom")
    assert not list(tmp_path.iterdir())


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    write(tmp_path / "feats")
    ark = tmp_path / "feats.ark"
    ark.write_bytes(ark.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"feats\.ark"):
        list(iterate_matrices(ark))
    with pytest.raises(DataError, match=r"utterance b: cannot read"):
        read_matrix(read_script(tmp_path / "feats.scp")["b"], where="utterance b")


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.ark"):
        list(iterate_matrices(tmp_path / "no.ark"))
    with pytest.raises(DataError, match=r"no\.ark"):
        read_matrix(f"{tmp_path}/no.ark:5")


@pytest.mark.parametrize("line", ["key", "a x\na y"])
def test_a_bad_script_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "feats.scp").write_text(f"b z\n{line}\n")
    with pytest.raises(DataError, match=r"feats\.scp:[23]"):
        read_script(tmp_path / "feats.scp")


@given(
    st.dictionaries(
        st.text("abcXYZ019-_é", min_size=1),
        st.lists(st.integers(-(2**31), 2**31 - 1)).map(lambda v: np.array(v, dtype=np.int32)),
    )
)
def test_integer_vectors_come_back(tmp_path_factory: pytest.TempPathFactory, vectors) -> None:
    for name in ("ali.ark", "ali.1.gz"):
        path = tmp_path_factory.mktemp("ali") / name
        assert write_int_vectors(path, vectors.items()) == len(vectors)
        read = read_int_vectors(path)
        assert list(read) == list(vectors)
        assert all(np.array_equal(read[k], vectors[k]) for k in vectors)


def test_text_archives_of_integers_are_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "pdf.txt.gz", "wt") as file:
        file.write("a 1 2 3 \nb \nc 7\n")
    read = read_int_vectors(tmp_path / "pdf.txt.gz")
    assert {k: v.tolist() for k, v in read.items()} == {"a": [1, 2, 3], "b": [], "c": [7]}


def test_kaldis_alignments_are_read(golden: Path) -> None:
    alignments = read_int_vectors(golden / "an4_kaldi" / "mono" / "train_ali.ark")
    assert len(alignments) > 900
    with kaldi_native_io.SequentialInt32VectorReader(
        f"ark:{golden / 'an4_kaldi' / 'mono' / 'train_ali.ark'}"
    ) as reader:
        for key, value in reader:
            assert alignments[key].tolist() == list(value)


@pytest.mark.parametrize("damage", ["cut", "foreign", "missing"])
def test_a_damaged_archive_of_integers_is_a_format_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ali.ark"
    write_int_vectors(path, [("a", np.arange(100, dtype=np.int32))])
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.write_bytes(b"RIFF....WAVE fmt x y")
    with pytest.raises(FormatError, match=r"ali\.ark"):
        read_int_vectors(path)
