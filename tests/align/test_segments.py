"""Words and phones of alignments: against Kaldi's, and against trying every way to cut."""

import math
import random
import shutil
from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import pytest
from kaldi_words import an4_transcripts, by_word_boundary
from plain_phones import alignment_to_phones

from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.output.segments import (
    PhoneSegment,
    PhoneSplitter,
    WordAligner,
    WordSegment,
    phone_segments,
)
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.errors import DataError, FormatError
from mariana_asr.lang.dictionary import Dictionary, Pronunciation
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.options import LangOptions
from mariana_asr.lang.prepare import prepare_lang

# Words that can be cut in several ways where phones carry no position; SIL is a phone of speech's
# words, too.
LEXICON = """\
ab 0.3 A B
ab 0.7 A
ba 0.6 B A
ba 0.4 A
b 1.0 B
bab 0.9 B A B
bab 0.1 A B
hm 0.2 A SIL
hm 0.8 A SIL B
<UNK> 1.0 SIL
"""
SILENCE = 0


def make_lang(folder, *, position_dependent: bool) -> Lang:
    entries = [line.split() for line in LEXICON.splitlines()]
    dictionary = Dictionary(
        pronunciations=[Pronunciation(w, float(p), tuple(phones)) for w, p, *phones in entries],
        silence_phones=[["SIL"]],
        nonsilence_phones=[["A"], ["B"]],
        optional_silence="SIL",
    )
    options = LangOptions(position_dependent_phones=position_dependent)
    return prepare_lang(dictionary, options, folder)


@pytest.fixture(scope="module")
def plain_lang(tmp_path_factory) -> Lang:
    return make_lang(tmp_path_factory.mktemp("plain"), position_dependent=False)


def without_align_lexicon(lang: Lang, folder) -> Lang:
    shutil.copytree(lang.path, folder)
    (folder / "phones/align_lexicon.int").unlink()
    (folder / "phones/align_lexicon.txt").unlink()
    return read_lang(folder)


def as_segments(phones: list[int]) -> list[PhoneSegment]:
    """Phones of one frame, two frames, three frames, ..."""
    ends = np.cumsum(np.arange(1, len(phones) + 1)).tolist()
    return [
        PhoneSegment(p, end - n, n) for n, (p, end) in enumerate(zip(phones, ends, strict=True), 1)
    ]


def every_way_to_cut(
    words: list[int], phones: tuple[int, ...], pronunciations: dict, silence: int
) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    """All sequences of (word, phones), with at most one silence before and after each word."""
    choices = [pronunciations[word] for word in words]
    for said in product(*choices):
        for silences in product([False, True], repeat=len(words) + 1):
            cut = []
            for pause, word, one in zip(silences, [*words, None], [*said, None], strict=True):
                cut += [(SILENCE, (silence,))] if pause else []
                cut += [(word, one)] if one else []
            if sum((one for _, one in cut), ()) == phones:
                yield cut


@pytest.mark.parametrize("align_lexicon", [True, False])
def test_words_are_cut_in_the_most_probable_of_all_ways(plain_lang, align_lexicon, tmp_path):
    lang = plain_lang if align_lexicon else without_align_lexicon(plain_lang, tmp_path / "lang")
    pronunciations: dict[int, list[tuple[int, ...]]] = {}
    costs = {}
    for line in LEXICON.splitlines():
        word, probability, *names = line.split()
        phones = tuple(lang.phones[name] for name in names)
        pronunciations.setdefault(lang.words[word], []).append(phones)
        costs[lang.words[word], phones] = -math.log(float(probability))
    aligner = WordAligner(lang)
    generator = random.Random(0)
    several = 0
    for _ in range(300):
        words = generator.choices(list(pronunciations), k=generator.randint(1, 4))
        phones: list[int] = []
        for word in words:
            phones += [lang.optional_silence] if generator.random() < 0.3 else []
            phones += generator.choice(pronunciations[word])
        ways = list(every_way_to_cut(words, tuple(phones), pronunciations, lang.optional_silence))
        given = aligner.segment(words, as_segments(phones))
        assert [p for segment in given for p in segment.phones] == as_segments(phones)
        cut = [(segment.word, segment.pronunciation) for segment in given]
        assert cut in ways
        cost_of = [sum(costs.get(part, 0.0) for part in way) for way in ways]
        assert sum(costs.get(part, 0.0) for part in cut) == pytest.approx(min(cost_of))
        several += max(cost_of) - min(cost_of) > 0.01
    assert several > 10


