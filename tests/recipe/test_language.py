"""What a lang directory's language model is made of."""

from pathlib import Path

import pytest

from mariana_asr.corpus.prepare.dict_dir import write_dict_dir
from mariana_asr.errors import FormatError
from mariana_asr.lang.options import NgramLm
from mariana_asr.recipe.language import make_lang
from mariana_asr.recipe.schema import LangSection

SECTION = LangSection(lm=NgramLm(order=2))


def unigrams(lang: Path) -> dict[str, float]:
    """Log10 probabilities of the words of lm.arpa."""
    lines = (lang / "lm.arpa").read_text().split("\\1-grams:\n")[1].split("\n\n")[0].splitlines()
    return {word: float(value) for value, word, *_ in (line.split("\t") for line in lines)}


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    lexicon = [(word, ["P"]) for word in ("seen", "common", "rare")]
    write_dict_dir(tmp_path / "dict", lexicon, ["P"])
    return tmp_path / "dict"


def test_counts_of_words_beside_the_lexicon_tell_unseen_words_apart(dictionary, tmp_path):
    make_lang(SECTION, dictionary, ["seen seen"], tmp_path / "lang")
    alike = unigrams(tmp_path / "lang")
    assert alike["common"] == alike["rare"]
    (dictionary / "word_counts.txt").write_text("common 99\nrare 9\nseen 0\n")
    make_lang(SECTION, dictionary, ["seen seen"], tmp_path / "lang")
    counted = unigrams(tmp_path / "lang")
    # A hundred against ten, one being added to each.
    assert counted["common"] - counted["rare"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("count", ["many", "-1", "1.5", ""])
def test_a_count_that_is_no_number_is_named(dictionary, tmp_path, count):
    (dictionary / "word_counts.txt").write_text(f"seen {count}\n")
    with pytest.raises(FormatError, match=r"word_counts.txt: seen has the count"):
        make_lang(SECTION, dictionary, ["seen"], tmp_path / "lang")
