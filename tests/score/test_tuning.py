"""The decoding weights are chosen on the dev set, whatever the test set would like."""

import logging
from pathlib import Path

import pytest

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.decode.decoder import hypothesis_file
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.errors import DataError, FormatError, StageError
from mariana_asr.files import write_json, write_text
from mariana_asr.score.error_counts import ErrorCounts
from mariana_asr.score.tuning import choose_setting, score_decodes, score_settings

REFERENCE = "一二 三四 五"
"""Three words, five characters."""


def decoded(folder: Path, hypotheses: dict[tuple[float, float], str], rtf=0.25):
    """A finished decoding of one utterance."""
    weights = sorted({weight for weight, _ in hypotheses})
    penalties = sorted({penalty for _, penalty in hypotheses})
    options = DecodeOptions(lm_weights=tuple(weights), word_insertion_penalties=tuple(penalties))
    for setting, text in hypotheses.items():
        write_text(hypothesis_file(folder, *setting), f"utt {text}".strip() + "\n")
    write_json(folder / "decode.json", {"rtf": rtf, "options": options.model_dump()})
    return folder, DataDir(folder / "data", {"utt": "spk"}, text={"utt": REFERENCE})


def test_the_headline_uses_the_devs_choice_and_the_comparison_the_tests(tmp_path: Path):
    dev = decoded(tmp_path / "dev", {(8, 0): "一二", (9, 0): REFERENCE, (10, 0): "一二 三四"})
    test = decoded(tmp_path / "test", {(8, 0): REFERENCE, (9, 0): "一二 三四", (10, 0): ""})
    dev_row, test_row, own_row = score_decodes("mono", dev, {"eval": test})
    assert (dev_row.tuned_on, dev_row.lm_weight, dev_row.errors) == ("dev", 9, 1)
    assert (test_row.tuned_on, test_row.lm_weight, test_row.errors) == ("test", 8, 0)
    assert dev_row.percent == 33.33
    assert (dev_row.system, dev_row.test_set, dev_row.rtf) == ("mono", "eval", 0.25)
    assert (dev_row.tokens, dev_row.del_, dev_row.ins, dev_row.sub) == (3, 1, 0, 0)
    assert (own_row.test_set, own_row.tuned_on) == ("dev", "itself")
    assert (own_row.lm_weight, own_row.errors, own_row.rtf) == (9, 0, 0.25)


def test_without_test_sets_the_dev_set_alone_is_scored(tmp_path: Path):
    dev = decoded(tmp_path / "dev", {(8, 0): "一二", (9, 0): "一二 三四"}, rtf=0.5)
    (row,) = score_decodes("mono", dev, {})
    assert (row.test_set, row.tuned_on, row.percent, row.rtf) == ("dev", "itself", 33.33, 0.5)


def test_each_metric_is_tuned_by_its_own_errors(tmp_path: Path):
    # 9: one word with two characters wrong; 10: two words with one character each.
    hypotheses = {(9, 0): "甲乙 三四 五", (10, 0): "一甲 三四 丙", (11, 0): ""}
    dev, test = decoded(tmp_path / "dev", hypotheses), decoded(tmp_path / "test", hypotheses)
    results = score_decodes("dnn", dev, {"eval": test}, ("wer", "cer"))
    assert [(r.metric, r.tuned_on, r.tokens) for r in results] == [
        ("wer", "dev", 3),
        ("wer", "test", 3),
        ("wer", "itself", 3),
        ("cer", "dev", 5),
        ("cer", "test", 5),
        ("cer", "itself", 5),
    ]
    assert (results[0].lm_weight, results[0].errors) == (9, 1)
    assert results[3].errors == 2


def test_every_test_set_gets_its_rows(tmp_path: Path):
    one = decoded(tmp_path / "one", {(10, 0): REFERENCE})
    other = decoded(tmp_path / "other", {(10, 0): ""})
    results = score_decodes("mono", one, {"one": one, "other": other})
    assert [(r.test_set, r.percent) for r in results] == [
        ("one", 0.0),
        ("one", 0.0),
        ("other", 100.0),
        ("other", 100.0),
        ("dev", 0.0),
    ]


def test_without_a_dev_set_the_weights_are_fixed_and_said_to_be(tmp_path: Path, caplog):
    caplog.set_level(logging.WARNING)
    test = decoded(tmp_path, {(w, p): "" for w in (7, 10, 12) for p in (0.0, 1.0)})
    fixed, _ = score_decodes("mono", None, {"eval": test})
    assert (fixed.tuned_on, fixed.lm_weight, fixed.penalty) == ("fixed", 10, 0)
    assert "no dev set" in caplog.text


def test_fixed_weights_fall_on_the_nearest_that_were_decoded(tmp_path: Path):
    test = decoded(tmp_path, {(1, 0.5): "", (2, 0.5): ""})
    fixed, _ = score_decodes("mono", None, {"eval": test})
    assert (fixed.lm_weight, fixed.penalty) == (2, 0.5)


def errors(table: dict[tuple[float, float], int]) -> dict[tuple[float, float], ErrorCounts]:
    return {setting: ErrorCounts(errors=n, tokens=100) for setting, n in table.items()}


def test_fewest_errors_win():
    assert choose_setting(errors({(7, 0): 5, (8, 0): 4, (9, 0): 5})) == (8, 0)


def test_among_equals_the_middle_of_the_plateau_wins():
    table = {(w, 0.0): n for w, n in zip(range(7, 13), [9, 4, 7, 4, 4, 4], strict=True)}
    # 8 is a lone minimum; of 10, 11 and 12 the last two have the best neighbours, 11 is lower.
    assert choose_setting(errors(table)) == (11, 0)


def test_of_settings_alike_in_all_the_lowest_penalty_then_the_lowest_weight_wins():
    assert choose_setting(errors({(w, p): 3 for w in (7, 8) for p in (0.0, 0.5)})) == (7, 0)


def test_a_setting_that_the_test_set_lacks_is_an_error(tmp_path: Path):
    dev = decoded(tmp_path / "dev", {(9, 0): REFERENCE})
    test = decoded(tmp_path / "test", {(8, 0): REFERENCE})
    with pytest.raises(StageError, match="LM weight 9 and penalty 0, with which"):
        score_decodes("mono", dev, {"eval": test})


def test_an_unfinished_decoding_is_not_scored(tmp_path: Path):
    folder, data = decoded(tmp_path, {(9, 0): REFERENCE})
    (folder / "decode.json").unlink()
    with pytest.raises(FormatError, match=r"decode.json: no such file"):
        score_settings(folder, data, "word")


def test_a_missing_hypothesis_file_is_named(tmp_path: Path):
    folder, data = decoded(tmp_path, {(9, 0): REFERENCE})
    hypothesis_file(folder, 9, 0).unlink()
    with pytest.raises(DataError, match=r"hyp/9_0.txt: no such file"):
        score_settings(folder, data, "word")


def test_hypotheses_of_other_utterances_are_refused_with_the_file(tmp_path: Path):
    folder, data = decoded(tmp_path, {(9, 0): REFERENCE})
    write_text(hypothesis_file(folder, 9, 0), "other one\n")
    with pytest.raises(DataError, match=r"hyp/9_0.txt: 1 hypotheses have no reference .* other"):
        score_settings(folder, data, "word")


def test_references_without_words_are_refused(tmp_path: Path):
    folder, data = decoded(tmp_path, {(9, 0): ""})
    data.text["utt"] = ""
    with pytest.raises(StageError, match="hold no words"):
        score_decodes("mono", None, {"eval": (folder, data)})
