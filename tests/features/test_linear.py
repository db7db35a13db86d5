"""Linear and affine transforms, and their files."""

from pathlib import Path

import numpy as np
import pytest

from mariana_asr.errors import DataError, FormatError
from mariana_asr.features.linear import (
    apply_linear,
    compose_affine,
    read_matrix_file,
    write_matrix_file,
)

RANDOM = np.random.default_rng(0)


def test_transforms_may_have_an_offset() -> None:
    feats = RANDOM.normal(size=(7, 3)).astype(np.float32)
    matrix = RANDOM.normal(size=(2, 4)).astype(np.float32)
    expected = [[sum(row[d] * x[d] for d in range(3)) for row in matrix] for x in feats]
    assert np.allclose(apply_linear(feats, matrix[:, :3]), expected, atol=1e-6)
    assert np.allclose(apply_linear(feats, matrix), np.array(expected) + matrix[:, 3], atol=1e-6)
    with pytest.raises(DataError, match=r"\(2, 4\) does not fit features of 5"):
        apply_linear(np.zeros((7, 5), np.float32), matrix)


@pytest.mark.parametrize(("after", "before"), [(3, 6), (4, 7), (3, 7)])
def test_a_composed_transform_does_one_after_the_other(after: int, before: int) -> None:
    feats = RANDOM.normal(size=(5, 6)).astype(np.float32)
    first = RANDOM.normal(size=(3, before)).astype(np.float32)
    second = RANDOM.normal(size=(3, after)).astype(np.float32)
    expected = apply_linear(apply_linear(feats, first), second)
    assert np.allclose(apply_linear(feats, compose_affine(second, first)), expected, atol=1e-5)


def test_matrix_files_are_kaldis(golden: Path, tmp_path: Path) -> None:
    path = golden / "an4_kaldi/tri3/final.mat"
    matrix = read_matrix_file(path)
    assert matrix.shape == (40, 117)
    write_matrix_file(tmp_path / "copy.mat", matrix)
    assert (tmp_path / "copy.mat").read_bytes() == path.read_bytes()


def test_a_text_matrix_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_text(" [\n  1 2 3\n  4 5 6 ]\n")
    assert read_matrix_file(tmp_path / "x.mat").tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0BFM \4\0\0\0", b" [ 1 2 ]\n", b"\0B"])
def test_what_is_no_matrix_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.mat"):
        read_matrix_file(tmp_path / "x.mat")
    with pytest.raises(FormatError, match=r"gone\.mat"):
        read_matrix_file(tmp_path / "gone.mat")
