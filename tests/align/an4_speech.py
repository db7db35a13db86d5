"""AN4's training recordings as a data directory, under the ids that they have in Kaldi's recipe."""

from pathlib import Path

from made_speech import write_data_dir

from mariana_asr.corpus.audio import read_audio
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.features.mfcc import MfccOptions, compute_mfcc


def write_an4(corpora: Path, folder: Path, count: int | None = None) -> DataDir:
    """Write the first utterances, or all, with MFCC as the golden models saw them.

    Kaldi's have dither in addition. Their speakers' CMVN statistics are of the utterances taken.
    """
    options = MfccOptions(use_energy=False, dither=0.0, sample_frequency=16000)
    feats, text, speakers = {}, {}, {}
    places = (corpora / "an4/etc/an4_train.fileids").read_text().split()
    lines = (corpora / "an4/etc/an4_train.transcription").read_text().splitlines()
    for place, line in sorted(zip(places, lines, strict=True), key=lambda pair: pair[0])[:count]:
        name, speaker, take = place.rsplit("/", 1)[1].split("-")
        utterance = f"{speaker}-{name}-{take}"
        (audio,) = (corpora / "an4/wav").glob(place + ".*")
        feats[utterance] = compute_mfcc(read_audio(str(audio))[0], options)
        words = line.rsplit("(", 1)[0].split()
        text[utterance] = " ".join(word for word in words if word not in ("<s>", "</s>"))
        speakers[utterance] = speaker
    return write_data_dir(folder, feats, text, speakers)
