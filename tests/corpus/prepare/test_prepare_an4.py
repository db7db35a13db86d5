import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mariana_asr.corpus.audio import read_audio
from mariana_asr.corpus.datadir import read_data_dir, read_table
from mariana_asr.corpus.prepare import An4Options, prepare_corpus
from mariana_asr.corpus.prepare.an4 import check_content, recordings_digest, texts_digest
from mariana_asr.errors import DataError, FormatError, StageError
from mariana_asr.kaldi import kaldifst, kaldilm


@pytest.fixture(scope="module")
def prepared(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("an4")
    prepare_corpus(An4Options(corpus_dir=corpora / "an4"), out)
    return out


def lexicon_of(out: Path) -> set[tuple[str, ...]]:
    return {tuple(line.split()) for line in (out / "dict/lexicon.txt").read_text().splitlines()}


def test_the_sets_have_the_published_sizes(prepared):
    train, dev, test = (read_data_dir(prepared / name) for name in ("train", "dev", "test"))
    assert len(train.utt2spk) + len(dev.utt2spk) == 948
    assert (len(train.spk2utt), len(dev.spk2utt)) == (67, 7)
    assert (len(test.utt2spk), len(test.spk2utt)) == (130, 10)
    assert len({*train.spk2utt, *dev.spk2utt, *test.spk2utt}) == 84
    assert (prepared / "train/skipped.txt").read_text() == ""


def test_utterances_and_transcripts_of_the_test_set_are_those_of_kaldi(prepared, golden):
    reference = read_table(golden / "an4_kaldi/test_ref.txt")
    assert read_data_dir(prepared / "test").text == reference
    assert sum(len(words.split()) for words in reference.values()) == 773


def test_training_utterances_are_those_that_kaldi_aligned(prepared, golden):
    with gzip.open(golden / "an4_kaldi/mono/train_pdf.txt.gz", "rt") as lines:
        aligned = {line.split()[0] for line in lines}
    train, dev = read_data_dir(prepared / "train"), read_data_dir(prepared / "dev")
    assert aligned <= {*train.utt2spk, *dev.utt2spk}


def test_recordings_are_named_by_absolute_path_and_match_their_utterance(prepared):
    wav = read_data_dir(prepared / "train").wav | read_data_dir(prepared / "dev").wav
    file = Path(wav["fash-an251-b"])
    assert file.is_absolute()
    assert file.parts[-3:] == ("an4_clstk", "fash", "an251-fash-b.flac")


def test_pronunciations_and_phones_are_those_of_kaldis_lang_directory(prepared, golden):
    lines = (golden / "an4_kaldi/lang/phones/align_lexicon.txt").read_text().splitlines()
    golden_lexicon = set()
    for line in lines:
        word, _, *phones = line.split()
        if word != "<eps>":
            golden_lexicon.add((word, *(phone.rsplit("_", 1)[0] for phone in phones)))
    assert lexicon_of(prepared) == golden_lexicon
    kaldi_phones = {
        line.rsplit("_", 1)[0]
        for line in (golden / "an4_kaldi/lang/phones/nonsilence.txt").read_text().split()
    }
    assert set((prepared / "dict/nonsilence_phones.txt").read_text().split()) == kaldi_phones
    for name in ("silence_phones.txt", "optional_silence.txt"):
        assert (prepared / "dict" / name).read_text() == "SIL\n"


def test_the_dictionary_has_the_words_and_the_unknown_word_of_kaldis_lang_directory(
    prepared, golden
):
    words = {line.split()[0] for line in (golden / "an4_kaldi/lang/words.txt").open()}
    assert {entry[0] for entry in lexicon_of(prepared)} == words - {"<eps>", "#0", "<s>", "</s>"}
    unknown = (golden / "an4_kaldi/lang/oov.txt").read_text().strip()
    assert (unknown, "SIL") in lexicon_of(prepared)


def test_the_language_model_gives_every_word_the_weight_it_has_in_kaldis_grammar(prepared, golden):
    lang = golden / "an4_kaldi/lang"
    kaldi = kaldifst.StdVectorFst.read(str(lang / "G.fst"))
    disambiguation = int(read_table(lang / "words.txt")["#0"])
    # Words are arcs that take no back-off; in both grammars all of them leave one state.
    expected = {
        arc.ilabel: arc.weight.value
        for state in range(kaldi.num_states)
        for arc in kaldifst.ArcIterator(kaldi, state)
        if arc.ilabel not in (0, disambiguation)
    }
    text = kaldilm.arpa2fst(
        input_arpa=str(prepared / "dict/lm.arpa"),
        disambig_symbol="#0",
        read_symbol_table=str(lang / "words.txt"),
    )
    ours = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4 and int(fields[2]) not in (0, disambiguation):
            ours[int(fields[2])] = float(fields[4]) if len(fields) == 5 else 0.0
    assert len(ours) == 99
    assert ours.keys() == expected.keys()
    np.testing.assert_allclose(
        [ours[word] for word in sorted(ours)], [expected[word] for word in sorted(ours)], atol=1e-4
    )


def test_the_corpus_at_hand_passes_the_check_of_a_download(corpora, caplog):
    check_content(corpora / "an4")
    assert "differ" not in caplog.text


UTTERANCES = {
    "train": {"an4-fabc-b": "YES", "cen1-mdef-b": "A B ONE", "cen2-mjkl-b": "NO"},
    "test": {"an9-mghi-b": "RUBOUT NO"},
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A corpus in the form of the public archive: SPHERE files, sentence marks."""
    root = tmp_path / "an4"
    (root / "etc").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, folder in (("train", "an4_clstk"), ("test", "an4test_clstk")):
        lines = []
        for recording, words in UTTERANCES[name].items():
            speaker = recording.split("-")[1]
            file = root / "wav" / folder / speaker / f"{recording}.sph"
            file.parent.mkdir(parents=True)
            samples = generator.integers(-9999, 9999, 4000, dtype=np.int16)
            soundfile.write(file, samples, 16000, "PCM_16", "BIG", "NIST")
            marked = f"<s> {words} </s>" if name == "train" else words
            lines.append(f"{marked} ({recording})\n")
        (root / "etc" / f"an4_{name}.transcription").write_text("".join(lines))
    (root / "etc/an4.dic").write_text(
        "A  AH\nA(2)  EY\nB  B IY\nNO  N OW\nONE  W AH N\nRUBOUT  R AH B AW T\nYES  Y EH S\n"
    )
    (root / "etc/an4.phone").write_text("AH\nAW\nB\nEH\nEY\nIY\nN\nOW\nR\nS\nSIL\nT\nW\nY\n")
    (root / "etc/an4.ug.lm").write_text(
        "junk\n\\data\\\nngram 1=4\n\n\\1-grams:\n-1\tYES\t0\n-1\tHALL\t0\n-99\t<s>\t0\n"
        "-1\t</s>\t-99\n\n\\end\\\n"
    )
    return root


def test_the_public_archives_form_is_read(small, tmp_path):
    prepare_corpus(An4Options(corpus_dir=small, dev_speakers=["mjkl"]), tmp_path / "out")
    data = read_data_dir(tmp_path / "out/train")
    assert data.text == {"fabc-an4-b": "YES", "mdef-cen1-b": "A B ONE"}
    assert data.utt2spk == {"fabc-an4-b": "fabc", "mdef-cen1-b": "mdef"}
    assert read_data_dir(tmp_path / "out/dev").text == {"mjkl-cen2-b": "NO"}
    samples, rate = read_audio(data.wav["fabc-an4-b"])
    assert (len(samples), rate) == (4000, 16000)
    np.testing.assert_array_equal(
        samples, np.random.default_rng(0).integers(-9999, 9999, 4000, dtype=np.int16)
    )
    assert "HALL" not in (tmp_path / "out/dict/lm.arpa").read_text()


def test_digests_do_not_depend_on_file_format_or_sentence_marks(small):
    texts, recordings = texts_digest(small), recordings_digest(small)
    transcription = small / "etc/an4_train.transcription"
    text = transcription.read_text()
    transcription.write_text(text.replace("<s> ", "").replace(" </s>", ""))
    for file in (small / "wav").rglob("*.sph"):
        samples, rate = soundfile.read(file, dtype="int16")
        soundfile.write(file.with_suffix(".flac"), samples, rate)
        file.unlink()
    assert texts_digest(small) == texts
    assert recordings_digest(small) == recordings
    transcription.write_text(text.replace("YES", "NO"))
    assert texts_digest(small) != texts
    with pytest.raises(DataError, match="SHA-256 of the transcripts"):
        check_content(small)


def test_unusable_recordings_are_left_out_and_listed(small, tmp_path):
    recording = small / "wav/an4_clstk/fabc/an4-fabc-b.sph"
    recording.write_bytes(recording.read_bytes()[:-4000])
    prepare_corpus(An4Options(corpus_dir=small, dev_speakers=["mjkl"]), tmp_path / "out")
    assert read_data_dir(tmp_path / "out/train").utterances == ["mdef-cen1-b"]
    assert "fabc-an4-b" in (tmp_path / "out/train/skipped.txt").read_text()
    assert "cut short" in (tmp_path / "out/train/skipped.txt").read_text()
    shutil.rmtree(small / "wav/an4test_clstk")
    with pytest.raises(StageError, match="none of 1"):
        prepare_corpus(An4Options(corpus_dir=small, dev_speakers=["mjkl"]), tmp_path / "out")


def test_a_recording_at_another_rate_is_left_out(small, tmp_path):
    recording = small / "wav/an4_clstk/fabc/an4-fabc-b.sph"
    soundfile.write(recording, np.zeros(800, np.int16), 8000, "PCM_16", "BIG", "NIST")
    prepare_corpus(An4Options(corpus_dir=small, dev_speakers=["mjkl"]), tmp_path / "out")
    assert "8000 Hz" in (tmp_path / "out/train/skipped.txt").read_text()


@pytest.mark.parametrize("name", ["an4.dic", "an4_train.transcription", "an4.ug.lm", "an4.phone"])
def test_a_folder_that_is_not_an4_is_named(small, tmp_path, name):
    (small / "etc" / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: no such file, so this is not AN4"):
        prepare_corpus(An4Options(corpus_dir=small, dev_speakers=["mjkl"]), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("an4_train.transcription", b"YES (an4-fabc-b)\nNO\n", r"transcription:2: 'NO' is not of"),
        ("an4_train.transcription", b"YES (../../etc/x)\n", "is not of the form"),
        ("an4_train.transcription", b"\xe9 (an4-fabc-b)\n", "not UTF-8"),
        ("an4.dic", b"A AH\nB\n", r"an4.dic:2: 'B' has no phones"),
        ("an4.ug.lm", b"nothing\n", "no .data. section"),
    ],
)
def test_malformed_texts_are_named_with_their_line(small, tmp_path, name, content, message):
    (small / "etc" / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        prepare_corpus(An4Options(corpus_dir=small, dev_speakers=["mjkl"]), tmp_path / "out")
