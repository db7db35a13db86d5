"""The command that learns probabilities of pronunciations, and what follows it."""

import re
import shutil
from pathlib import Path

import pytest
from invoking import run

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.lang.dictionary import read_dictionary
from mariana_asr.lang.fst_arrays import from_fst, read_fst


@pytest.fixture
def an4(corpora: Path, golden: Path, tmp_path: Path) -> Path:
    """AN4's transcripts and dictionary, with Kaldi's alignments of them."""
    text = {}
    places = (corpora / "an4/etc/an4_train.fileids").read_text().split()
    lines = (corpora / "an4/etc/an4_train.transcription").read_text().splitlines()
    for place, line in zip(places, lines, strict=True):
        name, speaker, take = place.rsplit("/", 1)[1].split("-")
        words = line.rsplit("(", 1)[0].split()
        text[f"{speaker}-{name}-{take}"] = " ".join(w for w in words if w not in ("<s>", "</s>"))
    DataDir(tmp_path / "data", {u: u.split("-")[0] for u in text}, text=text).write()
    lexicon = (corpora / "an4/etc/an4.dic").read_text()
    lines = [re.sub(r"(\(\d+\))?\s+", " ", line.strip()) for line in lexicon.splitlines()]
    (tmp_path / "lexicon.txt").write_text("\n".join([*filter(None, lines), "<UNK> SIL"]) + "\n")
    (tmp_path / "ali").mkdir()
    shutil.copy(golden / "an4_kaldi/tri3/final.mdl", tmp_path / "ali")
    shutil.copy(golden / "an4_kaldi/tri3/train_ali.ark", tmp_path / "ali/ali.1.ark")
    return tmp_path


def test_a_dictionary_is_learnt_and_makes_a_lang_directory(an4: Path, golden: Path) -> None:
    lang = golden / "an4_kaldi/lang"
    arguments = (an4 / "data", lang, an4 / "ali", an4 / "lexicon.txt", an4 / "dict", "-j", 1)
    result = run("pronunciations", *arguments)
    assert result.exit_code == 0, result.output
    assert "5442 words in 948 utterances, 112 of 131 pronunciations occur" in result.output
    learnt = read_dictionary(an4 / "dict")
    assert learnt.silence is not None
    assert (learnt.silence.begin, learnt.silence.overall) == (0.95, 0.43)

    result = run("lang", an4 / "dict", an4 / "lang", "lm.type=word_loop")
    assert result.exit_code == 0, result.output
    assert run("validate", an4 / "lang").exit_code == 0
    assert (an4 / "lang/phones.txt").read_bytes() == (lang / "phones.txt").read_bytes()
    # Two states that words leave from, with and without silence before.
    arcs = from_fst(read_fst(an4 / "lang/L.fst"))
    assert len(set(arcs.source[arcs.olabel > 0].tolist())) == 2

    result = run("pronunciations", *arguments, "silence=false")
    assert result.exit_code == 0, result.output
    assert not (an4 / "dict/lexiconp_silprob.txt").exists()


def test_what_is_missing_is_named_without_a_traceback(an4: Path, golden: Path) -> None:
    lang = golden / "an4_kaldi/lang"
    (an4 / "ali/final.mdl").unlink()
    arguments = (an4 / "data", lang, an4 / "ali", an4 / "lexicon.txt", an4 / "dict", "-j", 1)
    result = run("pronunciations", *arguments)
    assert result.exit_code == 1
    assert "no final.mdl here" in result.output
    assert "Traceback" not in result.output
    result = run("pronunciations", *arguments, "max_normalise=false")
    assert result.exit_code == 1
    assert "did you mean 'max_normalize'?" in result.output
