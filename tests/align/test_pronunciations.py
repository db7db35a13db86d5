"""Pronunciations and silences that alignments took, and lexicons learnt from them."""

import dataclasses
import itertools
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_speech import PHONES, phone_accuracy

from mariana_asr.align.alignment import align
from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.formats.tree_io import read_tree
from mariana_asr.align.graphs import GraphCompiler
from mariana_asr.align.output.segments import WordAligner, phone_segments
from mariana_asr.align.pronunciations.counts import (
    BEGIN,
    END,
    SilenceCounts,
    count_pronunciations,
)
from mariana_asr.align.pronunciations.probabilities import (
    PronunciationOptions,
    learn_pronunciations,
)
from mariana_asr.align.training.mono import MonoOptions, train_mono
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.archives import write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError, StageError
from mariana_asr.features.front_end import TransformOptions
from mariana_asr.kaldi import kaldifst
from mariana_asr.lang.dictionary import read_dictionary, write_dictionary
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.lexicon_file import SentenceSilence
from mariana_asr.lang.options import LangOptions
from mariana_asr.lang.prepare import prepare_lang
from mariana_asr.skipped import Skipped


@pytest.fixture(scope="module")
def an4_train(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> DataDir:
    """Transcripts of AN4's training set."""
    text = {}
    places = (corpora / "an4/etc/an4_train.fileids").read_text().split()
    lines = (corpora / "an4/etc/an4_train.transcription").read_text().splitlines()
    for place, line in zip(places, lines, strict=True):
        name, speaker, take = place.rsplit("/", 1)[1].split("-")
        words = line.rsplit("(", 1)[0].split()
        text[f"{speaker}-{name}-{take}"] = " ".join(w for w in words if w not in ("<s>", "</s>"))
    data = DataDir(tmp_path_factory.mktemp("an4"), {u: u.split("-")[0] for u in text}, text=text)
    data.write()
    return data


@pytest.fixture(scope="module")
def made_alignment(made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made_alignment")
    options = MonoOptions(
        num_iters=10, totgauss=40, max_iter_inc=6, transform=TransformOptions(cmvn="none")
    )
    train_mono(made.data, made.lang, options, folder / "mono")
    align(made.data, made.lang, folder / "mono", folder / "ali")
    for name in ("front_end.json", "final.mdl"):
        shutil.copy(folder / "mono" / name, folder / "ali" / name)
    return folder / "ali"


def slow_an4_counts(data: DataDir, lang: Lang, golden: Path):
    """Counts by position marks of phones alone, as the steps of get_prons.sh make them."""
    transitions = read_transition_model(golden / "an4_kaldi/tri3/final.mdl")
    names = {number: symbol for symbol, number in lang.phones.items()}
    used, silences, pairs = Counter(), {}, Counter()
    is_final = [False] + [
        transitions.is_final(tid) for tid in range(1, transitions.num_transition_ids + 1)
    ]
    for utterance, tids in read_alignments(golden / "an4_kaldi/tri3/train_ali.ark").items():
        rows, phones, frame = ["<s>"], [], 0
        words = iter(data.text[utterance].split())
        while frame < len(tids):
            if is_final[tids[frame]]:
                while frame + 1 < len(tids) and transitions.is_self_loop(int(tids[frame + 1])):
                    frame += 1
                name = names[transitions.transition_id_to_phone(int(tids[frame]))]
                if re.search("_[BIES]$", name):
                    phones.append(name[:-2])
                    if name[-1] in "ES":
                        rows.append(" ".join((next(words), *phones)))
                        phones = []
                else:
                    rows.append(f"<eps> {name}")
            frame += 1
        assert next(words, None) is None
        rows.append("</s>")
        for left, right in itertools.pairwise(rows):
            if not left.startswith("<eps>"):
                silences.setdefault(left, [0] * 4)[2 if right.startswith("<eps>") else 3] += 1
            if not right.startswith("<eps>"):
                silences.setdefault(right, [0] * 4)[0 if left.startswith("<eps>") else 1] += 1
        spoken = [row for row in rows if not row.startswith("<eps>")]
        used.update(spoken[1:-1])
        pairs.update(itertools.pairwise(spoken))
    return used, silences, pairs


def test_counts_of_an4_equal_those_that_position_marks_give(
    an4_train: DataDir, golden: Path
) -> None:
    lang = read_lang(golden / "an4_kaldi/lang")
    skipped = Skipped("test")
    counts = count_pronunciations(
        an4_train,
        lang,
        golden / "an4_kaldi/tri3/train_ali.ark",
        model=golden / "an4_kaldi/tri3/final.mdl",
        skipped=skipped,
    )
    used, silences, pairs = slow_an4_counts(an4_train, lang, golden)
    assert (counts.utterances, len(skipped)) == (948, 0)
    assert {" ".join(word): n for word, n in counts.pronunciations().items()} == used
    assert {(" ".join(a), " ".join(b)): n for (a, b), n in counts.pairs().items()} == pairs
    assert {
        " ".join(word): list(dataclasses.astuple(n)) for word, n in counts.silences().items()
    } == silences


def test_learning_from_an4_gives_what_kaldis_scripts_give(
    an4_train: DataDir, corpora: Path, golden: Path, tmp_path: Path
) -> None:
    lines = (corpora / "an4/etc/an4.dic").read_text().splitlines()
    lexicon = [re.sub(r"(\(\d+\))?\s+", " ", line.strip()) for line in lines if line.strip()]
    (tmp_path / "lexicon.txt").write_text("\n".join([*lexicon, "<UNK> SIL"]) + "\n")
    ali = tmp_path / "ali"
    ali.mkdir()
    shutil.copy(golden / "an4_kaldi/tri3/final.mdl", ali)
    shutil.copy(golden / "an4_kaldi/tri3/train_ali.ark", ali / "ali.1.ark")
    lang = read_lang(golden / "an4_kaldi/lang")
    out = tmp_path / "dict"
    summary = learn_pronunciations(an4_train, lang, ali, tmp_path / "lexicon.txt", out)
    assert (summary.utterances, summary.words, summary.skipped) == (948, 5442, 0)
    assert (summary.used, summary.pronunciations) == (112, 131)
    # Kaldi's scripts, from the same alignments.
    assert (out / "silprob.txt").read_text() == (
        "<s> 0.95\n</s>_s 2.06050176614437\n</s>_n 0.082294850693628\noverall 0.43\n"
    )
    found = (out / "lexiconp_silprob.txt").read_text().splitlines()
    for line in (
        "A 0.014354 0.21 0.87 1.08 AH",
        "AND 0.666667 0.17 0.62 1.32 AE N D",
        "AND 1 0.12 0.56 1.28 AH N D",
        "AUGUST 1 0.14 3.00 0.33 AA G AH S T",
        "B 1 0.11 2.05 0.50 B IY",
        "EIGHTH 0.499999 0.43 1.00 1.00 EY T TH",
    ):
        assert line in found
    # The lang directory that it makes fits the model: only the transducers are others.
    again = prepare_lang(read_dictionary(out), LangOptions(), tmp_path / "lang")
    for file in sorted(again.path.rglob("*.*")):
        if file.suffix != ".fst":
            name = file.relative_to(again.path)
            assert file.read_bytes() == (lang.path / name).read_bytes(), name


def test_phones_without_position_are_counted_too(made, made_alignment: Path) -> None:
    counts = count_pronunciations(made.data, made.lang, made_alignment)
    said = Counter(word for text in made.data.text.values() for word in text.split())
    used = counts.pronunciations()
    assert Counter({word[0]: n for word, n in used.items()}) == said
    assert used["bado", "B", "A", "D", "O"] == said["bado"]
    silences = counts.silences()
    # All recordings were made with silence at both ends.
    assert silences[BEGIN] == SilenceCounts(0, 0, 40, 0)
    assert silences[END] == SilenceCounts(40, 0, 0, 0)
    silent = sum(n.before for n in silences.values())
    truly = sum(
        sum(PHONES[phone] == "SIL" for phone, _ in itertools.groupby(truth))
        for truth in made.truth.values()
    )
    assert silent == pytest.approx(truly, rel=0.05)
    assert count_pronunciations(made.data, made.lang, made_alignment, jobs=2) == counts


def test_learnt_lexicon_aligns_and_its_words_are_found(
    made, made_alignment: Path, tmp_path: Path
) -> None:
    lexicon = made.lang.path.parent / "lexicon.txt"
    learn_pronunciations(made.data, made.lang, made_alignment, lexicon, tmp_path / "dict")
    dictionary = read_dictionary(tmp_path / "dict", position_dependent_phones=False)
    options = LangOptions(position_dependent_phones=False)
    lang = prepare_lang(dictionary, options, tmp_path / "lang")
    assert lang.phones == made.lang.phones
    align(made.data, lang, made_alignment, tmp_path / "ali")
    transitions = read_transition_model(tmp_path / "ali/final.mdl")
    alignments = read_alignments(tmp_path / "ali")
    assert phone_accuracy(alignments, made, transitions) > 0.95
    aligner = WordAligner(lang)
    for utterance in made.data.utterances[:10]:
        words = lang.transcript_to_ids(made.data.text[utterance])
        segments = aligner.segment(words, phone_segments(alignments[utterance], transitions))
        assert [s.word for s in segments if s.word] == words

    # A training graph without probabilities of transitions has the lexicon's costs alone.
    compiler = GraphCompiler(transitions, read_tree(tmp_path / "ali/tree"), lang)
    sentences = dictionary.silence
    assert isinstance(sentences, SentenceSilence)
    beside = {p.word: p.silence for p in dictionary.pronunciations}
    for string in (["ba"], ["ba", "do"]):
        arcs = compiler.compile([lang.words[word] for word in string])
        best = kaldifst.shortest_path(arcs.fst)
        cost = float(kaldifst.get_linear_symbol_sequence(best)[3].value)
        probabilities = []
        for choice in itertools.product((True, False), repeat=len(string) + 1):
            follows = [sentences.begin, *(beside[word].after for word in string)]
            factors = [
                beside[word].before if silent else beside[word].not_before
                for word, silent in zip(string, choice, strict=False)
            ]
            factors.append(sentences.end if choice[-1] else sentences.not_end)
            probabilities.append(
                math.prod(f if s else 1 - f for f, s in zip(follows, choice, strict=True))
                * math.prod(factors)
            )
        assert cost == pytest.approx(-math.log(max(probabilities)), abs=1e-3)


def test_other_files_of_the_dictionary_are_copied(
    made, made_alignment: Path, tmp_path: Path
) -> None:
    old, out = tmp_path / "old", tmp_path / "new"
    lexicon = read_dictionary(
        made.lang.path.parent / "lexicon.txt", position_dependent_phones=False
    )
    write_dictionary(dataclasses.replace(lexicon, extra_questions=[["A", "O"]]), old)
    (old / "lm.arpa").write_text("a model\n")
    learn_pronunciations(made.data, made.lang, made_alignment, old, out)
    assert (out / "lm.arpa").read_text() == "a model\n"
    assert (out / "extra_questions.txt").read_text() == "A O\n"
    assert (out / "skipped.txt").read_text() == ""
    # Once more, from what was learnt and in its place: counts alone matter.
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    learn_pronunciations(made.data, made.lang, made_alignment, out, out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    without = PronunciationOptions(silence=False)
    learn_pronunciations(made.data, made.lang, made_alignment, old, out, without)
    assert not (out / "lexiconp_silprob.txt").exists()
    assert read_dictionary(out, position_dependent_phones=False).silence is None


def test_utterances_that_do_not_fit_their_transcripts_are_listed(
    made, made_alignment: Path, tmp_path: Path
) -> None:
    first, second, third = made.data.utterances[:3]
    text = made.data.text | {first: made.data.text[first] + " bado"}
    del text[second]
    lexicon = made.lang.path.parent / "lexicon.txt"
    data = dataclasses.replace(made.data, text=text)
    summary = learn_pronunciations(data, made.lang, made_alignment, lexicon, tmp_path)
    assert (summary.utterances, summary.skipped) == (38, 2)
    reasons = (tmp_path / "skipped.txt").read_text()
    assert f"{first} the alignment's phones are not those of its transcript" in reasons
    assert f"{second} no transcript in" in reasons
    assert third not in reasons
    with pytest.raises(StageError, match="none of 40 utterances"):
        nobody = dataclasses.replace(made.data, text={})
        learn_pronunciations(nobody, made.lang, made_alignment, lexicon, tmp_path)


def test_what_does_not_fit_together_is_an_error(made, made_alignment: Path, tmp_path: Path) -> None:
    lexicon = made.lang.path.parent / "lexicon.txt"
    with pytest.raises(FormatError, match=r"no final\.mdl here"):
        learn_pronunciations(made.data, made.lang, tmp_path, lexicon, tmp_path / "out")
    smaller = tmp_path / "lexicon.txt"
    smaller.write_text(lexicon.read_text().replace("bado B A D O\n", "bado B A O D\n"))
    with pytest.raises(DataError, match=r"lacks pronunciations of the alignment: bado B A D O\."):
        learn_pronunciations(made.data, made.lang, made_alignment, smaller, tmp_path / "out")
    assert not (tmp_path / "out/lexicon.txt").exists()
    bad = tmp_path / "ali"
    bad.mkdir()
    shutil.copy(made_alignment / "final.mdl", bad)
    utterance = made.data.utterances[0]
    write_int_vectors(bad / "ali.1.gz", [(utterance, np.array([1, 10**6]))])
    with pytest.raises(FormatError, match=f"utterance {utterance}: 1000000 is no transition id"):
        learn_pronunciations(made.data, made.lang, bad, lexicon, tmp_path / "out")
