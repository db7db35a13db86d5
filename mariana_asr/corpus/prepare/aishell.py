"""Preparing AISHELL-1: Mandarin read by 400 speakers, 16 kHz; the whole corpus or a part of it."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from mariana_asr.corpus.prepare.download import PublicCorpus, extract_tar, find_corpus
from mariana_asr.corpus.prepare.mandarin import Recording, prepare_mandarin
from mariana_asr.corpus.prepare.mandarin_words import MandarinOptions
from mariana_asr.errors import DataError, FormatError, counted, summarise

logger = logging.getLogger(__name__)

SETS = {"train": 340, "dev": 40, "test": 20}
"""The corpus's sets, which are folders of wav/, and their numbers of speakers."""

TEST_NUMBERS = range(401, 451)
"""Numbers of the utterances that are the test set of a part without folders of sets."""

_TRANSCRIPT = Path("transcript", "aishell_transcript_v0.8.txt")
_SUFFIXES = (".wav", ".flac")


class AishellOptions(MandarinOptions):
    """Where AISHELL-1 is, and what its words are."""

    preparer: Literal["aishell"] = "aishell"
    """Which corpus to prepare."""
    corpus_dir: Path | None = None
    """Folder with the corpus as published (data_aishell), or with a part of it: transcript.txt and
    recordings below wav/SPEAKER/. By default it is looked for, then downloaded."""
    dev_utterances: int = Field(default=20, ge=1)
    """In a part: how many of the last training utterances of each speaker are the development
    set. The whole corpus has one of other speakers."""


def prepare(options: AishellOptions, out: Path) -> None:
    """Write the data directories ``train``, ``dev`` and ``test``, and ``dict``.

    The whole corpus has folders for its sets. In a part without them, utterances W0401 to W0450
    of each speaker are the test set and those right before them the development set, so that
    all three have the same speakers. An utterance without a transcript or a readable 16 kHz
    recording is left out and listed in ``skipped.txt`` of its set; words that the lexicon lacks
    are listed in ``unknown_words.txt``.

    Raises:
        DataError: The corpus is nowhere and cannot be fetched, or is in neither of the two forms.
        FormatError: A transcript or the name of a recording cannot be read.
        MissingPackageError: jieba or pypinyin is not installed.
        StageError: A set has no usable recording.
    """
    root = find_corpus(AISHELL, options.corpus_dir)
    if (root / "data_aishell").is_dir():
        root = root / "data_aishell"
    if (root / _TRANSCRIPT).is_file():
        transcripts, files = _read_transcripts(root / _TRANSCRIPT), _files_of_sets(root)
    elif (root / "transcript.txt").is_file():
        transcripts = _read_transcripts(root / "transcript.txt")
        files = _files_by_number(root, options.dev_utterances)
    else:
        raise DataError(
            f"neither {_TRANSCRIPT} nor transcript.txt, so this is not AISHELL-1",
            where=root,
            remedy="Correct corpus_dir",
        )
    recorded = {file.stem for paths in files.values() for file in paths}
    if silent := sorted(transcripts.keys() - recorded):
        logger.warning(
            "%s of %d without a recording: %s",
            counted(len(silent), "transcript"),
            len(transcripts),
            summarise(silent),
        )
    sets = {
        name: [
            Recording(file.stem, file.parent.name, file, transcripts.get(file.stem))
            for file in paths
        ]
        for name, paths in files.items()
    }
    prepare_mandarin("AISHELL-1", sets, options, out)


def _read_transcripts(path: Path) -> dict[str, str]:
    transcripts = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", where=path) from error
    for number, line in enumerate(lines, 1):
        utterance, _, text = line.strip().partition(" ")
        if utterance in transcripts:
            raise FormatError(f"{utterance} comes twice", where=f"{path}:{number}")
        if utterance:
            transcripts[utterance] = text
    return transcripts


def _files_of_sets(root: Path) -> dict[str, list[Path]]:
    """The recordings of each set, as the folders of the published corpus have them."""
    if archives := _archives(root):
        raise DataError(
            f"{counted(len(archives), 'archive')} of speakers not unpacked: "
            f"{summarise([path.name for path in archives])}",
            where=root / "wav",
            remedy="Unpack them there: for f in *.tar.gz; do tar -xzf $f && rm $f; done",
        )
    files = {name: sorted(_recordings(root / "wav" / name)) for name in SETS}
    if missing := [name for name, found in files.items() if not found]:
        raise DataError(f"no recordings of {', '.join(missing)}", where=root / "wav")
    return files


def _files_by_number(root: Path, dev_utterances: int) -> dict[str, list[Path]]:
    """Deal out the recordings of a part of the corpus by their numbers."""
    speakers: dict[str, dict[int, Path]] = {}
    for file in sorted(_recordings(root / "wav")):
        match = re.fullmatch(r"BAC009(S\d{4})W(\d{4})", file.stem)
        if match is None:
            raise FormatError("not named like BAC009S0002W0122", where=file)
        speakers.setdefault(match[1], {})[int(match[2])] = file
    if not speakers:
        raise DataError("no recordings below the speakers' folders", where=root / "wav")
    sets: dict[str, list[Path]] = {"train": [], "dev": [], "test": []}
    for speaker, numbered in speakers.items():
        test = [number for number in sorted(numbered) if number in TEST_NUMBERS]
        others = [number for number in sorted(numbered) if number not in TEST_NUMBERS]
        if len(others) <= dev_utterances:
            raise DataError(
                f"{speaker} has {len(others)} utterances outside of the test set, of which "
                f"{dev_utterances} are to be the dev set",
                where=root / "wav" / speaker,
                remedy="Lower dev_utterances",
            )
        sets["train"] += [numbered[number] for number in others[:-dev_utterances]]
        sets["dev"] += [numbered[number] for number in others[-dev_utterances:]]
        sets["test"] += [numbered[number] for number in test]
    return sets


def _recordings(folder: Path) -> Iterator[Path]:
    return (file for file in folder.glob("*/*") if file.suffix in _SUFFIXES)


def _archives(root: Path) -> list[Path]:
    return sorted((root / "wav").glob("*.tar.gz"))


def unpack_speakers(root: Path) -> None:
    """Unpack the archives, one a speaker, that the downloaded archive holds, and remove them.

    OpenSLR publishes no checksum that is known for certain; so besides every archive being
    whole, all 400 speakers must be there.

    Raises:
        DataError: An archive is damaged, or the speakers of a set are not as many as published.
    """
    for archive in _archives(root):
        extract_tar(archive, root / "wav")
        archive.unlink()
    for name, expected in SETS.items():
        found = len({file.parent for file in _recordings(root / "wav" / name)})
        if found != expected:
            raise DataError(
                f"recordings of {found} speakers in the {name} set, not {expected}", where=root
            )
    if not (root / _TRANSCRIPT).is_file():
        raise DataError("no such file", where=root / _TRANSCRIPT)


AISHELL = PublicCorpus(
    name="aishell",
    urls=(
        "https://www.openslr.org/resources/33/data_aishell.tgz",
        "https://us.openslr.org/resources/33/data_aishell.tgz",
        "https://openslr.elda.org/resources/33/data_aishell.tgz",
    ),
    folder="data_aishell",
    check=unpack_speakers,
)
"""AISHELL-1's public home, OpenSLR 33, and its mirrors; 15 GB."""
