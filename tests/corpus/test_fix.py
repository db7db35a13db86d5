import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.corpus.fix import fix_data_dir
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError

SPEAKERS = ("ann", "bob", "cid")


def write_directory(folder: Path, *, with_segments: bool) -> None:
    """A right directory of three speakers with three utterances each, every known file in it."""
    folder.mkdir(parents=True)
    utterances = [f"{speaker}-{number}" for speaker in SPEAKERS for number in range(3)]
    audio = folder.parent / "audio"
    audio.mkdir(exist_ok=True)
    archive = folder.parent / "data.ark"
    archive.write_bytes(b"x")

    def write(name: str, lines: list[str]) -> None:
        (folder / name).write_text("".join(line + "\n" for line in sorted(lines)))

    recordings = list(SPEAKERS) if with_segments else utterances
    for recording in recordings:
        if not (audio / f"{recording}.wav").exists():
            soundfile.write(audio / f"{recording}.wav", np.zeros(80, np.int16), 8000)
    if with_segments:
        write("segments", [f"{u} {u[:3]} {u[-1]}.0 {u[-1]}.75" for u in utterances])
        write("reco2dur", [f"{r} 3" for r in recordings])
    else:
        write("utt2dur", [f"{u} 1.25" for u in utterances])
    write("wav.scp", [f"{r} {audio}/{r}.wav" for r in recordings])
    write("text", [f"{u} one two" for u in utterances])
    write("utt2spk", [f"{u} {u[:3]}" for u in utterances])
    write("spk2utt", [" ".join([s, *(u for u in utterances if u[:3] == s)]) for s in SPEAKERS])
    write("feats.scp", [f"{u} {archive}:7" for u in utterances])
    write("utt2num_frames", [f"{u} 98" for u in utterances])
    write("cmvn.scp", [f"{s} {archive}:9" for s in SPEAKERS])
    write("spk2gender", [f"{s} m" for s in SPEAKERS])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture(params=[False, True], ids=["recordings", "segments"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_directory(folder, with_segments=request.param)
    return folder


def test_a_right_directory_has_no_problems_and_is_left_as_it_is(directory: Path) -> None:
    assert validate_data_dir(directory, need_feats=True) == []
    before = contents(directory)
    report = fix_data_dir(directory)
    assert (report.kept, report.total) == (9, 9)
    assert report.changes == []
    assert report.remaining == []
    assert contents(directory) == before
    assert not (directory / ".backup").exists()
