"""Dictionaries and lexicon transducers with probabilities of silence beside each word."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lang_examples import monophone_model, path_cost, write_dict

from mariana_asr.errors import DataError
from mariana_asr.lang.dictionary import (
    Dictionary,
    Pronunciation,
    SentenceSilence,
    WordSilence,
    read_dictionary,
    write_dictionary,
)
from mariana_asr.lang.fst_arrays import from_fst, read_fst
from mariana_asr.lang.grammar import make_grammar
from mariana_asr.lang.graph import make_graph
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.lexicon_fst import silence_lexicon_fst
from mariana_asr.lang.options import GraphOptions, LangOptions, WordLoopLm
from mariana_asr.lang.prepare import prepare_lang
from mariana_asr.lang.validate import validate_lang

LEXICON = """\
a 1 0.70 1.25 0.80 AH
b 1 0.40 1.10 0.95 B IY
b 0.25 0.10 0.50 2.00 B IY K AH
<UNK> 1 0.50 1.00 1.00 SPN
"""
SILPROB = "<s> 0.90\n</s>_s 2.5\n</s>_n 0.04\noverall 0.30\n"

OPTIONS = LangOptions(position_dependent_phones=False, num_sil_states=1)

# What Kaldi's add_lex_disambig.pl and make_lexicon_fst_silprob.py print for these two files.
KALDIS_ARCS = """\
0 1 #2 <eps> 2.302585092994046
0 2 SIL <eps> 0.10536051565782628
1 3 AH a 0.2231435513142097
2 3 AH a -0.22314355131420976
3 1 #2 <eps> 1.203972804325936
3 2 SIL <eps> 0.35667494393873245
1 4 B b 0.05129329438755058
2 4 B b -0.09531017980432493
4 5 IY <eps>
5 6 #1 <eps>
6 1 #2 <eps> 0.5108256237659907
6 2 SIL <eps> 0.916290731874155
1 7 B b 0.6931471805599453
2 7 B b 2.0794415416798357
7 8 IY <eps>
8 9 K <eps>
9 10 AH <eps>
10 1 #2 <eps> 0.10536051565782628
10 2 SIL <eps> 2.3025850929940455
1 11 SPN <UNK> -0.0
2 11 SPN <UNK> -0.0
11 1 #2 <eps> 0.6931471805599453
11 2 SIL <eps> 0.6931471805599453
2 -0.9162907318741551
1 3.2188758248682006
"""


@pytest.fixture
def silence_dict(tmp_path: Path) -> Path:
    folder = write_dict(tmp_path / "dict", "a AH\nb B IY\nb B IY K AH\n<UNK> SPN\n")
    (folder / "lexiconp_silprob.txt").write_text(LEXICON)
    (folder / "silprob.txt").write_text(SILPROB)
    return folder


@pytest.fixture
def silence_lang(silence_dict: Path, tmp_path: Path) -> Lang:
    return prepare_lang(read_dictionary(silence_dict), OPTIONS, tmp_path / "lang")


Arcs = tuple[list[tuple[int, int, str, str, float]], dict[int, float]]


def arcs_of(lang: Lang, name: str) -> Arcs:
    """Arcs with names of phones and words, and final costs."""
    fst = from_fst(read_fst(lang.path / name))
    phones = {n: symbol for symbol, n in lang.phones.items()}
    words = {n: symbol for symbol, n in lang.words.items()}
    arcs = sorted(
        (int(s), int(t), phones[int(i)], words[int(o)], round(float(w), 5))
        for s, t, i, o, w in zip(
            fst.source, fst.target, fst.ilabel, fst.olabel, fst.weight, strict=True
        )
    )
    return arcs, {int(s): round(float(fst.final[s]), 5) for s in np.flatnonzero(fst.final < np.inf)}


def kaldis(text: str) -> Arcs:
    arcs, final = [], {}
    for row in map(str.split, text.splitlines()):
        if len(row) == 2:
            final[int(row[0])] = round(float(row[1]), 5)
        else:
            cost = round(float(row[4]), 5) if len(row) == 5 else 0.0
            arcs.append((int(row[0]), int(row[1]), row[2], row[3], cost))
    return sorted(arcs), final


def test_l_disambig_has_the_states_and_arcs_of_kaldis_script(silence_lang: Lang) -> None:
    arcs, final = kaldis(KALDIS_ARCS)
    # fstaddselfloops puts #0 on the states that words leave from and that sentences end in.
    arcs += [(state, state, "#0", "#0", 0.0) for state in (1, 2)]
    assert arcs_of(silence_lang, "L_disambig.fst") == (sorted(arcs), final)


def test_l_has_the_states_and_arcs_of_kaldis_script(silence_lang: Lang) -> None:
    kept = [line for line in KALDIS_ARCS.splitlines() if "#1" not in line]
    text = "\n".join(kept).replace("#2", "<eps>")
    # Without #1 the pronunciation B IY has a state less, and those after it move up.
    rows = []
    for row in map(str.split, text.splitlines()):
        states = 2 if len(row) > 2 else 1
        moved = [str(int(n) - (int(n) > 5)) for n in row[:states]]
        rows.append(" ".join([*moved, *row[states:]]))
    assert arcs_of(silence_lang, "L.fst") == kaldis("\n".join(rows))


def test_directory_with_silence_is_valid_and_has_the_same_files(
    silence_lang: Lang, silence_dict: Path, tmp_path: Path
) -> None:
    (silence_dict / "lexiconp_silprob.txt").unlink()
    plain = prepare_lang(read_dictionary(silence_dict), OPTIONS, tmp_path / "plain")
    assert validate_lang(silence_lang.path) == []
    for file in sorted(plain.path.rglob("*.*")):
        name = file.relative_to(plain.path)
        same = file.read_bytes() == (silence_lang.path / name).read_bytes()
        assert same == (file.suffix != ".fst"), name


@st.composite
def lexicons(draw: st.DrawFn) -> tuple[list[Pronunciation], SentenceSilence]:
    def probability() -> float:
        return draw(st.integers(1, 99)) / 100

    def factor() -> float:
        return draw(st.integers(1, 400)) / 100

    entries = {
        (
            draw(st.sampled_from("vw")),
            tuple(draw(st.lists(st.sampled_from("ABS"), min_size=1, max_size=2))),
        )
        for _ in range(draw(st.integers(1, 3)))
    }
    prons = [
        Pronunciation(w, probability(), p, WordSilence(probability(), factor(), factor()))
        for w, p in sorted(entries)
    ]
    return prons, SentenceSilence(probability(), factor(), factor(), 0.5)


@settings(max_examples=25, deadline=None)
@given(lexicons())
def test_paths_cost_what_the_probabilities_of_words_and_silences_say(
    lexicon: tuple[list[Pronunciation], SentenceSilence],
) -> None:
    prons, sentences = lexicon
    words, phones = {"v": 1, "w": 2}, {"A": 1, "B": 2, "S": 3}
    fst = silence_lexicon_fst(
        [words[p.word] for p in prons],
        [p.probability for p in prons],
        [[phones[x] for x in p.phones] for p in prons],
        [p.silence for p in prons if p.silence],
        sentences,
        silence_phone=phones["S"],
    )
    # The likeliest way to each pair of phones and words, over all strings of two pronunciations
    # and all choices of silence, one before each word and one at the end.
    best: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    for string in itertools.chain(
        [()], itertools.product(prons, repeat=1), itertools.product(prons, repeat=2)
    ):
        for choice in itertools.product((True, False), repeat=len(string) + 1):
            follows = [sentences.begin, *(p.silence.after for p in string if p.silence)]
            probability = math.prod(
                f if silent else 1 - f for f, silent in zip(follows, choice, strict=True)
            )
            heard: list[int] = []
            for pron, silent in zip(string, choice, strict=False):
                assert pron.silence
                probability *= pron.probability
                probability *= pron.silence.before if silent else pron.silence.not_before
                heard += [phones["S"]] * silent + [phones[x] for x in pron.phones]
            probability *= sentences.end if choice[-1] else sentences.not_end
            heard += [phones["S"]] * choice[-1]
            key = tuple(heard), tuple(words[p.word] for p in string)
            best[key] = max(best.get(key, 0.0), probability)
    assert best
    for (heard_phones, said), probability in list(best.items())[:40]:
        cost = path_cost(fst, heard_phones, said)
        assert cost == pytest.approx(-math.log(probability), abs=1e-4)


def test_even_probabilities_score_an4s_words_as_kaldis_lexicon_without_them(
    an4_dict: Path, golden: Path, tmp_path: Path
) -> None:
    plain = read_dictionary(an4_dict)
    even = replace(
        plain,
        pronunciations=[
            replace(p, silence=WordSilence(0.5, 1.0, 1.0)) for p in plain.pronunciations
        ],
        silence=SentenceSilence(0.5, 1.0, 1.0, 0.5),
    )
    lang = prepare_lang(even, LangOptions(), tmp_path)
    generator = random.Random(3)
    words = sorted(lang.words[word] for word in lang.speakable_words())
    for name in ("L.fst", "L_disambig.fst"):
        ours, theirs = (
            read_fst(folder / name) for folder in (lang.path, golden / "an4_kaldi" / "lang")
        )
        for length in (1, 3, 6):
            string = generator.choices(words, k=length)
            cost = path_cost(theirs, outputs=string)
            assert path_cost(ours, outputs=string) == pytest.approx(cost, abs=1e-4)


def test_graph_of_such_a_lexicon_costs_what_its_parts_do(
    silence_lang: Lang, tmp_path: Path
) -> None:
    make_grammar(silence_lang.path, WordLoopLm(words=["a", "b"]))
    tree, model = monophone_model(silence_lang)
    make_graph(
        silence_lang.path, tree, model, tmp_path / "graph", GraphOptions(self_loop_scale=0.0)
    )
    fst = read_fst(tmp_path / "graph" / "HCLG.fst")
    a, b = (silence_lang.words[word] for word in "ab")
    # Silence of one state costs nothing by itself. Likeliest for "a" is silence at both ends; for
    # "a b" it is silence at the beginning, between the words and at the end.
    alone = -math.log(0.9 * 1.25 * 0.7 * 2.5)
    both = -math.log(0.9 * 1.25 * 0.7 * 1.1 * 0.4 * 2.5)
    # Grammar: half for the first word, then a third for each word and the end.
    assert path_cost(fst, outputs=[a]) == pytest.approx(alone + math.log(6), abs=1e-2)
    assert path_cost(fst, outputs=[a, b]) == pytest.approx(both + math.log(18), abs=1e-2)


def test_silence_is_read_and_goes_before_the_other_lexicons(silence_dict: Path) -> None:
    (silence_dict / "lexiconp.txt").write_text(
        "a 0.5 AH\nb 0.5 B IY\nb 0.5 B IY K AH\n<UNK> 1 SPN\n"
    )
    dictionary = read_dictionary(silence_dict)
    assert dictionary.silence == SentenceSilence(0.9, 2.5, 0.04, 0.3)
    assert dictionary.pronunciations[2] == Pronunciation(
        "b", 0.25, ("B", "IY", "K", "AH"), WordSilence(0.1, 0.5, 2.0)
    )


def test_a_lexicon_with_silence_is_enough_beside_its_silprob(silence_dict: Path) -> None:
    for name in ("lexicon.txt", "silence_phones.txt", "nonsilence_phones.txt"):
        (silence_dict / name).unlink()
    dictionary = read_dictionary(silence_dict)
    assert dictionary == read_dictionary(silence_dict / "lexiconp_silprob.txt")
    assert dictionary.pronunciations[0].silence == WordSilence(0.7, 1.25, 0.8)
    assert dictionary.silence is not None
    (silence_dict / "silprob.txt").unlink()
    with pytest.raises(DataError, match=r"silprob.txt: No such file"):
        read_dictionary(silence_dict)


def test_what_is_written_is_read_back_and_has_kaldis_form(
    silence_dict: Path, tmp_path: Path
) -> None:
    dictionary = read_dictionary(silence_dict)
    out = tmp_path / "written"
    write_dictionary(dictionary, out)
    assert read_dictionary(out) == dictionary
    assert (out / "lexiconp_silprob.txt").read_text() == LEXICON
    assert (out / "silprob.txt").read_text() == SILPROB
    assert (out / "lexiconp.txt").read_text().splitlines()[2] == "b 0.25 B IY K AH"
    write_dictionary(Dictionary(dictionary.pronunciations, [["SIL"]], [["AH"]], "SIL"), out)
    assert not (out / "lexiconp_silprob.txt").exists()
    assert not (out / "silprob.txt").exists()


def test_unknown_word_that_is_added_has_silence_as_words_on_the_whole(
    silence_dict: Path,
) -> None:
    dictionary = read_dictionary(silence_dict).with_oov("<OOV>")
    assert dictionary.pronunciations[-1] == Pronunciation(
        "<OOV>", 1.0, ("SPN",), WordSilence(0.3, 1.0, 1.0)
    )


@pytest.mark.parametrize(
    "columns", ["0 1 1", "1 1 1", "0.5 0 1", "0.5 1 -1", "0.5 1 AH", "", "nan 1 1"]
)
def test_wrong_probabilities_of_silence_are_errors(silence_dict: Path, columns: str) -> None:
    (silence_dict / "lexiconp_silprob.txt").write_text(f"a 1 {columns} AH\n")
    with pytest.raises(DataError, match=r"lexiconp_silprob.txt:1: (expected a prob|the word)"):
        read_dictionary(silence_dict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<s> 1.0\n</s>_s 1\n</s>_n 1\noverall 1\n", "silprob.txt:1: expected one of"),
        ("<s> 0.5\n</s>_s 0\n</s>_n 1\noverall 1\n", "silprob.txt:2: expected one of"),
        ("<s> 0.5\n</s>_s 1\n</s>_n 1\noverall 1.1\n", "silprob.txt:4: expected one of"),
        ("<s> 0.5\n</s> 1\n", "silprob.txt:2: expected one of"),
        ("<s> 0.5\n<s> 0.5\n", "silprob.txt:2: <s> comes twice"),
        ("<s> 0.5\n", "silprob.txt: no line of </s>_s, </s>_n, overall"),
    ],
)
def test_wrong_silprob_is_an_error(silence_dict: Path, text: str, message: str) -> None:
    (silence_dict / "silprob.txt").write_text(text)
    with pytest.raises(DataError) as caught:
        read_dictionary(silence_dict)
    assert message in str(caught.value)


def test_a_word_added_to_one_lexicon_only_is_an_error(silence_dict: Path) -> None:
    with (silence_dict / "lexicon.txt").open("a") as file:
        file.write("c K\n")
    with (silence_dict / "lexiconp_silprob.txt").open("a") as file:
        file.write("d 1 0.5 1 1 K\n")
    with pytest.raises(DataError) as caught:
        read_dictionary(silence_dict)
    assert "lexicon.txt:5: lexiconp_silprob.txt lacks this pronunciation of 'c'" in str(
        caught.value
    )
    assert "lexiconp_silprob.txt:5: lexicon.txt lacks this pronunciation of 'd'" in str(
        caught.value
    )


def test_silence_with_some_pronunciations_only_is_an_error(
    make_dict: Callable[..., Path], tmp_path: Path
) -> None:
    dictionary = read_dictionary(make_dict("a AH\n"))
    dictionary = replace(dictionary, silence=SentenceSilence(0.5, 1.0, 1.0, 0.5))
    with pytest.raises(DataError, match="all or none"):
        prepare_lang(dictionary, LangOptions(), tmp_path / "lang")
    assert not (tmp_path / "lang").exists()


def test_read_lang_reads_it(silence_lang: Lang) -> None:
    assert silence_lang == read_lang(silence_lang.path)
