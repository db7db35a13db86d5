"""Reading dictionaries: what is accepted, deduced and refused."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mariana_asr.errors import DataError
from mariana_asr.lang.dictionary import Dictionary, Pronunciation, read_dictionary

MakeDict = Callable[..., Path]


def test_reads_several_pronunciations_in_the_order_of_the_file(make_dict: MakeDict) -> None:
    dictionary = read_dictionary(make_dict("b B IY\na AH\na EY\n"))
    assert dictionary.pronunciations == [
        Pronunciation("b", 1.0, ("B", "IY")),
        Pronunciation("a", 1.0, ("AH",)),
        Pronunciation("a", 1.0, ("EY",)),
    ]
    assert dictionary.silence_phones == [["SIL"], ["SPN"]]
    assert dictionary.nonsilence_phones == [["AH"], ["B"], ["EY"], ["IY"]]
    assert dictionary.optional_silence == "SIL"


def test_lexiconp_goes_before_lexicon_and_gives_probabilities(make_dict: MakeDict) -> None:
    folder = make_dict("a AH\na EY\n")
    (folder / "lexiconp.txt").write_text("a 1.0 AH\na 0.25\tEY\n")
    assert [p.probability for p in read_dictionary(folder).pronunciations] == [1.0, 0.25]


def test_windows_line_ends_and_byte_order_mark_do_no_harm(make_dict: MakeDict) -> None:
    folder = make_dict("a AH\n")
    (folder / "lexicon.txt").write_bytes(b"\xef\xbb\xbfa AH\r\n\xc3\xa9 AH\r\n")
    assert [p.word for p in read_dictionary(folder).pronunciations] == ["a", "é"]


def test_every_problem_is_listed_at_once_with_its_line(make_dict: MakeDict) -> None:
    folder = make_dict(
        "a AH\n<eps> AH\n<s> AH\n</s> AH\n#0 AH\nb\n\nc XX\nd AH_B\n",
        silence="SIL\nSPN\nAH\n",
        speech="AH\nAH_B\nAH\n",
    )
    with (folder / "lexicon.txt").open("ab") as file:
        file.write(b"caf\xe9 AH\nx\xc2\xa0y AH\n")
    (folder / "extra_questions.txt").write_text("AH YY\n")
    (folder / "optional_silence.txt").write_text("SILENCE\n")
    with pytest.raises(DataError) as caught:
        read_dictionary(folder)
    text = str(caught.value)
    for place, message in {
        "lexicon.txt:2": "'<eps>' cannot be a word",
        "lexicon.txt:3": "'<s>' cannot be a word",
        "lexicon.txt:4": "'</s>' cannot be a word",
        "lexicon.txt:5": "'#0' cannot be a word",
        "lexicon.txt:6": "'b' has no pronunciation",
        "lexicon.txt:7": "empty line",
        "lexicon.txt:8": "the phone 'XX' of 'c' is neither in silence_phones.txt nor in",
        "lexicon.txt:10": "not UTF-8",
        "lexicon.txt:11": "white space other than blank and tab",
        "nonsilence_phones.txt:2": "ends like a phone marked with its place",
        "nonsilence_phones.txt:3": "'AH' comes twice",
        "extra_questions.txt:1": "unknown phone 'YY'",
        "optional_silence.txt": "'SILENCE' is not in silence_phones.txt",
    }.items():
        assert f"{place}: " in text, place
        assert message in text, message
    assert "'AH' is in silence_phones.txt and nonsilence_phones.txt" in text


@pytest.mark.parametrize("given_probability", ["0", "1.5", "-1", "nan", "AH", ""])
def test_probability_outside_of_zero_to_one_is_an_error(
    make_dict: MakeDict, given_probability: str
) -> None:
    folder = make_dict("a AH\n")
    (folder / "lexiconp.txt").write_text(f"a {given_probability} AH\n")
    with pytest.raises(DataError, match=r"lexiconp.txt:1: the probability"):
        read_dictionary(folder)


def test_pronunciation_that_comes_twice_is_dropped_with_a_warning(
    make_dict: MakeDict, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dictionary = read_dictionary(make_dict("a AH\nb AH\na AH\n"))
    assert [p.word for p in dictionary.pronunciations] == ["a", "b"]
    assert "lexicon.txt:3: dropped, a has the pronunciation AH already" in caplog.text


def test_position_suffix_is_allowed_where_phones_carry_no_position(make_dict: MakeDict) -> None:
    folder = make_dict("a AH_B\n")
    with pytest.raises(DataError, match="AH_B"):
        read_dictionary(folder)
    dictionary = read_dictionary(folder, position_dependent_phones=False)
    assert dictionary.nonsilence_phones == [["AH_B"]]


@pytest.mark.parametrize("name", ["lexicon.txt", "nonsilence_phones.txt", "silence_phones.txt"])
def test_empty_file_is_an_error(make_dict: MakeDict, name: str) -> None:
    folder = make_dict("a AH\n")
    (folder / name).write_text("")
    with pytest.raises(DataError, match=rf"{name}: empty"):
        read_dictionary(folder)


def test_missing_folder_or_lexicon_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such lexicon or dict directory"):
        read_dictionary(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither lexiconp.txt nor lexicon.txt"):
        read_dictionary(tmp_path)


def test_a_lexicon_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "lexicon.txt").write_text("hello HH AH L OW\nnoise NSN\n")
    dictionary = read_dictionary(tmp_path)
    assert dictionary.silence_phones == [["SIL"], ["SPN"], ["NSN"]]
    assert dictionary.nonsilence_phones == [["AH"], ["HH"], ["L"], ["OW"]]
    assert dictionary.pronunciations[-1] == Pronunciation("<UNK>", 1.0, ("SPN",))
    assert dictionary == Dictionary.from_lexicon(tmp_path / "lexicon.txt")
    assert dictionary == read_dictionary(tmp_path / "lexicon.txt")


def test_unknown_word_of_the_lexicon_is_kept(tmp_path: Path) -> None:
    (tmp_path / "lexicon.txt").write_text("a AH\n<UNK> SIL\n")
    dictionary = read_dictionary(tmp_path)
    assert dictionary.silence_phones == [["SIL"]]
    assert [p.phones for p in dictionary.pronunciations] == [("AH",), ("SIL",)]


def test_missing_unknown_word_is_said_as_spoken_noise_or_else_as_silence() -> None:
    entries = [Pronunciation("a", 1.0, ("AH",))]
    plain = Dictionary(entries, [["SIL"]], [["AH"]], "SIL")
    noisy = Dictionary(entries, [["SIL", "SPN"]], [["AH"]], "SIL")
    assert plain.with_oov("<UNK>").pronunciations[-1].phones == ("SIL",)
    assert noisy.with_oov("<UNK>").pronunciations[-1].phones == ("SPN",)


token = st.text("abcdéλ語'-", min_size=1, max_size=5)


@given(st.lists(st.tuples(token, st.lists(token, min_size=1, max_size=4)), min_size=1))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("dict")
    lines = [f"{word}\t{' '.join(phones)}\n" for word, phones in entries]
    (folder / "lexicon.txt").write_text("".join(lines))
    read = read_dictionary(folder).pronunciations[:-1]
    assert [(p.word, p.phones) for p in read] == list(
        dict.fromkeys((word, tuple(phones)) for word, phones in entries)
    )
