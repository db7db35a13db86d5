"""Preparing CMU AN4 (Census): spelled and spoken names, numbers and dates, 16 kHz.

Data directories, dictionary and language model are those of Kaldi's recipe egs/an4/s5.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from mariana_asr.corpus.audio import open_audio_info, read_audio
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.corpus.prepare.arpa import restrict_arpa
from mariana_asr.corpus.prepare.dict_dir import SILENCE_PHONE, write_dict_dir
from mariana_asr.corpus.prepare.download import PublicCorpus, find_corpus
from mariana_asr.corpus.subset import hold_out_speakers
from mariana_asr.errors import DataError, FormatError
from mariana_asr.files import write_text
from mariana_asr.options import Options
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

SETS = {"train": "an4_clstk", "test": "an4test_clstk"}
"""Set names and the corpus's folders of recordings for them."""

_SUFFIXES = (".flac", ".wav", ".sph")
_TEXTS_SHA256 = "9a62b3529095a61798119882a894d4495e447cadf507be5f861d2d63e6a9d792"
_RECORDINGS_SHA256 = "f941fee084627ae4deafea09f4969128d878e1041b9360308832afc2ad7183d5"


class An4Options(Options):
    """Where AN4 is."""

    preparer: Literal["an4"] = "an4"
    """Which corpus to prepare."""
    corpus_dir: Path | None = None
    """Folder with AN4's etc/ and wav/; by default it is looked for, then downloaded."""
    dev_speakers: float | list[str] = 0.1
    """Training speakers to hold out as ``dev``, by name or as a fraction chosen by ``seed``."""
    seed: int = 0
    """Chooses the held-out speakers where ``dev_speakers`` is a fraction."""


def prepare(options: An4Options, out: Path) -> None:
    """Write the data directories ``train``, ``dev`` and ``test``, and ``dict`` with ``lm.arpa``.

    Utterance ids are Kaldi's, with the speaker in front: ``fash-an251-b`` for the recording
    ``an4_clstk/fash/an251-fash-b``. The corpus defines no development set: some of its
    training speakers are held out for one. An utterance without a readable 16 kHz recording is
    left out and listed in ``skipped.txt`` of its set.

    Raises:
        DataError: The corpus is nowhere and cannot be fetched, or its texts are missing.
        FormatError: A transcript, dictionary or language model line cannot be read.
        StageError: A set has no usable recording.
    """
    root = find_corpus(AN4, options.corpus_dir)
    train, dev = hold_out_speakers(
        _read_set(root, "train", out / "train"), options.dev_speakers, options.seed
    )
    for data in (train, replace(dev, path=out / "dev"), _read_set(root, "test", out / "test")):
        data.write()
    lexicon = _read_dictionary(root)
    phones = _read(root, "etc/an4.phone").split()
    write_dict_dir(out / "dict", lexicon, [phone for phone in phones if phone != SILENCE_PHONE])
    language_model = restrict_arpa(
        _read(root, "etc/an4.ug.lm"), {word for word, _ in lexicon}, root / "etc/an4.ug.lm"
    )
    write_text(out / "dict" / "lm.arpa", language_model)


def _read_set(root: Path, name: str, path: Path) -> DataDir:
    skipped = Skipped(f"preparing the {name} set of AN4")
    data = DataDir(path=path, utt2spk={})
    for recording, words in _transcripts(root, name):
        beginning, speaker, end = recording.split("-")
        utterance = f"{speaker}-{beginning}-{end}"
        try:
            file = _find_recording(root, name, recording)
            rate, _, channels = open_audio_info(file)
            if (rate, channels) != (16000, 1):
                raise DataError(f"{rate} Hz and {channels} channels, not 16000 Hz mono", where=file)
        except DataError as error:
            skipped.add(utterance, str(error))
            continue
        data.utt2spk[utterance] = speaker
        data.text[utterance] = words
        data.wav[utterance] = str(file)
    skipped.finish(path / "skipped.txt", len(data.utt2spk))
    return data


