from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.corpus.subset import (
    hold_out_speakers,
    split_by_speaker,
    split_by_utterance,
    subset_by_speakers,
    subset_by_utterances,
)
from mariana_asr.errors import DataError


def data_with(*counts: int) -> DataDir:
    """Speakers a, b, ... with these numbers of utterances."""
    utt2spk = {
        f"{chr(97 + speaker)}-{number:03}": chr(97 + speaker)
        for speaker, count in enumerate(counts)
        for number in range(count)
    }
    return DataDir(Path("data"), utt2spk, text=dict.fromkeys(utt2spk, "word"))


counts = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@given(counts, st.data())
def test_a_split_by_speaker_separates_none_loses_none_and_balances(
    sizes: list[int], draw: st.DataObject
) -> None:
    data = data_with(*sizes)
    n = draw.draw(st.integers(1, len(sizes)))
    parts = split_by_speaker(data, n)
    assert len(parts) == n
    assert sorted(u for part in parts for u in part.utterances) == data.utterances
    speakers = [set(part.spk2utt) for part in parts]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == len(sizes)
    lengths = [len(part.utterances) for part in parts]
    assert min(lengths) >= 1
    # Graham (1969): within 4/3 - 1/(3n) of the optimum, which is no less than either bound.
    least = max(max(sizes), sum(sizes) / n)
    if n == 1 or max(lengths) > max(sizes):
        assert max(lengths) <= least + max(sizes)
    assert split_by_speaker(data, n) == parts


def test_a_split_by_speaker_of_known_sizes_is_the_best_one() -> None:
    parts = split_by_speaker(data_with(8, 7, 6, 5, 4), 2)
    assert sorted(len(part.utterances) for part in parts) == [13, 17]
    parts = split_by_speaker(data_with(10, 1, 1, 1, 1, 1), 2)
    assert [sorted(part.spk2utt) for part in parts] == [["a"], ["b", "c", "d", "e", "f"]]


@given(counts, st.data())
def test_a_split_by_utterance_gives_runs_of_equal_length(
    sizes: list[int], draw: st.DataObject
) -> None:
    data = data_with(*sizes)
    n = draw.draw(st.integers(1, len(data.utterances)))
    parts = split_by_utterance(data, n)
    assert [u for part in parts for u in part.utterances] == data.utterances
    lengths = {len(part.utterances) for part in parts}
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("n", [0, -1, 4])
def test_more_parts_than_there_are_speakers_or_utterances_are_refused(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} speakers or parts asked of 3 speakers"):
        split_by_speaker(data_with(1, 1, 1), n)
    with pytest.raises(DataError, match="Give a number from 1 to 3"):
        split_by_utterance(data_with(1, 1, 1), n)


def test_a_subset_of_n_utterances_is_spread_over_the_corpus() -> None:
    data = data_with(10, 10)
    assert subset_by_utterances(data, 4).utterances == ["a-000", "a-005", "b-000", "b-005"]
    assert subset_by_utterances(data, 20) == data
    with pytest.raises(DataError, match="21 utterances"):
        subset_by_utterances(data, 21)


def test_a_subset_of_named_utterances_knows_their_names() -> None:
    data = data_with(2, 2)
    part = subset_by_utterances(data, ["b-001", "a-000"], Path("part"))
    assert (part.path, part.utterances) == (Path("part"), ["a-000", "b-001"])
    with pytest.raises(DataError, match="unknown utterances: c-000"):
        subset_by_utterances(data, ["c-000", "a-000"])


def test_a_subset_of_speakers_keeps_all_of_their_utterances() -> None:
    data = data_with(2, 3, 1, 2)
    assert set(subset_by_speakers(data, 2).spk2utt) == {"a", "c"}
    assert subset_by_speakers(data, ["b"]).utterances == ["b-000", "b-001", "b-002"]
    with pytest.raises(DataError, match=r"unknown speakers: x\. Known are a, b, c, d"):
        subset_by_speakers(data, ["x", "a"])


def test_speakers_are_held_out_by_name() -> None:
    train, held_out = hold_out_speakers(data_with(2, 3, 1), ["b"])
    assert set(held_out.spk2utt) == {"b"}
    assert set(train.spk2utt) == {"a", "c"}
    assert train.text.keys() == train.utt2spk.keys()


def test_a_misspelt_speaker_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"unknown speakers: theo\. Known are a, b"):
        hold_out_speakers(data_with(1, 1), ["theo"])


@given(st.integers(2, 20), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_a_fraction_of_speakers_is_drawn_by_seed(n: int, fraction: float, seed: int) -> None:
    data = data_with(*[2] * n)
    wanted = max(1, round(fraction * n))
    if wanted == n:
        with pytest.raises(DataError, match="leaves one side empty"):
            hold_out_speakers(data, fraction, seed)
        return
    train, held_out = hold_out_speakers(data, fraction, seed)
    assert len(held_out.spk2utt) == wanted
    assert set(train.spk2utt).isdisjoint(held_out.spk2utt)
    assert sorted(train.utterances + held_out.utterances) == data.utterances
    # The draw is a function of the set of speakers, not of the order in which they were read.
    backwards = DataDir(Path("data"), dict(reversed(data.utt2spk.items())), text=data.text)
    assert set(hold_out_speakers(backwards, fraction, seed)[1].spk2utt) == set(held_out.spk2utt)


def test_another_seed_draws_other_speakers() -> None:
    data = data_with(*[1] * 20)
    draws = {tuple(hold_out_speakers(data, 0.2, seed)[1].utterances) for seed in range(10)}
    assert len(draws) > 5


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2])
def test_a_fraction_must_be_between_0_and_1(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        hold_out_speakers(data_with(1, 1), fraction)


def test_holding_out_everyone_or_no_one_is_refused() -> None:
    with pytest.raises(DataError, match="2 of 2 speakers"):
        hold_out_speakers(data_with(1, 1), ["a", "b"])
    with pytest.raises(DataError, match="0 of 2 speakers"):
        hold_out_speakers(data_with(1, 1), [])
    with pytest.raises(DataError, match=r"1 of 1 speakers.*development set"):
        hold_out_speakers(data_with(5), 0.1)
