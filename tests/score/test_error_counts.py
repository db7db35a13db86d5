"""Error counts against a plain edit distance, and against what Kaldi's compute-wer printed."""

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mariana_asr.corpus.datadir import read_table
from mariana_asr.errors import DataError
from mariana_asr.score.error_counts import ErrorCounts, count_errors, score_texts, tokenize


def plain_edit_distance(wanted, given):
    """Wagner and Fischer's table, cell by cell."""
    table = [[0] * (len(given) + 1) for _ in range(len(wanted) + 1)]
    for row in range(len(wanted) + 1):
        for column in range(len(given) + 1):
            if row == 0 or column == 0:
                table[row][column] = row + column
                continue
            table[row][column] = min(
                table[row - 1][column] + 1,
                table[row][column - 1] + 1,
                table[row - 1][column - 1] + (wanted[row - 1] != given[column - 1]),
            )
    return table[-1][-1]


words = st.lists(st.sampled_from(["a", "b", "ab", "我", "们"]), max_size=9).map(" ".join)


@pytest.mark.parametrize("unit", ["word", "char"])
@given(reference=words, hypothesis=words)
@settings(max_examples=300, deadline=None)
def test_errors_are_the_least_number_of_edits(unit, reference, hypothesis):
    counts = count_errors(reference, hypothesis, unit)
    wanted, given_ = tokenize(reference, unit), tokenize(hypothesis, unit)
    assert counts.errors == plain_edit_distance(wanted, given_)
    assert counts.ins + counts.del_ + counts.sub == counts.errors
    assert counts.ins - counts.del_ == len(given_) - len(wanted)
    assert counts.tokens == len(wanted)
    assert counts.wrong_utterances == (wanted != given_)


@pytest.mark.parametrize(("system", "errors"), [("mono", 93), ("tri1", 77), ("tri3", 49)])
def test_totals_are_those_of_kaldis_compute_wer(golden: Path, system, errors):
    references = read_table(golden / "an4_kaldi" / "test_ref.txt")
    hypotheses = read_table(golden / "an4_kaldi" / system / "test_hyp.txt")
    counts = score_texts(references, hypotheses)
    assert (counts.errors, counts.tokens, counts.utterances) == (errors, 773, 130)


def test_characters_are_counted_without_the_spaces_between_words():
    counts = count_errors("今天 天气 很 好", "今天天 气真好", "char")
    assert (counts.errors, counts.tokens, counts.sub) == (1, 6, 1)
    assert tokenize(" 我 们\u3000ab ", "char") == ["我", "们", "a", "b"]


def test_white_space_and_its_amount_do_not_count():
    assert count_errors("one  two\t", " one two").errors == 0


def test_an_empty_reference_makes_every_word_an_insertion():
    counts = score_texts({"a": "", "b": "one"}, {"a": "two three", "b": "one"})
    assert (counts.errors, counts.ins, counts.tokens, counts.wrong_utterances) == (2, 2, 1, 1)
    assert counts.percent == 200.0


def test_references_without_words_have_no_finite_error_rate():
    assert score_texts({"a": ""}, {"a": ""}).percent == 0.0
    assert score_texts({"a": ""}, {"a": "one"}).percent == float("inf")


def test_an_utterance_without_hypothesis_counts_as_deleted_with_a_warning(caplog):
    caplog.set_level(logging.WARNING)
    counts = score_texts({"a": "one two three", "b": "one"}, {"b": "one"})
    assert (counts.errors, counts.del_, counts.utterances) == (3, 3, 2)
    assert "1 of 2 utterances have no hypothesis (a)" in caplog.text


def test_hypotheses_without_reference_are_an_error_that_lists_them():
    hypotheses = {f"u{i}": "one" for i in range(9)}
    with pytest.raises(DataError, match=r"8 hypotheses .*: u1, u2, u3, u4, u5 and 3 more"):
        score_texts({"u0": "one"}, hypotheses)


def test_no_references_at_all_are_an_error():
    with pytest.raises(DataError, match="no reference transcripts"):
        score_texts({}, {})


def test_counts_add_up():
    one, other = count_errors("a b", "a c d"), count_errors("a", "")
    assert one + other == ErrorCounts(3, 3, 1, 1, 1, 2, 2)


def test_very_long_texts_are_scored():
    reference = " ".join(str(i) for i in range(3000))
    assert count_errors(reference, reference + " x").ins == 1
