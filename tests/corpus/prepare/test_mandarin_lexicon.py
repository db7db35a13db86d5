"""Mandarin words and pronunciations, against what dictionaries and pinyin's spelling rules say."""

import sys
import tempfile
from collections import Counter

import pytest

from mariana_asr.corpus.prepare.mandarin import make_lexicon, write_mandarin_dictionary
from mariana_asr.corpus.prepare.mandarin_pronunciation import (
    group_by_tone,
    pronounce,
    split_syllable,
)
from mariana_asr.corpus.prepare.mandarin_words import MandarinOptions, Vocabulary
from mariana_asr.errors import MissingPackageError
from mariana_asr.lang.dictionary import read_dictionary
from mariana_asr.lang.options import LangOptions
from mariana_asr.lang.prepare import prepare_lang
from mariana_asr.score.error_counts import score_texts

INITIALS = "b p m f d t n l g k h j q x zh ch sh r z c s"
FINALS = (
    "a o e ai ei ao ou an en ang eng ong er i ia ie iao iou ian in iang ing iong "
    "u ua uo uai uei uan uen uang ueng v ve van vn ix iy"
)


@pytest.mark.parametrize(
    ("syllable", "phones"),
    [
        ("zhong1", "zh ong1"),
        ("ba5", "b a5"),
        # Syllables without an initial: y and w are spelling only.
        ("ai4", "ai4"),
        ("yi1", "i1"),
        ("you3", "iou3"),
        ("yong4", "iong4"),
        ("wu3", "u3"),
        ("wei4", "uei4"),
        ("wen2", "uen2"),
        ("weng1", "ueng1"),
        # Finals that are spelled short after an initial.
        ("liu2", "l iou2"),
        ("gui4", "g uei4"),
        ("lun2", "l uen2"),
        # ü, which is spelled u after j, q, x and y.
        ("nv3", "n v3"),
        ("lü4", "l v4"),
        ("lve4", "l ve4"),
        ("qu4", "q v4"),
        ("xue2", "x ve2"),
        ("juan1", "j van1"),
        ("yu3", "v3"),
        ("yuan2", "van2"),
        ("jun1", "j vn1"),
        ("yun2", "vn2"),
        # u after other initials is no ü.
        ("zhu3", "zh u3"),
        ("lu4", "l u4"),
        # The three vowels that are spelled i.
        ("di4", "d i4"),
        ("qi1", "q i1"),
        ("si4", "s iy4"),
        ("zi5", "z iy5"),
        ("shi4", "sh ix4"),
        ("ri4", "r ix4"),
        # Erhua.
        ("er2", "er2"),
        ("r5", "er5"),
        ("huar1", "h ua1 er5"),
        ("wanr2", "uan2 er5"),
        # Interjections.
        ("ng2", "eng2"),
        ("n4", "en4"),
        ("hng5", "h eng5"),
        ("ê4", "ei4"),
    ],
)
def test_syllables_are_split_into_initial_and_final_with_the_tone(syllable, phones):
    assert split_syllable(syllable) == tuple(phones.split())


@pytest.mark.parametrize("text", ["", "1", "zhong", "OK", "OK1", "zhong6"])
def test_what_is_no_syllable_is_refused(text):
    with pytest.raises(ValueError, match=repr(text)):
        split_syllable(text)


@pytest.mark.parametrize(
    ("word", "pronunciations"),
    [
        ("中", {"zh ong1", "zh ong4"}),
        ("长", {"ch ang2", "zh ang3"}),
        ("绿", {"l v4", "l u4"}),
        ("一", {"i1", "i2", "i4"}),
        ("银行", {"in2 h ang2"}),
        ("行人", {"x ing2 r en2"}),
        ("重庆", {"ch ong2 q ing4"}),
        ("音乐", {"in1 ve4"}),
        ("女儿", {"n v3 er2", "n v3 er5"}),
        ("二〇", {"er4 l ing2"}),
    ],
)
def test_readings_are_those_of_a_dictionary(word, pronunciations):
    assert {" ".join(phones) for phones in pronounce(word)} == pronunciations


def test_a_character_with_several_readings_has_the_usual_one_first():
    readings = [" ".join(phones) for phones in pronounce("的")]
    assert readings[0] == "d e5"
    assert {"d i2", "d i4"} <= set(readings)


@pytest.mark.parametrize("word", ["A", "7", "A股", "APPLE", "，", "°"])
def test_words_that_pypinyin_cannot_read_have_no_pronunciation(word):
    assert pronounce(word) == []


def test_every_reading_of_every_character_is_made_of_the_phones_of_mandarin():
    from pypinyin.pinyin_dict import pinyin_dict

    initials = set(INITIALS.split())
    known = initials | {final + tone for final in FINALS.split() for tone in "12345"}
    for code in pinyin_dict:
        for phones in pronounce(chr(code)):
            assert set(phones) <= known, (chr(code), phones)
            assert len(phones) == 1 + (phones[0] in initials)
            assert phones[-1][-1] in "12345"


def test_tones_of_a_final_share_a_root_and_finals_of_a_tone_a_question():
    phones = ["ong1", "zh", "a1", "ong4", "a5", "b", "a1"]
    roots, tones = group_by_tone(phones)
    assert roots == [["a1", "a5"], ["b"], ["ong1", "ong4"], ["zh"]]
    assert tones == [["b", "zh"], ["a1", "ong1"], ["ong4"], ["a5"]]