def test_pronunciations_of_the_lexicon_transducer_are_those_of_the_lexicon(golden, tmp_path):
    lang = read_lang(golden / "an4_kaldi/lang")
    from_lexicon = WordAligner(lang)._pronunciations
    from_fst = WordAligner(without_align_lexicon(lang, tmp_path / "lang"))._pronunciations
    assert {w: sorted(p) for w, p in from_fst.items()} == {
        w: sorted(p) for w, p in from_lexicon.items()
    }


@pytest.fixture(scope="module")
def transcripts(corpora) -> dict[str, str]:
    return an4_transcripts(corpora)


@pytest.mark.parametrize("rung", ["mono", "tri3"])
def test_kaldis_alignments_of_an4_give_the_words_of_the_transcripts(golden, transcripts, rung):
    folder = golden / "an4_kaldi"
    lang = read_lang(folder / "lang")
    alignments = read_alignments(folder / rung / "train_ali.ark")
    assert alignments.keys() == transcripts.keys()
    transitions = read_transition_model(folder / rung / "final.mdl")
    splitter, aligner = PhoneSplitter(transitions), WordAligner(lang)
    for number, (utterance, tids) in enumerate(alignments.items()):
        phones = splitter.split(tids)
        if number % 25 == 0:
            assert phone_segments(tids, transitions) == phones
            expected = alignment_to_phones(tids, transitions)
            assert [(segment.phone, segment.frames) for segment in phones] == expected
        words = aligner.segment(lang.transcript_to_ids(transcripts[utterance]), phones)
        names = {number: word for word, number in lang.words.items()}
        spoken = [names[segment.word] for segment in words if segment.word]
        assert " ".join(spoken) == transcripts[utterance]
        assert words[0].start == 0
        assert all(a.start + a.frames == b.start for a, b in pairwise(words))
        assert words[-1].start + words[-1].frames == len(tids)
        assert [words_phones(segment) for segment in words] == by_word_boundary(phones, lang)


def words_phones(segment: WordSegment) -> tuple[int, int, bool]:
    return segment.start, segment.frames, segment.word == SILENCE


def test_unknown_words_are_cut_by_the_pronunciation_of_the_unknown_word(tmp_path):
    lang = make_lang(tmp_path / "lang", position_dependent=True)
    words = lang.transcript_to_ids("b neverheard b")
    assert words[1] == lang.oov
    names = ["SIL", "B_S", "SIL_S", "SIL", "B_S"]
    given = WordAligner(lang).segment(words, as_segments([lang.phones[name] for name in names]))
    assert [segment.word for segment in given] == [0, words[0], lang.oov, 0, words[2]]


def test_phones_that_are_not_the_transcripts_are_refused_with_the_place(plain_lang):
    lang = plain_lang
    aligner = WordAligner(lang)
    phones = as_segments([lang.phones[name] for name in ["SIL", "A", "B", "SIL", "B", "B"]])
    for text, place in {
        "ab b hm": r"where word 3, hm, should be, there is B",
        "ab b": r"after the last word, there is B",
        "ab b b b b": r"where word 5, b, should be, there is nothing left",
        "": r"after the last word, there is A B SIL B B",
    }.items():
        with pytest.raises(DataError, match=place):
            aligner.segment(lang.transcript_to_ids(text), phones)
    silence = as_segments([lang.optional_silence])
    assert aligner.segment([], silence) == [WordSegment(SILENCE, tuple(silence))]
    assert aligner.segment([], []) == []


def test_a_damaged_or_missing_lexicon_is_refused(plain_lang, tmp_path):
    lang = without_align_lexicon(plain_lang, tmp_path / "lang")
    (lang.path / "L.fst").unlink()
    with pytest.raises(FormatError, match=r"L\.fst: no such file"):
        WordAligner(lang)
    (lang.path / "phones/align_lexicon.int").write_text("1 1 2\n1 1\n")
    with pytest.raises(FormatError, match=r"align_lexicon\.int:2: expected 'word word phone"):
        WordAligner(lang)


def test_numbers_that_are_no_transition_ids_are_refused(golden):
    transitions = read_transition_model(golden / "an4_kaldi/mono/final.mdl")
    for bad in (0, -1, transitions.num_transition_ids + 1):
        with pytest.raises(FormatError, match=f"{bad} is no transition id"):
            phone_segments(np.array([1, bad]), transitions)
    assert phone_segments(np.array([], dtype=np.int32), transitions) == []
