"""Lang directories against Kaldi's own and against small examples."""

import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lang_examples import path_cost

from mariana_asr.errors import DataError
from mariana_asr.kaldi import kaldi_hmm_gmm
from mariana_asr.lang.dictionary import Dictionary, Pronunciation, read_dictionary
from mariana_asr.lang.fst_arrays import from_fst, read_fst
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.lexicon_fst import add_disambiguation
from mariana_asr.lang.options import LangOptions
from mariana_asr.lang.prepare import prepare_lang
from mariana_asr.lang.topology import topology_text
from mariana_asr.lang.validate import validate_lang


def test_every_text_file_of_an4_equals_kaldis_byte_for_byte(an4_lang: Lang, golden: Path) -> None:
    theirs = golden / "an4_kaldi" / "lang"
    names = {
        str(file.relative_to(theirs))
        for file in theirs.rglob("*")
        if file.is_file() and file.suffix != ".fst"
    }
    ours = {
        str(file.relative_to(an4_lang.path))
        for file in an4_lang.path.rglob("*")
        if file.is_file() and file.suffix != ".fst"
    }
    assert ours == names
    for name in sorted(names):
        assert (an4_lang.path / name).read_bytes() == (theirs / name).read_bytes(), name


@pytest.mark.parametrize("name", ["L.fst", "L_disambig.fst"])
def test_lexicon_transducers_of_an4_hold_kaldis_arcs(
    an4_lang: Lang, golden: Path, name: str
) -> None:
    # State numbers follow the order of the dictionary's lines, which Kaldi's run kept as well.
    ours, theirs = (
        from_fst(read_fst(folder / name))
        for folder in (an4_lang.path, golden / "an4_kaldi" / "lang")
    )
    assert ours.num_states == theirs.num_states
    assert len(ours.source) == len(theirs.source)
    labels = [
        sorted(zip(f.ilabel, f.olabel, f.weight.round(4), strict=True)) for f in (ours, theirs)
    ]
    assert labels[0] == labels[1]


@pytest.mark.parametrize("name", ["L.fst", "L_disambig.fst"])
def test_lexicon_transducers_of_an4_score_random_word_strings_as_kaldis(
    an4_lang: Lang, golden: Path, name: str
) -> None:
    ours = read_fst(an4_lang.path / name)
    theirs = read_fst(golden / "an4_kaldi" / "lang" / name)
    generator = random.Random(1)
    words = sorted(
        set(an4_lang.words.values()) - {0, an4_lang.words["<s>"], an4_lang.words["</s>"]}
    )
    if name == "L.fst":
        words.remove(an4_lang.words["#0"])
    for length in (1, 1, 2, 3, 5, 8):
        string = generator.choices(words, k=length)
        cost = path_cost(ours, outputs=string)
        assert cost is not None
        assert cost == pytest.approx(path_cost(theirs, outputs=string), abs=1e-4)


def test_disambiguation_symbols_are_those_of_add_lex_disambig() -> None:
    prons = [("T", "UW"), ("T", "UW"), ("T", "AH"), ("T", "AH", "N"), ("AH",), ("T", "UW")]
    marked, highest = add_disambiguation(prons)
    assert marked == [
        ("T", "UW", "#1"),
        ("T", "UW", "#2"),
        ("T", "AH", "#1"),
        ("T", "AH", "N"),
        ("AH",),
        ("T", "UW", "#3"),
    ]
    assert highest == 3


def test_words_are_sorted_by_bytes_and_ids_follow(tmp_path: Path) -> None:
    entries = [Pronunciation(word, 1.0, ("A",)) for word in ("b", "語", "é", "B", "a")]
    dictionary = Dictionary(entries, [["SIL"]], [["A"]], "SIL")
    lang = prepare_lang(dictionary, LangOptions(), tmp_path)
    assert list(lang.words) == ["<eps>", "<UNK>", "B", "a", "b", "é", "語", "#0", "<s>", "</s>"]
    assert lang.transcript_to_ids("a 語 nowhere #0") == [3, 6, 1, 1]
    assert lang.oov_words("a 語 nowhere #0") == ["nowhere", "#0"]


