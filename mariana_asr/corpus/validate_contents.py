"""Reading every recording and feature matrix of a data directory to see whether they are right."""

from collections import Counter
from functools import partial

import numpy as np

from mariana_asr.archives import read_matrix
from mariana_asr.corpus.audio import is_command, read_audio
from mariana_asr.corpus.problems import ProblemList
from mariana_asr.corpus.tables import RawTable, archive_file, archive_problem, file_problem
from mariana_asr.errors import DataError
from mariana_asr.parallel import parallel_map


def measure_recordings(
    wav: RawTable, problems: ProblemList, allow_pipes: bool, jobs: int
) -> dict[str, float]:
    """Read every recording; report the unreadable and those of another sample rate than most.

    Files that are missing or empty are passed over: they are reported without reading.

    Returns:
        Recording to its duration in seconds.
    """
    places = [
        place
        for place, value in enumerate(wav.values)
        if value and (allow_pipes if is_command(value) else file_problem(value) is None)
    ]
    locations = [wav.values[place] for place in places]
    durations: dict[str, float] = {}
    rates: dict[int, int] = {}
    results = parallel_map(partial(_measure, allow_pipes=allow_pipes), locations, jobs=jobs)
    for place, result in zip(places, results, strict=True):
        key = wav.keys[place]
        if isinstance(result, DataError):
            problems.add(
                wav.path,
                wav.lines[place],
                f"{key!r}: {result.where}: {result.what}",
                result.remedy or "Replace the file, or remove the recording",
                kind="recordings that cannot be read",
            )
        else:
            rates[place], count = result
            durations[key] = count / rates[place]
    if not rates:
        return durations
    counts = Counter(rates.values())
    usual = counts.most_common(1)[0][0]
    for place, rate in rates.items():
        if rate != usual:
            problems.add(
                wav.path,
                wav.lines[place],
                f"{wav.keys[place]!r}: sample rate {rate} Hz, but {counts[usual]} of "
                f"{len(rates)} recordings have {usual} Hz",
                "Resample it (sox IN -r RATE OUT) or use two directories",
                kind="recordings of another sample rate",
            )
    return durations


def _measure(location: str, *, allow_pipes: bool) -> tuple[int, int] | DataError:
    """Return a recording's rate and number of samples, or why it cannot be read."""
    try:
        samples, rate = read_audio(location, allow_pipes=allow_pipes)
    except DataError as error:
        return error
    return rate, len(samples)


def read_all_features(
    feats: RawTable, utt2num_frames: RawTable | None, problems: ProblemList
) -> None:
    """Read every feature matrix; report NaN, other dimensions than most, other frame counts."""
    frames: dict[str, str] = {}
    if utt2num_frames is not None:
        frames = dict(zip(utt2num_frames.keys, utt2num_frames.values, strict=True))
    dimensions: dict[int, int] = {}

    def add(place: int, message: str) -> None:
        problems.add(
            feats.path,
            feats.lines[place],
            f"{feats.keys[place]!r}: {message}",
            "Extract the features again",
            kind="wrong features",
        )

    for place, (key, value) in enumerate(zip(feats.keys, feats.values, strict=True)):
        if not value or archive_problem(archive_file(value)):
            continue
        try:
            matrix = read_matrix(value)
        except DataError as error:
            add(place, error.what)
            continue
        if not len(matrix):
            add(place, "no frames")
            continue
        dimensions[place] = matrix.shape[1]
        if not np.isfinite(matrix).all():
            frame = int(np.argmin(np.isfinite(matrix).all(axis=1)))
            add(place, f"NaN or infinite values, the first in frame {frame}")
        if key in frames and frames[key] != str(len(matrix)):
            add(place, f"{len(matrix)} frames, but utt2num_frames says {frames[key]}")
    counts = Counter(dimensions.values())
    usual = counts.most_common(1)[0][0] if counts else 0
    for place, dimension in dimensions.items():
        if dimension != usual:
            add(place, f"{dimension} columns, but {counts[usual]} others have {usual}")