@pytest.fixture(scope="module")
def characters() -> Vocabulary:
    return Vocabulary(MandarinOptions())


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return Vocabulary(MandarinOptions(words="jieba"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("中国银行", "中 国 银 行"),
        ("中国 银行", "中 国 银 行"),
        ("世纪公园(三号门)", "世 纪 公 园 三 号 门"),
        ("大厦（淮海店）。", "大 厦 淮 海 店"),
        ("Ｔ恤M A P S", "T 恤 M A P S"),
        ("听Let It Go", "听 LET IT GO"),
        ("汽车V二V", "汽 车 V 二 V"),
        ("二〇一五年·5.5", "二 〇 一 五 年 5 5"),
        ("，。", ""),
        ("", ""),
    ],
)
def test_transcripts_become_characters_without_what_is_not_spoken(characters, text, expected):
    assert characters.cut(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我在中国银行工作", "我 在 中国银行 工作"),
        ("我在中 国银 行工作", "我 在 中国银行 工作"),
        ("日本I D C统计显示", "日本 I D C 统计 显示"),
        ("韩国，Let It Go", "韩国 LET IT GO"),
        ("龘𠀀", "龘 𠀀"),
    ],
)
def test_transcripts_become_words_of_jieba(words, text, expected):
    assert words.cut(text) == expected.split()


def test_words_outside_of_the_lexicon_are_spelled_with_its_characters():
    few = Vocabulary(MandarinOptions(words="jieba", lexicon_size=0, lexicon_words=200))
    assert "中国" in few.counts
    assert "银行" not in few.counts
    assert few.cut("中国银行") == ["中国", "银", "行"]
    few.add_characters(["银行"])
    assert few.cut("中国银行") == ["中国", "银", "行"]
    assert few.counts["银"] > 0


def test_the_lexicon_is_as_large_as_asked_for_and_grows_by_training_characters(characters):
    assert len(characters.counts) == 5000
    few = Vocabulary(MandarinOptions(lexicon_size=10))
    assert len(few.counts) == 10
    assert "一" in few.counts
    assert set(few.counts) < set(characters.counts)
    few.add_characters(["龘一ABC"])
    assert set(few.counts) - {"龘"} == set(few.counts) & set(characters.counts)
    assert len(few.counts) == 11
    assert Vocabulary(MandarinOptions(lexicon_size=0)).counts == {}


def test_counts_of_characters_are_those_of_the_words_they_come_in(characters):
    import jieba

    expected: Counter[str] = Counter()
    with jieba.Tokenizer().get_dict_file() as file:
        for line in file:
            word, count, _ = line.decode().split()
            expected["国"] += int(count) * word.count("国")
    assert characters.counts["国"] == expected["国"]


def test_all_characters_of_words_are_words_of_the_lexicon_too(words):
    assert {character for word in words.counts for character in word} <= set(words.counts)
    assert sum(len(word) > 1 for word in words.counts) == 100000
    assert sum(len(word) == 1 for word in words.counts) >= 5000


def test_cutting_leaves_no_file_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert Vocabulary(MandarinOptions(words="jieba", lexicon_words=5000)).cut("中国银行")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["jieba", "pypinyin"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package}.*mariana-asr\[mandarin\]"):
        make_lexicon(Vocabulary(MandarinOptions(words="jieba", lexicon_words=10)).cut("中国"))


def test_the_dictionary_becomes_a_lang_directory_with_shared_roots(tmp_path):
    counts = {"中": 7, "国": 5, "中国": 9, "妈": 0, "马": 2, "骂": 1, "A": 3}
    write_mandarin_dictionary(tmp_path / "dict", make_lexicon(counts), counts)
    assert (tmp_path / "dict/silence_phones.txt").read_text() == "SIL\nSPN\n"
    assert (tmp_path / "dict/extra_questions.txt").read_text().splitlines() == [
        "SIL SPN",
        "g m zh",
        "a1 ong1",
        "uo2",
        "a3",
        "a4 ong4",
    ]
    # Words without a pronunciation are not in the lexicon, and have no count either.
    assert (tmp_path / "dict/word_counts.txt").read_text().splitlines() == [
        "中 7",
        "中国 9",
        "国 5",
        "妈 0",
        "马 2",
        "骂 1",
    ]
    options = LangOptions(position_dependent_phones=False)
    dictionary = read_dictionary(tmp_path / "dict", position_dependent_phones=False)
    assert [p.phones for p in dictionary.pronunciations if p.word == "中国"] == [
        ("zh", "ong1", "g", "uo2")
    ]
    lang = prepare_lang(dictionary, options, tmp_path / "lang")
    roots = (lang.path / "phones/roots.txt").read_text().splitlines()
    assert "shared split a1 a3 a4" in roots
    assert "shared split ong1 ong4" in roots
    assert "<UNK> <UNK> SPN" in (lang.path / "phones/align_lexicon.txt").read_text()


def test_the_character_error_rate_does_not_depend_on_where_words_end(words: Vocabulary):
    text = "我在中国银行工作"
    cut = " ".join(words.cut(text))
    assert cut.count(" ") == 3
    same = score_texts({"u": cut}, {"u": " ".join(text)}, "char")
    assert (same.errors, same.tokens) == (0, 8)
    other = score_texts({"u": cut}, {"u": "我 在 中国 人行 工"}, "char")
    assert (other.errors, other.sub, other.del_) == (2, 1, 1)