def test_l_gives_pronunciation_and_silence_costs(toy_lang: Lang) -> None:
    fst = read_fst(toy_lang.path / "L.fst")
    phones = [toy_lang.phones[p] for p in ("T_B", "UW_E", "SIL", "W_B", "AH_I", "N_E")]
    # No silence before the first word, silence after it, none at the end: half each.
    cost = path_cost(fst, phones, [toy_lang.words["two"], toy_lang.words["one"]])
    assert cost == pytest.approx(3 * math.log(2), abs=1e-5)
    assert path_cost(fst, phones, [toy_lang.words["one"], toy_lang.words["two"]]) is None


def test_pronunciation_probabilities_become_costs(tmp_path: Path) -> None:
    entries = [Pronunciation("a", 1.0, ("A",)), Pronunciation("a", 0.2, ("B", "C", "A"))]
    dictionary = Dictionary(entries, [["SIL"]], [["A"], ["B"], ["C"]], "SIL")
    lang = prepare_lang(dictionary, LangOptions(sil_prob=0.0), tmp_path)
    fst = read_fst(tmp_path / "L.fst")
    word = lang.words["a"]
    assert path_cost(fst, [lang.phones["A_S"]], [word]) == pytest.approx(0.0)
    long = [lang.phones[p] for p in ("B_B", "C_I", "A_E")]
    assert path_cost(fst, [*long, *long], [word, word]) == pytest.approx(
        -2 * math.log(0.2), abs=1e-5
    )
    assert path_cost(fst, [*long, lang.phones["SIL"]], [word]) is None


def test_l_disambig_gives_each_phone_string_one_word_string(toy_lang: Lang) -> None:
    fst = read_fst(toy_lang.path / "L_disambig.fst")
    arrays = from_fst(fst)
    highest = max(toy_lang.disambig_phones)
    # The last symbol follows optional silence; #0 passes through.
    assert (arrays.ilabel == highest).sum() == 1
    zero = arrays.ilabel == toy_lang.phones["#0"]
    assert (arrays.olabel[zero] == toy_lang.words["#0"]).all()
    assert zero.any()
    words = [toy_lang.words[w] for w in ("two", "too", "to")]
    base = [toy_lang.phones["T_B"], toy_lang.phones["UW_E"]]
    for (n, symbol), (m, word) in itertools.product(
        enumerate(("#1", "#2", "#3")), enumerate(words)
    ):
        cost = path_cost(fst, [*base, toy_lang.phones[symbol]], [word])
        assert (cost is not None) == (n == m)


def test_phones_without_position_have_no_word_boundaries(
    make_dict: Callable[..., Path], tmp_path: Path
) -> None:
    dictionary = read_dictionary(make_dict("a AH\nb B AH\n"))
    lang = prepare_lang(dictionary, LangOptions(position_dependent_phones=False), tmp_path / "lang")
    assert list(lang.phones) == ["<eps>", "SIL", "SPN", "AH", "B", "#0", "#1"]
    assert lang.word_boundary is None
    assert (tmp_path / "lang/phones/extra_questions.txt").read_text() == ""
    assert (tmp_path / "lang/phones/align_lexicon.txt").read_text().splitlines() == [
        "<UNK> <UNK> SPN",
        "<eps> <eps> SIL",
        "a a AH",
        "b b B AH",
    ]
    assert validate_lang(tmp_path / "lang") == []


