import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mariana_asr.corpus.audio import read_audio
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.corpus.prepare import AishellOptions, prepare_corpus
from mariana_asr.corpus.prepare.aishell import SETS, unpack_speakers
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError, FormatError, StageError

SENTENCES = ["设定三十度", "我在中国银行工作", "重庆的音乐", "一会儿见"]
FEW = {"lexicon_size": 50}


@pytest.fixture(scope="module")
def prepared(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("aishell")
    prepare_corpus(AishellOptions(corpus_dir=corpora / "aishell"), out)
    return out


def write_recording(file: Path, rate: int = 16000) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).integers(-9999, 9999, 4000, dtype=np.int16)
    soundfile.write(file, samples, rate)


def write_transcripts(path: Path, transcripts: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{utterance} {text}\n" for utterance, text in transcripts.items()]
    path.write_text("".join(lines), encoding="utf-8")


def lexicon_of(out: Path) -> str:
    return (out / "dict/lexicon.txt").read_text(encoding="utf-8")


def test_utterances_401_to_450_are_the_test_set_and_those_before_them_dev(prepared):
    train, dev, test = (read_data_dir(prepared / name) for name in ("train", "dev", "test"))
    assert [len(data.utt2spk) for data in (train, dev, test)] == [760, 40, 100]
    for data in (train, dev, test):
        assert list(data.spk2utt) == ["S0150", "S0252"]
        assert validate_data_dir(data.path) == []
        assert (data.path / "skipped.txt").read_text() == ""
    numbers = [{int(u[-4:]) for u in data.utt2spk} for data in (train, dev, test)]
    assert max(numbers[0]) == 380
    assert numbers[1] == set(range(381, 401))
    assert numbers[2] == set(range(401, 451))


def test_transcripts_are_characters_without_brackets(prepared):
    text = read_data_dir(prepared / "train").text
    assert text["BAC009S0150W0003"] == "设 定 三 十 一 度"
    assert "世 纪 公 园 三 号 门" in text.values()
    assert not any(c in "()（）·." for line in text.values() for c in line)


def test_the_lexicon_covers_all_chinese_characters_of_dev_and_train(prepared):
    words = {line.split()[0] for line in lexicon_of(prepared).splitlines()}
    for name in ("train", "dev"):
        spoken = {w for line in read_data_dir(prepared / name).text.values() for w in line.split()}
        unknown = spoken - words
        listed = (prepared / name / "unknown_words.txt").read_text(encoding="utf-8").splitlines()
        assert {line.split()[0] for line in listed} == unknown
        assert all(word.isascii() for word in unknown), unknown


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Two speakers of six utterances each, of which two are in the test set."""
    root = tmp_path / "aishell"
    transcripts = {}
    for speaker in ("S0150", "S0252"):
        for number, text in zip([1, 2, 3, 400, 401, 450], [*SENTENCES, "测试", "龘"], strict=True):
            utterance = f"BAC009{speaker}W{number:04d}"
            write_recording(root / "wav" / speaker / f"{utterance}.flac")
            transcripts[utterance] = text
    write_transcripts(root / "transcript.txt", transcripts)
    return root


def test_dev_utterances_are_the_last_training_utterances(part, tmp_path):
    options = AishellOptions(corpus_dir=part, dev_utterances=2, **FEW)
    prepare_corpus(options, tmp_path / "out")
    sets = {name: read_data_dir(tmp_path / "out" / name) for name in SETS}
    assert sets["train"].text["BAC009S0252W0001"] == "设 定 三 十 度"
    assert sorted(sets["dev"].text) == [
        f"BAC009{speaker}W{number}" for speaker in ("S0150", "S0252") for number in ("0003", "0400")
    ]
    assert sorted(sets["test"].text)[:2] == ["BAC009S0150W0401", "BAC009S0150W0450"]
    with pytest.raises(DataError, match=r"4 utterances outside of the test set.*dev_utterances"):
        prepare_corpus(AishellOptions(corpus_dir=part, dev_utterances=4), tmp_path / "out")


def test_only_training_transcripts_add_to_the_lexicon(part, tmp_path):
    options = AishellOptions(corpus_dir=part, dev_utterances=1, **FEW)
    prepare_corpus(options, tmp_path / "out")
    lexicon = lexicon_of(tmp_path / "out")
    assert "银 in2\n" in lexicon
    assert "龘" not in lexicon
    unknown = (tmp_path / "out/test/unknown_words.txt").read_text(encoding="utf-8")
    assert "龘 2\n" in unknown
    transcript = (part / "transcript.txt").read_text(encoding="utf-8")
    (part / "transcript.txt").write_text(
        transcript.replace("测试", "鼠").replace("一会儿见", "猫"), encoding="utf-8"
    )
    counts = (tmp_path / "out/dict/word_counts.txt").read_bytes()
    prepare_corpus(options, tmp_path / "out")
    assert lexicon_of(tmp_path / "out") == lexicon
    assert (tmp_path / "out/dict/word_counts.txt").read_bytes() == counts


def test_transcripts_may_be_cut_into_words(part, tmp_path):
    options = AishellOptions(corpus_dir=part, dev_utterances=1, words="jieba", lexicon_words=2000)
    prepare_corpus(options, tmp_path / "out")
    text = read_data_dir(tmp_path / "out/train").text
    assert text["BAC009S0150W0002"] == "我 在 中国 银行 工作"
    lines = lexicon_of(tmp_path / "out").splitlines()
    assert "银行 in2 h ang2" in lines
    assert "测 c e4" in lines


def test_what_cannot_be_used_is_left_out_and_listed(part, tmp_path):
    wav = part / "wav/S0150"
    (wav / "BAC009S0150W0001.flac").write_bytes(b"fLaC")
    write_recording(wav / "BAC009S0150W0002.flac", rate=8000)
    transcript = (part / "transcript.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in transcript if not line.startswith("BAC009S0252W0001")]
    (part / "transcript.txt").write_text("\n".join(kept), encoding="utf-8")
    prepare_corpus(AishellOptions(corpus_dir=part, dev_utterances=1, **FEW), tmp_path / "out")
    assert len(read_data_dir(tmp_path / "out/train").utt2spk) == 3
    skipped = (tmp_path / "out/train/skipped.txt").read_text().splitlines()
    assert [line[6:16] for line in skipped] == ["S0150W0001", "S0150W0002", "S0252W0001"]
    assert "8000 Hz" in skipped[1]
    assert "no transcript" in skipped[2]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The form of the published corpus, with an utterance in each set that has no transcript."""
    root = tmp_path / "data_aishell"
    transcripts = {}
    for name, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        for number, text in enumerate(["而 对 楼市 成交", "银行 的 音乐", ""], 121):
            utterance = f"BAC009{speaker}W{number:04d}"
            write_recording(root / "wav" / name / speaker / f"{utterance}.wav")
            if text:
                transcripts[utterance] = text
    transcripts["BAC009S0002W0999"] = "没有 录音"
    write_transcripts(root / "transcript/aishell_transcript_v0.8.txt", transcripts)
    return root


@pytest.mark.parametrize("inside", [True, False])
def test_the_published_corpus_has_its_sets_by_folders(published, tmp_path, caplog, inside):
    given = published if inside else published.parent
    prepare_corpus(AishellOptions(corpus_dir=given, **FEW), tmp_path / "out")
    for name, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        data = read_data_dir(tmp_path / "out" / name)
        assert data.utt2spk == {f"BAC009{speaker}W{n}": speaker for n in ("0121", "0122")}
        assert data.text[f"BAC009{speaker}W0121"] == "而 对 楼 市 成 交"
        skipped = (data.path / "skipped.txt").read_text()
        assert skipped == f"BAC009{speaker}W0123 no transcript\n"
    assert "1 transcript of 7 without a recording: BAC009S0002W0999" in caplog.text
    assert "2 done, 1 skipped" in caplog.text


def test_words_of_the_published_transcripts_are_cut_anew(published, tmp_path):
    options = AishellOptions(corpus_dir=published, words="jieba", lexicon_words=1000)
    prepare_corpus(options, tmp_path / "out")
    # The corpus's own words are not all in a lexicon of a thousand words.
    assert read_data_dir(tmp_path / "out/train").text["BAC009S0002W0121"] == "而 对 楼 市 成 交"


def pack(published: Path) -> None:
    """Pack the speakers as the downloaded archive has them."""
    wav = published / "wav"
    for name in SETS:
        (folder,) = (wav / name).iterdir()
        with tarfile.open(wav / f"{folder.name}.tar.gz", "w:gz") as tar:
            for file in sorted(folder.iterdir()):
                tar.add(file, f"{name}/{folder.name}/{file.name}")
                file.unlink()
        folder.rmdir()
        (wav / name).rmdir()


@pytest.fixture
def downloaded(published: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pack(published)
    for name in SETS:
        monkeypatch.setitem(SETS, name, 1)
    return published


def test_a_downloads_archives_of_speakers_are_unpacked(downloaded, tmp_path):
    options = AishellOptions(corpus_dir=downloaded, **FEW)
    with pytest.raises(
        DataError, match=r"3 archives of speakers not unpacked: S0002.tar.gz, .*tar"
    ):
        prepare_corpus(options, tmp_path / "out")
    unpack_speakers(downloaded)
    wav = downloaded / "wav"
    assert sorted(path.name for path in wav.iterdir()) == ["dev", "test", "train"]
    assert len(read_audio(str(wav / "train/S0002/BAC009S0002W0121.wav"))[0]) == 4000
    prepare_corpus(options, tmp_path / "out")


def test_a_damaged_archive_of_a_speaker_is_refused(downloaded):
    archive = downloaded / "wav/S0724.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match="not a whole tar archive"):
        unpack_speakers(downloaded)


def test_a_download_without_a_speaker_is_refused(downloaded):
    (downloaded / "wav/S0724.tar.gz").unlink()
    with pytest.raises(DataError, match="recordings of 0 speakers in the dev set, not 1"):
        unpack_speakers(downloaded)


def test_a_download_without_transcripts_is_refused(downloaded):
    (downloaded / "transcript/aishell_transcript_v0.8.txt").unlink()
    with pytest.raises(DataError, match=r"aishell_transcript_v0.8.txt: no such file"):
        unpack_speakers(downloaded)


def test_an_archive_of_a_speaker_cannot_write_elsewhere(published):
    with tarfile.open(published / "wav/S0001.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("../../escaped")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="unsafe member"):
        unpack_speakers(published)


def test_folders_that_are_not_the_corpus_are_named(tmp_path, part):
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"other: neither .* so this is not AISHELL-1"):
        prepare_corpus(AishellOptions(corpus_dir=tmp_path / "other"), tmp_path / "out")
    write_recording(part / "wav/S0150/hello.wav")
    with pytest.raises(FormatError, match=r"hello.wav: not named like"):
        prepare_corpus(AishellOptions(corpus_dir=part), tmp_path / "out")


def test_a_set_without_recordings_is_an_error(published, part, tmp_path):
    for file in (published / "wav/dev").rglob("*.wav"):
        file.unlink()
    with pytest.raises(DataError, match="no recordings of dev"):
        prepare_corpus(AishellOptions(corpus_dir=published), tmp_path / "out")
    for file in (part / "wav").rglob("*.flac"):
        file.write_bytes(b"")
    with pytest.raises(StageError, match=r"train set of AISHELL-1: none of 6"):
        prepare_corpus(AishellOptions(corpus_dir=part, dev_utterances=1), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"BAC009S0150W0001 \xc9\xe8\n", "transcript.txt: not UTF-8"),
        (b"BAC009S0150W0001 a\nBAC009S0150W0001 b\n", r"txt:2: BAC009S0150W0001 comes twice"),
    ],
)
def test_malformed_transcripts_are_named(part, tmp_path, content, message):
    (part / "transcript.txt").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        prepare_corpus(AishellOptions(corpus_dir=part), tmp_path / "out")
