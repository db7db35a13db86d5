"""G from ARPA files, transcripts and lists of words."""

import gzip
import itertools
import logging
import math
import random
from pathlib import Path

import numpy as np
import pytest
from lang_examples import path_cost
from test_ngram import arpa_probability, read_arpa

from mariana_asr.errors import FormatError, StageError
from mariana_asr.lang.fst_arrays import FstArrays, from_fst, read_fst, to_fst, write_fst
from mariana_asr.lang.grammar import arpa_to_g, grammar_problems, make_grammar
from mariana_asr.lang.langdir import Lang
from mariana_asr.lang.options import ArpaLm, NgramLm, SingleWordLm, WordLoopLm

TOY_ARPA = """\
\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-0.5\t</s>
-0.6\tone\t-0.2
-0.7\ttwo\t-0.1

\\2-grams:
-0.1\t<s> one
-0.2\tone two
-0.3\ttwo </s>

\\end\\
"""


def ids(lang: Lang, text: str) -> list[int]:
    return [lang.words[word] for word in text.split()]


def sentence_cost(lang: Lang, text: str) -> float | None:
    return path_cost(read_fst(lang.path / "G.fst"), outputs=ids(lang, text))


def test_an4_grammar_scores_random_strings_as_kaldis(
    an4_lang: Lang, corpora: Path, golden: Path
) -> None:
    make_grammar(an4_lang.path, ArpaLm(path=corpora / "an4" / "etc" / "an4.ug.lm"))
    theirs = read_fst(golden / "an4_kaldi" / "lang" / "G.fst")
    # The unknown word was taken out of the model for Kaldi's run.
    known = set(from_fst(theirs).olabel.tolist()) - {0}
    names = [word for word, number in an4_lang.words.items() if number in known]
    generator = random.Random(0)
    assert len(names) > 90
    for length in (1, 2, 3, 7, 20):
        text = " ".join(generator.choices(names, k=length))
        expected = path_cost(theirs, outputs=ids(an4_lang, text))
        assert sentence_cost(an4_lang, text) == pytest.approx(expected, abs=1e-3)
        assert expected == pytest.approx((length + 1) * 2.0253 * math.log(10), abs=1e-3)