def test_phones_of_one_line_share_roots_and_questions_expand(
    make_dict: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_dict("a AH0\nb AH1\n", speech="AH0 AH1\n")
    (folder / "extra_questions.txt").write_text("SIL AH1\n")
    lang = prepare_lang(
        read_dictionary(folder), LangOptions(share_silence_phones=True), tmp_path / "lang"
    )
    silence = "SIL SIL_B SIL_E SIL_I SIL_S SPN SPN_B SPN_E SPN_I SPN_S"
    speech = "AH0_B AH0_E AH0_I AH0_S AH1_B AH1_E AH1_I AH1_S"
    assert (tmp_path / "lang/phones/roots.txt").read_text().splitlines() == [
        f"not-shared not-split {silence}",
        f"shared split {speech}",
    ]
    assert not lang.roots[0].split
    assert not lang.roots[0].shared
    assert lang.roots[1].phones == list(range(11, 19))
    questions = (tmp_path / "lang/phones/extra_questions.txt").read_text().splitlines()
    assert questions[0] == "SIL SIL_B SIL_E SIL_I SIL_S AH1_B AH1_E AH1_I AH1_S"
    assert questions[1:3] == ["AH0_B AH1_B ", "AH0_E AH1_E "]
    assert validate_lang(tmp_path / "lang") == []


@pytest.mark.parametrize(("speech", "silence"), [(1, 1), (3, 5), (4, 3), (2, 6)])
def test_topology_is_read_by_kaldi_and_sums_to_one(speech: int, silence: int) -> None:
    text = topology_text([2, 3], [1], speech, silence)
    topology = kaldi_hmm_gmm.HmmTopology()
    topology.read(text)
    assert topology.num_pdf_classes(2) == speech
    assert topology.num_pdf_classes(1) == silence
    for line in text.splitlines():
        if "<Transition>" in line:
            parts = line.split()
            total = sum(float(parts[i + 2]) for i, p in enumerate(parts) if p == "<Transition>")
            assert total == pytest.approx(1.0, abs=1e-6)


def test_two_silence_states_are_refused() -> None:
    with pytest.raises(ValueError, match="1 state, or 3 and more"):
        LangOptions(num_sil_states=2)


def test_unknown_phone_of_a_hand_made_dictionary_is_an_error(tmp_path: Path) -> None:
    dictionary = Dictionary([Pronunciation("a", 1.0, ("X",))], [["SIL"]], [["A"]], "SIL")
    with pytest.raises(DataError, match="unknown phones"):
        prepare_lang(dictionary, LangOptions(), tmp_path / "lang")
    assert not (tmp_path / "lang").exists()


def test_preparing_again_removes_the_old_grammar(toy_lang: Lang, tmp_path: Path) -> None:
    (toy_lang.path / "G.fst").write_bytes(b"old")
    prepare_lang(read_dictionary(tmp_path / "toy_dict"), LangOptions(), toy_lang.path)
    assert not (toy_lang.path / "G.fst").exists()


def test_lexicon_of_one_word_of_many_phones_has_kaldis_states(tmp_path: Path) -> None:
    phones = tuple("ABCD")
    dictionary = Dictionary(
        [Pronunciation("w", 1.0, phones)], [["SIL"]], [[p] for p in phones], "SIL"
    )
    prepare_lang(dictionary, LangOptions(), tmp_path)
    arrays = from_fst(read_fst(tmp_path / "L.fst"))
    # Start, loop and silence states, and three within the word; two arcs end each word.
    assert arrays.num_states == 3 + 3
    assert len(arrays.source) == 3 + (4 + 1) + 2
    assert np.isfinite(arrays.final).sum() == 1


def test_what_prepare_returns_is_what_read_lang_reads(toy_lang: Lang) -> None:
    assert toy_lang == read_lang(toy_lang.path)
    assert toy_lang.speakable_words() == ["a", "one", "to", "ton", "too", "two"]
    assert toy_lang.word_boundary is not None
    assert toy_lang.word_boundary[toy_lang.phones["T_B"]] == "begin"
    assert toy_lang.word_boundary[toy_lang.phones["SIL"]] == "nonword"
