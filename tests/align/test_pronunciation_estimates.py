"""Probabilities of pronunciations and silence, against what Kaldi's scripts write."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mariana_asr.align.pronunciations.counts import (
    BEGIN,
    END,
    PronunciationCounts,
    write_counts,
)
from mariana_asr.align.pronunciations.probabilities import (
    PronunciationOptions,
    estimate_pronunciations,
)
from mariana_asr.errors import DataError
from mariana_asr.lang.dictionary import Dictionary, Pronunciation, read_dictionary, write_dictionary
from mariana_asr.lang.options import LangOptions
from mariana_asr.lang.prepare import prepare_lang

THE, THEE, CAT, DOG = (
    ("the", "DH", "AH"),
    ("the", "DH", "IY"),
    ("cat", "K", "AE", "T"),
    ("dog", "D", "AO", "G"),
)
SAID = [
    ([None, THE, CAT, None], 1),
    ([None, THE, DOG, None, THEE, CAT], 1),
    ([THE, CAT, None, DOG, None], 1),
    ([None, THE, DOG, None], 400),
    ([CAT, THEE], 1200),
    ([CAT, None, DOG], 1000),
    ([None], 1),
]
TOY = Dictionary(
    [
        Pronunciation("um", 1.0, ("AH", "M")),
        *(Pronunciation(word, 1.0, tuple(phones)) for word, *phones in (THE, THEE, CAT, DOG)),
        Pronunciation("<UNK>", 1.0, ("SPN",)),
    ],
    [["SIL"], ["SPN"]],
    [[phone] for phone in ("AE", "AH", "AO", "D", "DH", "G", "IY", "K", "M", "T")],
    "SIL",
)

# What Kaldi's get_prons.sh (its counting) and dict_dir_add_pronprobs.sh write for SAID and TOY.
KALDI = {
    "sil_counts_nowb.txt": """\
403 2201 0 0 </s>
0 0 403 2201 <s>
0 2203 1002 1201 cat K AE T
1001 401 402 1000 dog D AO G
402 1 0 403 the DH AH
1 1200 0 1201 the DH IY
""",
    "lexicon.txt": "<UNK> SPN\ncat K AE T\ndog D AO G\nthe DH AH\nthe DH IY\num AH M\n",
    "lexiconp.txt": """\
<UNK> 1 SPN
cat 1 K AE T
dog 1 D AO G
the 0.336107 DH AH
the 1 DH IY
um 1 AH M
""",
    "lexiconp_silprob.txt": """\
<UNK> 1 0.23 1.00 1.00 SPN
cat 1 0.45 0.99 1.00 K AE T
dog 1 0.29 2.20 0.42 D AO G
the 0.336107 0.01 202.00 0.01 DH AH
the 1 0.01 0.01 1.81 DH IY
um 1 0.23 1.00 1.00 AH M
""",
    "silprob.txt": """\
<s> 0.15
</s>_s 0.961561290628932
</s>_n 1.00740347812567
overall 0.23
""",
}
KALDIS_PAIRS = """\
2 the DH AH	cat K AE T
1 <s>	</s>
1200 cat K AE T	the DH IY
1200 the DH IY	</s>
1401 dog D AO G	</s>
2200 <s>	cat K AE T
401 the DH AH	dog D AO G
1 the DH IY	cat K AE T
1 dog D AO G	the DH IY
1001 cat K AE T	dog D AO G
403 <s>	the DH AH
2 cat K AE T	</s>
"""


@pytest.fixture(scope="module")
def toy_counts() -> PronunciationCounts:
    counts = PronunciationCounts()
    for words, times in SAID:
        for _ in range(times):
            counts.add_utterance(words)
    return counts


def test_counts_are_those_of_kaldis_script(toy_counts: PronunciationCounts) -> None:
    files = write_counts(toy_counts)
    assert files["sil_counts_nowb.txt"] == KALDI["sil_counts_nowb.txt"]
    assert sorted(files["pron_bigram_counts_nowb.txt"].splitlines()) == sorted(
        line.replace(" ", "\t", 1) for line in KALDIS_PAIRS.splitlines()
    )
    assert files["pron_counts_nowb.txt"].splitlines() == [
        "2203 cat K AE T",
        "1402 dog D AO G",
        "1201 the DH IY",
        "403 the DH AH",
    ]


def test_probabilities_are_those_of_kaldis_script(
    toy_counts: PronunciationCounts, tmp_path: Path
) -> None:
    write_dictionary(estimate_pronunciations(TOY, toy_counts), tmp_path)
    for name in ("lexicon.txt", "lexiconp.txt", "lexiconp_silprob.txt", "silprob.txt"):
        assert (tmp_path / name).read_text() == KALDI[name], name


def test_probabilities_need_not_be_relative_to_the_likeliest(
    toy_counts: PronunciationCounts,
) -> None:
    options = PronunciationOptions(max_normalize=False, silence=False)
    learnt = estimate_pronunciations(TOY, toy_counts, options)
    # Each one counts once more: 404 and 1202 of 1606.
    assert [p.probability for p in learnt.pronunciations] == [1, 1, 1, 0.251557, 0.748443, 1]
    assert learnt.silence is None
    assert all(p.silence is None for p in learnt.pronunciations)


@pytest.mark.parametrize("silent", [True, False])
def test_silence_is_never_certain_and_never_impossible(silent: bool, tmp_path: Path) -> None:
    counts = PronunciationCounts()
    gap = [None] if silent else []
    for _ in range(1000):
        counts.add_utterance([*gap, THE, *gap, CAT, *gap])
    learnt = estimate_pronunciations(TOY, counts)
    edge = 0.99 if silent else 0.01
    assert learnt.silence is not None
    assert (learnt.silence.begin, learnt.silence.overall) == (edge, edge)
    (cat,) = (p.silence for p in learnt.pronunciations if p.word == "cat")
    assert cat is not None
    assert cat.after == edge
    write_dictionary(learnt, tmp_path)
    assert read_dictionary(tmp_path).pronunciations == learnt.pronunciations
    assert prepare_lang(learnt, LangOptions(), tmp_path / "lang").words["cat"]


@given(st.lists(st.lists(st.sampled_from([THE, THEE, CAT, None]), max_size=6), min_size=1))
def test_silences_and_neighbours_of_pronunciations_add_up(utterances) -> None:
    counts, halves = PronunciationCounts(), [PronunciationCounts(), PronunciationCounts()]
    for number, words in enumerate(utterances):
        counts.add_utterance(words)
        halves[number % 2].add_utterance(words)
    halves[0].add(halves[1])
    assert halves[0] == counts
    assert counts.utterances == len(utterances)
    used = counts.pronunciations()
    assert used == Counter(w for words in utterances for w in words if w is not None)
    for word, n in counts.silences().items():
        times = len(utterances) if word in (BEGIN, END) else used[word]
        assert n.before + n.not_before == (0 if word == BEGIN else times)
        assert n.after + n.not_after == (0 if word == END else times)


def test_nothing_is_learnt_of_no_utterances() -> None:
    with pytest.raises(DataError, match="no utterance was counted"):
        estimate_pronunciations(TOY, PronunciationCounts())