def test_arpa_costs_follow_the_back_off_rule(toy_lang: Lang, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(TOY_ARPA)
    make_grammar(toy_lang.path, ArpaLm(path=tmp_path / "lm.arpa"))
    _, arpa = read_arpa(tmp_path / "lm.arpa")
    for text in ("one two", "two", "two one one", "one"):
        words = ["<s>", *text.split(), "</s>"]
        # The best path may back off where an n-gram exists; here none gains by it.
        expected = -sum(
            math.log(arpa_probability(arpa, word, (before,)))
            for before, word in itertools.pairwise(words)
        )
        assert sentence_cost(toy_lang, text) == pytest.approx(expected, abs=1e-4)


def test_gzipped_arpa_gives_the_same_grammar(toy_lang: Lang, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(TOY_ARPA)
    with gzip.open(tmp_path / "lm.arpa.gz", "wt") as file:
        file.write(TOY_ARPA)
    words = toy_lang.path / "words.txt"
    arpa_to_g(tmp_path / "lm.arpa", words, tmp_path / "plain.fst")
    arpa_to_g(tmp_path / "lm.arpa.gz", words, tmp_path / "packed.fst")
    assert (tmp_path / "plain.fst").read_bytes() == (tmp_path / "packed.fst").read_bytes()
    (tmp_path / "lm.arpa.gz").write_bytes((tmp_path / "lm.arpa.gz").read_bytes()[:60])
    with pytest.raises(FormatError, match=r"lm.arpa.gz: cannot be unpacked"):
        arpa_to_g(tmp_path / "lm.arpa.gz", words, tmp_path / "cut.fst")


def test_words_outside_of_the_dictionary_are_left_out_and_counted(
    toy_lang: Lang, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = TOY_ARPA.replace("1=4", "1=5").replace("-0.7\ttwo", "-0.7\tzebra\t-0.5\n-0.7\ttwo")
    text = text.replace("2=3", "2=4").replace("-0.2\tone two", "-0.2\tone zebra\n-0.2\tone two")
    (tmp_path / "lm.arpa").write_text(text)
    with caplog.at_level(logging.WARNING):
        make_grammar(toy_lang.path, ArpaLm(path=tmp_path / "lm.arpa"))
    assert "1 words outside of the dictionary are left out (zebra)" in caplog.text
    assert "lacks 5 words of the dictionary" in caplog.text
    assert sentence_cost(toy_lang, "one two") is not None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (("-0.7\ttwo", "x.7\ttwo"), r"line 9 .*invalid n-gram logprob 'x.7'"),
        (("one\t-0.2", "one\t-0.2\t-0.2"), "line 8 .*Invalid n-gram data line"),
        (("\\end\\", ""), "not a valid ARPA file"),
        (("\\1-grams:", "\\one-grams:"), "no .1-grams: section"),
    ],
)
def test_malformed_arpa_is_an_error_and_not_the_end_of_the_process(
    toy_lang: Lang, tmp_path: Path, damage: tuple[str, str], message: str
) -> None:
    (tmp_path / "lm.arpa").write_text(TOY_ARPA.replace(*damage, 1))
    with pytest.raises(FormatError, match=message):
        make_grammar(toy_lang.path, ArpaLm(path=tmp_path / "lm.arpa"))
    assert not (toy_lang.path / "G.fst").exists()


def test_arpa_in_other_case_than_the_dictionary_is_an_error(toy_lang: Lang, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(TOY_ARPA.replace("one", "ONE").replace("two", "TWO"))
    with pytest.raises(FormatError, match="shares no word with the dictionary"):
        make_grammar(toy_lang.path, ArpaLm(path=tmp_path / "lm.arpa"))
    with pytest.raises(FormatError, match="no such ARPA file"):
        make_grammar(toy_lang.path, ArpaLm(path=tmp_path / "nowhere.arpa"))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_grammar_of_transcripts_has_the_models_costs_for_all_words(
    toy_lang: Lang, order: int
) -> None:
    sentences = ["one two", "two two one", "a one to", "zebra one"]
    make_grammar(toy_lang.path, NgramLm(order=order), sentences)
    _, arpa = read_arpa(toy_lang.path / "lm.arpa")
    assert ("zebra",) not in arpa
    assert ("<UNK>",) not in arpa
    for text in ("one two", "ton", "too one two a"):
        words = ["<s>", *text.split(), "</s>"]
        expected = -sum(
            math.log(arpa_probability(arpa, words[i], tuple(words[max(0, i - order + 1) : i])))
            for i in range(1, len(words))
        )
        cost = sentence_cost(toy_lang, text)
        assert cost is not None
        # A detour over back-off arcs can only be cheaper, and by little.
        assert expected - 0.7 < cost <= expected + 1e-3


def test_word_loop_is_a_distribution_over_strings(toy_lang: Lang) -> None:
    make_grammar(toy_lang.path, WordLoopLm(words=["one", "two", "to"]))
    assert sentence_cost(toy_lang, "one") == pytest.approx(math.log(3) + math.log(4), abs=1e-5)
    assert sentence_cost(toy_lang, "to to one") == pytest.approx(
        math.log(3) + 3 * math.log(4), abs=1e-5
    )
    assert sentence_cost(toy_lang, "too") is None
    make_grammar(toy_lang.path, WordLoopLm(words=["one", "two"], end_prob=0.2))
    assert sentence_cost(toy_lang, "one two") == pytest.approx(
        2 * math.log(2) - math.log(0.8) - math.log(0.2), abs=1e-5
    )
    arrays = from_fst(read_fst(toy_lang.path / "G.fst"))
    for state in range(arrays.num_states):
        leaving = np.exp(-arrays.weight[arrays.source == state]).sum()
        assert leaving + np.exp(-arrays.final[state]) == pytest.approx(1.0, abs=1e-5)


def test_single_word_accepts_one_word(toy_lang: Lang) -> None:
    make_grammar(toy_lang.path, SingleWordLm())
    assert sentence_cost(toy_lang, "ton") == pytest.approx(math.log(6), abs=1e-5)
    assert sentence_cost(toy_lang, "ton ton") is None
    assert sentence_cost(toy_lang, "<UNK>") is None


@pytest.mark.parametrize("words", [["one", "zebra"], ["#0"], []])
def test_grammar_of_unknown_words_is_an_error(toy_lang: Lang, words: list[str]) -> None:
    with pytest.raises(StageError, match=r"dictionary lacks|no words"):
        make_grammar(toy_lang.path, WordLoopLm(words=words))


def test_unfit_grammars_are_told_before_they_reach_the_determinizer(toy_lang: Lang) -> None:
    zero, one, bos = (toy_lang.words[word] for word in ("#0", "one", "<s>"))

    def problems(*arcs: tuple[int, int, int, int], final: int = 1) -> str:
        columns = np.array(arcs, dtype=np.int32).reshape(-1, 4).T
        costs = np.full(3, np.inf, dtype=np.float32)
        costs[final] = 0.0
        fst = FstArrays(*columns, np.zeros(len(arcs), dtype=np.float32), costs)
        return "; ".join(grammar_problems(fst, toy_lang))

    good = (0, 1, one, one)
    assert problems(good) == ""
    assert problems(good, (1, 0, zero, 0)) == ""
    assert "cycle without words" in problems(good, (0, 2, zero, 0), (2, 0, 0, 0))
    assert "<s> or </s>" in problems((0, 1, bos, bos))
    assert "words.txt lacks (999)" in problems((0, 1, 999, 999))
    assert "a word on the output" in problems(good, (0, 1, zero, one))
    assert "G changes words" in problems((0, 1, one, one + 1))
    assert "has no words" in problems((0, 1, zero, 0))


def test_fst_files_of_both_kinds_are_read_and_damage_is_told(
    toy_lang: Lang, tmp_path: Path
) -> None:
    fst = read_fst(toy_lang.path / "L.fst")
    write_fst(tmp_path / "const.fst", fst, const=True)
    again = read_fst(tmp_path / "const.fst")
    for a, b in zip(vars(from_fst(fst)).values(), vars(from_fst(again)).values(), strict=True):
        assert np.array_equal(a, b)
    assert to_fst(from_fst(fst)).to_str() == fst.to_str()
    for name in ("const.fst", "vector.fst"):
        write_fst(tmp_path / name, fst, const=name.startswith("const"))
        content = (tmp_path / name).read_bytes()
        for length in (0, 5, 40, len(content) // 2, len(content) - 1):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(FormatError, match=name):
                read_fst(tmp_path / name)
    with pytest.raises(FormatError, match="no such file"):
        read_fst(tmp_path / "nowhere.fst")
