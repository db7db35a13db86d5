"""What the lang room's tests share: AN4's dictionary and lang directory."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lang_examples import TOY_LEXICON, write_dict

from mariana_asr.lang.dictionary import read_dictionary
from mariana_asr.lang.langdir import Lang
from mariana_asr.lang.options import LangOptions
from mariana_asr.lang.prepare import prepare_lang


@pytest.fixture
def make_dict(tmp_path: Path) -> Callable[..., Path]:
    """A maker of dict directories under tmp_path/dict."""
    return lambda *args, **kwargs: write_dict(tmp_path / "dict", *args, **kwargs)


@pytest.fixture
def toy_lang(tmp_path: Path) -> Lang:
    """A small lang directory with homophones and a word that begins another."""
    dictionary = read_dictionary(write_dict(tmp_path / "toy_dict", TOY_LEXICON))
    return prepare_lang(dictionary, LangOptions(), tmp_path / "toy_lang")


@pytest.fixture(scope="session")
def an4_dict(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AN4's dictionary as Kaldi's recipe prepares it."""
    lines = (corpora / "an4" / "etc" / "an4.dic").read_text().splitlines()
    lexicon = [re.sub(r"(\(\d+\))?\s+", " ", line.strip()) for line in lines if line.strip()]
    text = "\n".join([*lexicon, "<UNK> SIL"]) + "\n"
    return write_dict(tmp_path_factory.mktemp("an4") / "dict", text, silence="SIL\n")


@pytest.fixture(scope="session")
def an4_lang(an4_dict: Path) -> Lang:
    """Our lang directory of AN4's dictionary."""
    return prepare_lang(read_dictionary(an4_dict), LangOptions(), an4_dict.parent / "lang")
