from pathlib import Path

import pytest

from mariana_asr.corpus.prepare.arpa import restrict_arpa
from mariana_asr.errors import FormatError
from mariana_asr.kaldi import kaldilm

MODEL = r"""A 2-gram model; \data\ marks its beginning.
\data\
ngram 1=5
ngram 2=3

\1-grams:
-1.0 <s> -0.5
-0.5 </s> -99.0
-0.6 a -0.3
-0.7 b -0.2
-0.8 c

\2-grams:
-0.1 <s> a
-0.2 a b
-0.3 b </s>

\end\
"""


def test_ngrams_with_words_outside_the_vocabulary_go_and_counts_follow():
    restricted = restrict_arpa(MODEL, {"a", "c"}, Path("lm"))
    assert restricted.startswith("\\data\\\nngram 1=4\nngram 2=1\n")
    assert "-0.1\t<s> a\n" in restricted
    assert "b" not in restricted.replace("ngram", "")
    assert restricted.rstrip().endswith("\\end\\")


def test_a_model_whose_words_are_all_known_keeps_its_ngrams():
    lines = set(restrict_arpa(MODEL, {"a", "b", "c"}, Path("lm")).split("\n"))
    assert {"-0.6\ta\t-0.3", "-0.8\tc", "-0.2\ta b", "-0.3\tb </s>", "-0.5\t</s>"} <= lines


def test_the_result_is_a_model_for_arpa2fst(tmp_path):
    (tmp_path / "lm.arpa").write_text(restrict_arpa(MODEL, {"a", "b"}, Path("lm")))
    (tmp_path / "words.txt").write_text("<eps> 0\na 1\nb 2\n#0 3\n<s> 4\n</s> 5\n")
    text = kaldilm.arpa2fst(
        input_arpa=str(tmp_path / "lm.arpa"),
        disambig_symbol="#0",
        read_symbol_table=str(tmp_path / "words.txt"),
    )
    words = [line.split()[2] for line in text.splitlines() if len(line.split()) >= 4]
    assert sorted(word for word in words if word in "12") == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("\\data\\\n", ""), "no .data. section"),
        (lambda text: text.replace("\\end\\", ""), "cut short"),
        (lambda text: text.replace("-0.7 b -0.2", "-0.7 b -0.2 x"), "lm:10: .* is no 1-gram"),
        (lambda text: text.replace("-0.7 b", "much b"), "lm:10: .* is no 1-gram"),
        (lambda text: text.replace("-0.2 a b", "-0.2 a"), "lm:15: .* is no 2-gram"),
        (lambda text: text.replace("ngram 2=3", "ngrams: 3"), "lm:4: .* is no n-gram count"),
    ],
)
def test_a_damaged_model_is_refused_with_its_line(damage, message):
    with pytest.raises(FormatError, match=message):
        restrict_arpa(damage(MODEL), {"a", "b"}, Path("lm"))
