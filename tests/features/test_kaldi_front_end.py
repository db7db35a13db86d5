"""The front end of a Kaldi model, from the files beside it."""

from pathlib import Path

import numpy as np
import pytest

from mariana_asr.errors import FormatError
from mariana_asr.features.kaldi_front_end import read_kaldi_front_end
from mariana_asr.features.linear import write_matrix_file


def test_a_model_without_any_file_has_kaldis_defaults(tmp_path: Path) -> None:
    front_end = read_kaldi_front_end(tmp_path, 39)
    assert (front_end.feature_dim, front_end.dim) == (13, 39)
    assert front_end.transform.cmvn == "speaker"
    assert front_end.transform.delta_order == 2


def test_the_scripts_files_of_options_are_heeded(tmp_path: Path) -> None:
    (tmp_path / "cmvn_opts").write_text("--norm-means=true --norm-vars=true\n")
    (tmp_path / "delta_opts").write_text("--delta-order=1\n")
    front_end = read_kaldi_front_end(tmp_path, 40)
    assert front_end.transform.norm_vars
    assert (front_end.feature_dim, front_end.transform.delta_order) == (20, 1)


def test_a_matrix_means_splicing(tmp_path: Path, golden: Path) -> None:
    front_end = read_kaldi_front_end(golden / "an4_kaldi/tri3", 40)
    assert (front_end.feature_dim, front_end.dim) == (13, 40)
    assert (front_end.transform.splice_left, front_end.transform.splice_right) == (4, 4)
    write_matrix_file(tmp_path / "final.mat", np.ones((30, 20 * 7 + 1)))
    (tmp_path / "splice_opts").write_text("--left-context=3 --right-context=3")
    assert read_kaldi_front_end(tmp_path, 30).feature_dim == 20


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="40 dimensions does not go with"):
        read_kaldi_front_end(tmp_path, 40)
    (tmp_path / "cmvn_opts").write_text("--norm-mean=true")
    with pytest.raises(FormatError, match=r"'--norm-mean=true'.*--norm-means, --norm-vars"):
        read_kaldi_front_end(tmp_path, 39)
