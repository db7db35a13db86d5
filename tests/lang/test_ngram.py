"""Witten-Bell n-gram models against the formula and against hand-counted values."""

import itertools
import math
import random
from pathlib import Path

import pytest

from mariana_asr.errors import DataError, StageError
from mariana_asr.lang.ngram import WittenBell, train_ngram

SENTENCES = ["a b a", "a b", "b a b c", "c", "a a a b"]

Arpa = dict[tuple[str, ...], tuple[float, float]]


def read_arpa(path: Path) -> tuple[int, Arpa]:
    """Order of a model, and its n-grams with log10 probabilities and back-off weights."""
    ngrams: Arpa = {}
    order = 0
    promised: dict[int, int] = {}
    found: dict[int, int] = {}
    for line in path.read_text().splitlines():
        if line.startswith("ngram "):
            number, count = line[6:].split("=")
            promised[int(number)] = int(count)
        elif line.endswith("-grams:"):
            order = int(line[1:].split("-")[0])
        elif line and not line.startswith("\\"):
            fields = line.split("\t")
            backoff = float(fields[2]) if len(fields) == 3 else 0.0
            ngrams[tuple(fields[1].split())] = (float(fields[0]), backoff)
            found[order] = found.get(order, 0) + 1
    assert promised == found
    return order, ngrams


def arpa_probability(arpa: Arpa, word: str, history: tuple[str, ...]) -> float:
    """Probability by the back-off rule of the ARPA format."""
    if (*history, word) in arpa:
        return 10 ** arpa[(*history, word)][0]
    backoff = 10 ** arpa[history][1] if history in arpa else 1.0
    return backoff * arpa_probability(arpa, word, history[1:])


def slow_probability(word: str, history: tuple[str, ...], lowest: dict[str, float]) -> float:
    """Interpolated Witten-Bell by counting substrings of SENTENCES."""
    padded = [["<s>", *s.split(), "</s>"] for s in SENTENCES]
    n = len(history)
    followers = [
        s[i + n]
        for s in padded
        for i in range(len(s) - n)
        if tuple(s[i : i + n]) == history and s[i + n] != "<s>"
    ]
    lower = slow_probability(word, history[1:], lowest) if history else lowest[word]
    if not followers:
        return lower
    types = len(set(followers))
    return (followers.count(word) + types * lower) / (len(followers) + types)


UNIFORM = dict.fromkeys(["a", "b", "c", "unseen", "</s>"], 1 / 5)
# One is added to each count, which makes 20; a word's part of them is of 4/5.
BACKGROUND = {"a": 2, "unseen": 14, "elsewhere": 99}
WEIGHTED = {"a": 3 / 25, "b": 1 / 25, "c": 1 / 25, "unseen": 15 / 25, "</s>": 1 / 5}


@pytest.mark.parametrize(
    ("background", "lowest"), [(None, UNIFORM), ({}, UNIFORM), (BACKGROUND, WEIGHTED)]
)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_arpa_file_gives_the_formulas_probabilities(
    tmp_path: Path, order: int, background: dict[str, int] | None, lowest: dict[str, float]
) -> None:
    vocabulary = ["a", "b", "c", "unseen"]
    train_ngram(SENTENCES, vocabulary, order, tmp_path / "lm.arpa", background)
    found, arpa = read_arpa(tmp_path / "lm.arpa")
    assert found == order
    for length in range(order):
        for history in itertools.product(["<s>", *vocabulary], repeat=length):
            if "<s>" in history[1:]:
                continue
            for word in [*vocabulary, "</s>"]:
                assert arpa_probability(arpa, word, history) == pytest.approx(
                    slow_probability(word, history, lowest), abs=1e-6
                )


def test_hand_counted_unigrams() -> None:
    model = WittenBell(["x", "y"], 1)
    model.add(["x", "x"])
    # Three events of two types; a third of the mass of types goes to each of x, y and the end.
    assert model.probability("x", ()) == pytest.approx((2 + 2 / 3) / 5)
    assert model.probability("y", ()) == pytest.approx((2 / 3) / 5)
    assert model.probability("</s>", ()) == pytest.approx((1 + 2 / 3) / 5)


@pytest.mark.parametrize("sentences", [1, 3, 300])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_for_every_history(
    tmp_path: Path, sentences: int, order: int
) -> None:
    generator = random.Random(sentences)
    digits = list("0123456789")
    texts = [
        " ".join(generator.choices(digits, k=generator.randint(1, 7))) for _ in range(sentences)
    ]
    train_ngram(texts, digits, order, tmp_path / "lm.arpa")
    order, arpa = read_arpa(tmp_path / "lm.arpa")
    histories = {h for h in arpa if len(h) < order and h[-1] != "</s>"} | {(), ("7", "7")}
    for history in histories:
        total = sum(arpa_probability(arpa, word, history) for word in [*digits, "</s>"])
        assert total == pytest.approx(1.0, abs=1e-5)


def test_seen_beats_unseen_on_a_corpus_of_one_sentence(tmp_path: Path) -> None:
    # Kneser-Ney's discount is 1 here, which would leave seen n-grams nothing at all.
    train_ngram(["one two three"], ["one", "two", "three", "four"], 3, tmp_path / "lm.arpa")
    _, arpa = read_arpa(tmp_path / "lm.arpa")
    seen = arpa_probability(arpa, "two", ("<s>", "one"))
    assert seen > 3 * arpa_probability(arpa, "four", ("<s>", "one")) > 0


def test_unknown_words_break_the_history_and_are_not_predicted(tmp_path: Path) -> None:
    train_ngram(["a oov b"], ["a", "b"], 2, tmp_path / "lm.arpa")
    _, arpa = read_arpa(tmp_path / "lm.arpa")
    assert ("oov",) not in arpa
    assert ("a", "b") not in arpa
    assert {h for h in arpa if len(h) == 2} == {("<s>", "a"), ("b", "</s>")}


def test_order_above_the_longest_sentence_gives_the_orders_there_are(tmp_path: Path) -> None:
    train_ngram(["a", "b", ""], ["a", "b"], 6, tmp_path / "lm.arpa")
    order, arpa = read_arpa(tmp_path / "lm.arpa")
    assert order == 3
    assert math.isclose(sum(10 ** arpa[(w,)][0] for w in ("a", "b", "</s>")), 1.0, abs_tol=1e-6)


def test_nothing_to_train_on_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no transcript has a word of the vocabulary"):
        train_ngram(["A B", ""], ["a", "b"], 2, tmp_path / "lm.arpa")
    assert list(tmp_path.iterdir()) == []


def test_order_below_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="order 0"):
        train_ngram(["a"], ["a"], 0, tmp_path / "lm.arpa")
