"""Checking lang directories: Kaldi's pass, damaged ones are told what is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mariana_asr.errors import FormatError
from mariana_asr.kaldi import kaldifst
from mariana_asr.lang.fst_arrays import read_fst
from mariana_asr.lang.grammar import make_grammar
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.options import WordLoopLm
from mariana_asr.lang.validate import validate_lang


def test_kaldis_own_lang_directory_is_read_and_passes(golden: Path) -> None:
    lang = read_lang(golden / "an4_kaldi" / "lang")
    assert validate_lang(lang.path) == []
    assert lang.oov_word == "<UNK>"
    assert lang.optional_silence == 1
    assert lang.silence_phones == [1, 2, 3, 4, 5]
    assert len(lang.nonsilence_phones) == 132
    assert lang.disambig_phones == [138, 139, 140, 141]
    assert lang.disambig_words == [103]
    assert lang.phone_sets[1] == [6, 7, 8, 9]
    assert len(lang.speakable_words()) == 101
    assert lang.transcript_to_ids("ZERO XYZZY </s>") == [102, 1, 1]


def test_our_lang_directory_passes(toy_lang: Lang) -> None:
    make_grammar(toy_lang.path, WordLoopLm())
    assert validate_lang(toy_lang.path) == []


def test_lang_directory_of_an_older_kaldi_lacks_some_files(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "an4_kaldi" / "lang", tmp_path / "lang")
    for name in ("phones/wdisambig_words.int", "phones/roots.int", "oov.int"):
        (tmp_path / "lang" / name).chmod(0o644)
        (tmp_path / "lang" / name).parent.chmod(0o755)
        (tmp_path / "lang").chmod(0o755)
        (tmp_path / "lang" / name).unlink()
    lang = read_lang(tmp_path / "lang")
    assert lang.disambig_words == [103]
    assert lang.oov == 1
    assert lang.roots[0].phones == [1, 2, 3, 4, 5]


def rewrite(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return damage


def unsort(folder: Path) -> None:
    fst = read_fst(folder / "L.fst")
    kaldifst.arcsort(fst, sort_type="ilabel")
    fst.write(str(folder / "L.fst"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rewrite("words.txt", "<eps> 0", "<eps> 77"), "words.txt: <eps> must have the id 0"),
        (rewrite("words.txt", "one 3", "one 4"), "words.txt: two symbols have one id"),
        (rewrite("words.txt", "one 3", "one"), "words.txt:4: expected 'symbol id'"),
        (rewrite("words.txt", "one 3", "two 3"), "words.txt:8: the symbol 'two' comes twice"),
        (rewrite("phones/silence.int", "1\n", ""), "silence.int:1: does not correspond"),
        (rewrite("phones/silence.csl", "1:2", "2:1"), "silence.csl: does not correspond"),
        (rewrite("phones/nonsilence.int", "12\n", "1\n"), "phone 1 is in silence.int and in"),
        (rewrite("phones/nonsilence.int", "12\n", "999\n"), "'999' is not an id"),
        (rewrite("phones/sets.int", "11 12", "11 11"), "sets.int: does not hold every phone"),
        (rewrite("phones/roots.int", "shared split", "shared"), "expected 'shared|not-shared"),
        (
            rewrite("phones/word_boundary.int", "11 begin", "11 end"),
            "word_boundary.int:11: does not",
        ),
        (
            rewrite("phones/word_boundary.int", "11 begin", "11 start"),
            "unknown categories ['start']",
        ),
        (rewrite("phones/align_lexicon.int", "3 3", "3 4"), "align_lexicon.int:4: does not"),
        (rewrite("oov.int", "1", "999"), "'999' is not an id"),
        (rewrite("topo", " 12 ", " "), "topo: no topology for the phones"),
        (rewrite("topo", "<Topology>", "Topology"), "topo: not an HMM topology: Expected token"),
        (unsort, "L.fst: arcs are not sorted by output label"),
        (lambda folder: (folder / "L.fst").write_bytes(b"no FST"), "L.fst: not an OpenFst file"),
        (lambda folder: (folder / "L_disambig.fst").unlink(), "L_disambig.fst: no such file"),
        (lambda folder: (folder / "topo").unlink(), "topo: no such file"),
        (
            lambda folder: shutil.copy(folder / "L.fst", folder / "L_disambig.fst"),
            "L_disambig.fst: does not pass #0 through",
        ),
        (
            lambda folder: (folder / "words.txt").write_bytes(b"caf\xe9 0\n"),
            "words.txt: not UTF-8",
        ),
    ],
)
def test_damage_is_told(toy_lang: Lang, damage: Callable[[Path], None], message: str) -> None:
    damage(toy_lang.path)
    problems = validate_lang(toy_lang.path)
    assert message in "\n".join(problems)


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such lang directory"):
        read_lang(tmp_path / "nowhere")
    assert "no such lang directory" in validate_lang(tmp_path / "nowhere")[0]
