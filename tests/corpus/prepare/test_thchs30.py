from pathlib import Path

import numpy as np
import pytest
import soundfile

from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.corpus.prepare import Thchs30Options, prepare_corpus
from mariana_asr.corpus.prepare.thchs30 import SETS, check_content
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError, FormatError, StageError

# Recordings of each set, their words, pinyin and phones as the corpus writes them.
RECORDINGS = {
    "train": {
        "A2_3": ("绿 是 阳春 烟 景", "lv4 shi4 yang2 chun1 yan1 jing3", "l v4 sh ix4"),
        "A11_0": ("l = 我 在 中国银行 工作", "wo3 zai4 zhong1 guo2", "uu uo3 z ai4"),
        "A23_250": ("他 仅 凭 腰部 的 力量", "ta1 jin3 ping2 yao1", "t a1"),
    },
    "dev": {"A11_1": ("中国 的 力量", "zhong1 guo2 de5", "zh ong1")},
    "test": {"D4_750": ("东北军 的 一些 爱", "dong1 bei3 jun1", "d ong1")},
}
OPTIONS = {"lexicon_size": 50}


def write_corpus(root: Path, linked: bool) -> Path:
    """Write a corpus in the form of the public archive.

    Its sets are links to the recordings and transcripts below data/, or, where links are not
    kept, recordings, and transcripts that hold the path of the real ones.
    """
    data = root / "data"
    data.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, recordings in RECORDINGS.items():
        folder = root / name
        folder.mkdir()
        for recording, lines in recordings.items():
            wav, trn = f"{recording}.wav", f"{recording}.wav.trn"
            samples = generator.integers(-9999, 9999, 4000, dtype=np.int16)
            (data / trn).write_text("\n".join(lines) + "\n", encoding="utf-8")
            if linked:
                soundfile.write(data / wav, samples, 16000)
                (folder / wav).symlink_to(Path("..", "data", wav))
                (folder / trn).symlink_to(Path("..", "data", trn))
            else:
                soundfile.write(folder / wav, samples, 16000)
                (folder / trn).write_text(f"../data/{trn}\n")
    return root


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "data_thchs30", linked=False)


@pytest.mark.parametrize("linked", [True, False])
def test_sets_are_folders_and_ids_are_kaldis(tmp_path, linked):
    root = write_corpus(tmp_path / "data_thchs30", linked)
    prepare_corpus(Thchs30Options(corpus_dir=root, **OPTIONS), tmp_path / "out")
    train = read_data_dir(tmp_path / "out/train")
    assert train.utt2spk == {"A02_003": "A02", "A11_000": "A11", "A23_250": "A23"}
    assert train.text == {
        "A02_003": "绿 是 阳 春 烟 景",
        "A11_000": "我 在 中 国 银 行 工 作",
        "A23_250": "他 仅 凭 腰 部 的 力 量",
    }
    assert Path(train.wav["A02_003"]).name == "A2_3.wav"
    assert read_data_dir(tmp_path / "out/dev").text == {"A11_001": "中 国 的 力 量"}
    assert read_data_dir(tmp_path / "out/test").utt2spk == {"D04_750": "D04"}
    for name in SETS:
        assert validate_data_dir(tmp_path / "out" / name) == []
        assert (tmp_path / "out" / name / "skipped.txt").read_text() == ""


def test_the_parent_folder_will_do_and_words_may_be_jiebas(corpus, tmp_path):
    options = Thchs30Options(corpus_dir=corpus.parent, words="jieba", lexicon_words=2000)
    prepare_corpus(options, tmp_path / "out")
    train = read_data_dir(tmp_path / "out/train")
    assert train.text["A11_000"] == "我 在 中国 银行 工作"
    lexicon = (tmp_path / "out/dict/lexicon.txt").read_text(encoding="utf-8").splitlines()
    # The phones that the corpus itself gives for this word, but for the vowel without an initial.
    assert "绿 l v4" in lexicon
    assert "是 sh ix4" in lexicon
    assert "军 j vn1" in lexicon


def test_only_training_transcripts_add_to_the_lexicon(corpus, tmp_path):
    prepare_corpus(Thchs30Options(corpus_dir=corpus, lexicon_size=0), tmp_path / "out")
    words = {
        line.split()[0]
        for line in (tmp_path / "out/dict/lexicon.txt").read_text(encoding="utf-8").splitlines()
    }
    spoken = {w for t in read_data_dir(tmp_path / "out/train").text.values() for w in t.split()}
    assert words == spoken | {"<UNK>"}
    unknown = (tmp_path / "out/test/unknown_words.txt").read_text(encoding="utf-8").splitlines()
    assert set(unknown) == {"东 1", "北 1", "军 1", "一 1", "些 1", "爱 1"}


def test_what_cannot_be_used_is_left_out_and_listed(corpus, tmp_path):
    (corpus / "data/A2_3.wav.trn").unlink()
    (corpus / "train/A11_0.wav").write_bytes(b"RIFF")
    prepare_corpus(Thchs30Options(corpus_dir=corpus, **OPTIONS), tmp_path / "out")
    assert read_data_dir(tmp_path / "out/train").utterances == ["A23_250"]
    skipped = (tmp_path / "out/train/skipped.txt").read_text().splitlines()
    assert skipped[0] == "A02_003 no transcript"
    assert skipped[1].startswith("A11_000 ")
    (corpus / "dev/A11_1.wav.trn").write_text("")
    with pytest.raises(StageError, match="dev set of THCHS-30: none of 1"):
        prepare_corpus(Thchs30Options(corpus_dir=corpus, **OPTIONS), tmp_path / "out")


def test_folders_that_are_not_the_corpus_are_named(corpus, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"no recordings of train, dev, test, so this is not"):
        prepare_corpus(Thchs30Options(corpus_dir=tmp_path / "other"), tmp_path / "out")
    (corpus / "train/hello.wav").write_bytes(b"")
    with pytest.raises(FormatError, match=r"hello.wav: not named like"):
        prepare_corpus(Thchs30Options(corpus_dir=corpus), tmp_path / "out")


def test_a_transcript_in_another_encoding_is_named(corpus, tmp_path):
    (corpus / "data/A2_3.wav.trn").write_bytes("绿 是".encode("gbk"))
    with pytest.raises(FormatError, match=r"A2_3.wav.trn: not UTF-8"):
        prepare_corpus(Thchs30Options(corpus_dir=corpus), tmp_path / "out")


def test_a_download_has_as_many_recordings_as_were_published(corpus, monkeypatch):
    with pytest.raises(DataError, match="3 recordings in the train set, not 10000"):
        check_content(corpus)
    for name, recordings in RECORDINGS.items():
        monkeypatch.setitem(SETS, name, len(recordings))
    check_content(corpus)