def _transcripts(root: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield the names of a set's recordings and their words.

    The archive with SPHERE files marks some transcripts with ``<s>`` and ``</s>``, others not.
    """
    source = f"etc/an4_{name}.transcription"
    for number, line in enumerate(_read(root, source).splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(?:<s> )?(.*?)(?: </s>)? \((\w+-\w+-\w+)\)", line.strip())
        if match is None:
            raise FormatError(
                f"{line!r} is not of the form 'WORDS (name-speaker-b)'",
                where=f"{root / source}:{number}",
            )
        yield match[2], " ".join(match[1].split())


def _find_recording(root: Path, name: str, recording: str) -> Path:
    stem = root / "wav" / SETS[name] / recording.split("-")[1] / recording
    for suffix in _SUFFIXES:
        file = stem.with_name(stem.name + suffix)
        if file.is_file():
            return file
    raise DataError(f"no recording ({', '.join(_SUFFIXES)})", where=stem)


def _read_dictionary(root: Path) -> list[tuple[str, list[str]]]:
    """Read words and phones; further pronunciations are marked ``WORD(2)``."""
    lexicon = []
    for number, line in enumerate(_read(root, "etc/an4.dic").splitlines(), 1):
        fields = line.split()
        if len(fields) == 1:
            raise FormatError(f"{line!r} has no phones", where=f"{root / 'etc/an4.dic'}:{number}")
        if fields:
            lexicon.append((re.sub(r"\(\d+\)$", "", fields[0]), fields[1:]))
    return lexicon


def _read(root: Path, name: str) -> str:
    try:
        return (root / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            "no such file, so this is not AN4", where=root / name, remedy="Correct corpus_dir"
        ) from error
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", where=root / name) from error


def texts_digest(root: Path) -> str:
    """SHA-256 of AN4's transcripts and dictionary, whatever their spacing and sentence marks."""
    lines = [
        *(f"{recording} {words}" for name in SETS for recording, words in _transcripts(root, name)),
        *(f"{word} {' '.join(phones)}" for word, phones in _read_dictionary(root)),
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def recordings_digest(root: Path) -> str:
    """SHA-256 of the samples of all recordings in the order of their names, in any file format.

    Raises:
        DataError: A recording is missing or cannot be read.
    """
    digest = hashlib.sha256()
    names = [(recording, name) for name in SETS for recording, _ in _transcripts(root, name)]
    for recording, name in sorted(names):
        samples, rate = read_audio(str(_find_recording(root, name, recording)))
        digest.update(f"{recording} {rate} ".encode())
        digest.update(samples.astype(np.dtype("<i2")).tobytes())
    return digest.hexdigest()


def check_content(root: Path) -> None:
    """Check a downloaded AN4.

    CMU publishes no checksum of its archive, and the archive's mirrors need not be the same
    bytes. So what it holds is checked: texts must be the known ones, and every recording must
    be there and readable. Samples that differ from the known ones (from a distribution of the
    corpus as FLAC) draw a warning only, as no SPHERE copy could be compared when this was
    written.

    Raises:
        DataError: The content is not AN4's.
    """
    try:
        texts = texts_digest(root)
    except FormatError as error:
        raise DataError(f"{error.where}: {error.what}", where=root) from error
    if texts != _TEXTS_SHA256:
        raise DataError(
            f"SHA-256 of the transcripts and dictionary is {texts}, not {_TEXTS_SHA256}",
            where=root,
        )
    if recordings_digest(root) != _RECORDINGS_SHA256:
        logger.warning(
            "%s: the samples differ from those that the recipe's results were measured with", root
        )


AN4 = PublicCorpus(
    name="an4",
    urls=(
        "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",
        # Mirrors that NeMo and ESPnet keep, since CMU's server is often out of reach.
        "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",
        "https://huggingface.co/datasets/espnet/an4/resolve/main/an4_sphere.tar.gz",
    ),
    folder="an4",
    check=check_content,
)
"""AN4's public home."""
