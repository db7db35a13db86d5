"""Preparing THCHS-30: Mandarin sentences from newspapers, read aloud, 16 kHz."""

import re
from pathlib import Path
from typing import Literal

from mariana_asr.corpus.prepare.download import PublicCorpus, find_corpus
from mariana_asr.corpus.prepare.mandarin import Recording, prepare_mandarin
from mariana_asr.corpus.prepare.mandarin_words import MandarinOptions
from mariana_asr.errors import DataError, FormatError

SETS = {"train": 10000, "dev": 893, "test": 2495}
"""The corpus's sets, which are folders, and their numbers of utterances."""


class Thchs30Options(MandarinOptions):
    """Where THCHS-30 is, and what its words are."""

    preparer: Literal["thchs30"] = "thchs30"
    """Which corpus to prepare."""
    corpus_dir: Path | None = None
    """The corpus's folder data_thchs30; by default it is looked for, then downloaded."""


def prepare(options: Thchs30Options, out: Path) -> None:
    """Write the data directories ``train``, ``dev`` and ``test``, and ``dict``.

    Utterance ids are those of Kaldi's egs/thchs30: ``A02_003`` for the recording ``A2_3.wav`` of
    the speaker ``A02``. An utterance without a transcript or a readable 16 kHz recording is left
    out and listed in ``skipped.txt`` of its set; words that the lexicon lacks are listed in
    ``unknown_words.txt``.

    Raises:
        DataError: The corpus is nowhere and cannot be fetched, or is not as it should be.
        FormatError: A transcript or the name of a recording cannot be read.
        MissingPackageError: jieba or pypinyin is not installed.
        StageError: A set has no usable recording.
    """
    root = find_corpus(THCHS30, options.corpus_dir)
    if (root / "data_thchs30").is_dir():
        root = root / "data_thchs30"
    sets = {name: [_recording(file) for file in _files(root, name)] for name in SETS}
    if missing := [name for name, recordings in sets.items() if not recordings]:
        raise DataError(
            f"no recordings of {', '.join(missing)}, so this is not THCHS-30",
            where=root,
            remedy="Correct corpus_dir",
        )
    prepare_mandarin("THCHS-30", sets, options, out)


def _files(root: Path, name: str) -> list[Path]:
    return sorted((root / name).glob("*.wav"))


def _recording(file: Path) -> Recording:
    match = re.fullmatch(r"([A-D])(\d+)_(\d+)", file.stem)
    if match is None:
        raise FormatError("not named like A11_0.wav", where=file)
    speaker = f"{match[1]}{int(match[2]):02d}"
    return Recording(f"{speaker}_{int(match[3]):03d}", speaker, file, _transcript(file))


def _transcript(file: Path) -> str | None:
    """Read the words of a recording, None if there are none.

    The first line has words, the second their pinyin, the third their phones. Below ``data`` the
    files are as they are meant; in the sets they are links to those or, where links were not
    kept, files that hold the path.
    """
    path = file.with_name(file.name + ".trn")
    lines = _lines(path)
    if len(lines) == 1 and lines[0].endswith(".trn"):
        lines = _lines(path.parent / lines[0])
    # Some lines begin with "l=", which nobody says.
    return re.sub(r"^l\s*=", "", lines[0]) if lines else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", where=path) from error


def check_content(root: Path) -> None:
    """Check that a download has as many recordings of each set as were published.

    Raises:
        DataError: It has not.
    """
    for name, expected in SETS.items():
        if (found := len(_files(root, name))) != expected:
            raise DataError(
                f"{found} recordings in the {name} set, not {expected}", where=root / name
            )


THCHS30 = PublicCorpus(
    name="thchs30",
    urls=(
        "https://www.openslr.org/resources/18/data_thchs30.tgz",
        "https://us.openslr.org/resources/18/data_thchs30.tgz",
        "https://openslr.elda.org/resources/18/data_thchs30.tgz",
    ),
    folder="data_thchs30",
    check=check_content,
)
"""THCHS-30's public home, OpenSLR 18, and its mirrors; 6 GB."""
