"""Result files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mariana_asr.errors import FormatError
from mariana_asr.score.error_counts import ErrorCounts
from mariana_asr.score.results import Result, kaldi_line, read_results, write_results

RESULT = Result("dnn", "test", "wer", 13.58, 105, 773, 11, 13, 81, 0.012, "dev", 10.0, 0.5)


def test_lines_are_like_those_of_kaldis_results_files():
    counts = ErrorCounts(errors=105, tokens=773, ins=11, del_=13, sub=81)
    line = "%WER 13.58 [ 105 / 773, 11 ins, 13 del, 81 sub ]"
    assert kaldi_line(counts) == line
    assert kaldi_line(counts, "exp/mono") == f"{line} exp/mono"
    assert kaldi_line(counts, metric="cer").startswith("%CER 13.58 [")


def test_results_json_has_exactly_the_agreed_keys(tmp_path: Path):
    write_results(tmp_path, [RESULT])
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {
            "system": "dnn",
            "test_set": "test",
            "metric": "wer",
            "percent": 13.58,
            "errors": 105,
            "tokens": 773,
            "ins": 11,
            "del": 13,
            "sub": 81,
            "rtf": 0.012,
            "tuned_on": "dev",
        }
    ]
    assert (tmp_path / "RESULTS").read_text() == (
        "%WER 13.58 [ 105 / 773, 11 ins, 13 del, 81 sub ] dnn/test lmwt=10 wip=0.5 (tuned on dev)\n"
    )


def test_a_networks_size_and_speed_come_with_its_results(tmp_path: Path):
    network = replace(RESULT, tuned_on="itself", parameters=1234, frames_per_second=9876.5)
    write_results(tmp_path, [RESULT, network])
    gmm, of_network = json.loads((tmp_path / "results.json").read_text())
    added = {"parameters": 1234, "frames_per_second": 9876.5}
    assert of_network == gmm | {"tuned_on": "itself"} | added
    assert (tmp_path / "RESULTS").read_text().endswith("(tuned on itself)\n")
    read = read_results(tmp_path)
    assert [(r.parameters, r.frames_per_second) for r in read] == [(None, None), (1234, 9876.5)]


def test_results_are_read_back(tmp_path: Path):
    write_results(tmp_path, [RESULT, RESULT])
    (first, _) = read_results(tmp_path)
    assert first.to_json() == RESULT.to_json()
    assert read_results(tmp_path / "results.json")[0] == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"errors": "many"}, "result 1: not a result"),
        ({"tuned_on": "train"}, "tuned_on 'train'"),
        ({"parameters": "many"}, "not a result"),
        ({"metric": "ser"}, "metric 'ser'"),
        ({"del": None}, "not a result"),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, change, message):
    (tmp_path / "results.json").write_text(json.dumps([RESULT.to_json() | change]))
    with pytest.raises(FormatError, match=message):
        read_results(tmp_path)


def test_missing_keys_and_files_are_refused(tmp_path: Path):
    with pytest.raises(FormatError, match="no such file"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('[{"system": "dnn"}]')
    with pytest.raises(FormatError, match="no key 'errors'"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(FormatError, match="expected a list"):
        read_results(tmp_path)
