"""Reading recordings: files that libsndfile knows, and commands whose output is a recording.

Samples are on the scale of 16-bit integers, as everything in Kaldi is.
"""

import io
import logging
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from mariana_asr.corpus.audio_container import check_container, check_opened, cut_short
from mariana_asr.corpus.datadir import DataDir, Segment
from mariana_asr.corpus.speed import AS_RECORDED, change_speed
from mariana_asr.errors import DataError

logger = logging.getLogger(__name__)

Samples = NDArray[np.float32]

MAX_OVERSHOOT = 0.5
"""Seconds that a segment may reach over its recording's end (extract-segments --max-overshoot)."""
MIN_SEGMENT_LENGTH = 0.1
"""Shortest segment in seconds (extract-segments --min-segment-length)."""

_SCALE = 32768.0
_LOUDEST_FLOAT = 16.0
"""Floating-point audio is within about 1; a larger peak than this is not on that scale."""


def is_command(location: str) -> bool:
    """Whether an entry of ``wav.scp`` is a shell command: it ends in ``|``."""
    return location.rstrip().endswith("|")


def read_audio(location: str | Path, *, allow_pipes: bool = False) -> tuple[Samples, int]:
    """Read one recording of a single channel.

    Args:
        location: A file, or a shell command that ends in ``|`` and writes one to its output.
        allow_pipes: Whether commands may be run.

    Returns:
        Samples of shape (number of samples,) on the scale of 16-bit integers (floating-point
        files, whose range is -1 to 1, are scaled by 32768), and the sample rate in Hz.

    Raises:
        DataError: The file is missing, empty, cut short, damaged, of another kind, has several
            channels, no samples or NaN; or the command failed or may not be run.
    """
    with _opened(str(location), allow_pipes) as audio:
        _require_one_channel(audio, location)
        samples = _decode(audio, location)
        rate = int(audio.samplerate)
        is_float = audio.subtype in ("FLOAT", "DOUBLE")
    if is_float:
        _check_float(samples, location)
    samples *= _SCALE
    return samples, rate


def open_audio_info(location: str | Path, *, allow_pipes: bool = False) -> tuple[int, int, int]:
    """Read a recording's header.

    Damage within a FLAC or OGG file shows only when it is read whole.

    Returns:
        Sample rate in Hz, number of samples a channel, number of channels.

    Raises:
        DataError: As ``read_audio`` raises for what the header shows.
    """
    with _opened(str(location), allow_pipes) as audio:
        return int(audio.samplerate), int(audio.frames), int(audio.channels)


def read_utterance(
    data: DataDir, utterance: str, *, allow_pipes: bool = False
) -> tuple[Samples, int]:
    """Read the samples of one utterance: a recording, or its segment of one, at its speed.

    To read many segments, use ``iterate_audio``, which reads each recording once.

    Returns:
        As ``read_audio``.

    Raises:
        DataError: The utterance has no audio, ``read_audio`` fails, or the segment does not fit.
    """
    recording = recording_of(data, utterance)
    samples, rate = _read_recording(data, recording, allow_pipes)
    if data.segments is not None:
        where = f"{data.path / 'segments'}: {utterance}"
        samples = cut_segment(samples, rate, data.segments[utterance], where=where)
    return change_speed(samples, data.speeds.get(utterance, AS_RECORDED)), rate


def iterate_audio(
    data: DataDir,
    utterances: Iterable[str] | None = None,
    *,
    allow_pipes: bool = False,
    on_error: Callable[[str, DataError], None] | None = None,
) -> Iterator[tuple[str, Samples, int]]:
    """Read utterances at their speeds, each recording once for all of its segments.

    Args:
        data: The data directory.
        utterances: Which ones, all by default. They come in the order of their recordings.
        allow_pipes: Whether commands in ``wav.scp`` may be run.
        on_error: Called with the utterance and the error when one cannot be read; the others
            go on. Without it the error is raised.

    Yields:
        Utterance, samples and rate as ``read_audio`` returns them.

    Raises:
        DataError: An utterance cannot be read and there is no ``on_error``.
    """

    def failed(utterance: str, error: DataError) -> None:
        if on_error is None:
            raise error
        on_error(utterance, error)

    by_recording: dict[str, list[str]] = {}
    for utterance in data.utterances if utterances is None else utterances:
        try:
            by_recording.setdefault(recording_of(data, utterance), []).append(utterance)
        except DataError as error:
            failed(utterance, error)
    for recording, members in by_recording.items():
        try:
            whole, rate = _read_recording(data, recording, allow_pipes)
        except DataError as error:
            for utterance in members:
                failed(utterance, error)
            continue
        for utterance in members:
            samples = whole
            if data.segments is not None:
                where = f"{data.path / 'segments'}: {utterance}"
                try:
                    samples = cut_segment(whole, rate, data.segments[utterance], where=where)
                except DataError as error:
                    failed(utterance, error)
                    continue
            yield utterance, change_speed(samples, data.speeds.get(utterance, AS_RECORDED)), rate


def recording_of(data: DataDir, utterance: str) -> str:
    """Name the recording that holds an utterance.

    Raises:
        DataError: The utterance has no segment, or ``wav.scp`` lacks the recording.
    """
    recording = utterance
    if data.segments is not None:
        if utterance not in data.segments:
            raise DataError(f"no segment for utterance {utterance!r}", where=data.path / "segments")
        recording = data.segments[utterance].recording
    if recording not in data.wav:
        raise DataError(f"no line for recording {recording!r}", where=data.path / "wav.scp")
    return recording


def cut_segment(samples: Samples, rate: int, segment: Segment, *, where: str) -> Samples:
    """Cut a segment out of its recording as Kaldi's extract-segments does.

    An end of -1 is the recording's end; an end up to ``MAX_OVERSHOOT`` seconds behind it is
    taken for it. Times are rounded to the nearest sample.

    Returns:
        A view of ``samples``.

    Raises:
        DataError: The segment is empty, out of the recording or shorter than
            ``MIN_SEGMENT_LENGTH``.
    """
    problem = segment_problem(segment, len(samples) / rate)
    if problem:
        raise DataError(problem, where=where, remedy="Correct its times in segments")
    start = int(segment.start * rate + 0.5)
    end = len(samples) if segment.end == -1 else int(segment.end * rate + 0.5)
    return samples[start : min(end, len(samples))]


def segment_problem(segment: Segment, duration: float) -> str | None:
    """Say why a segment does not fit a recording of ``duration`` seconds; None if it does."""
    start, end = segment.start, segment.end
    if start < 0 or (end != -1 and end <= start):
        return f"segment from {start:g} s to {end:g} s is empty"
    if start > duration or end > duration + MAX_OVERSHOOT:
        return (
            f"segment from {start:g} s to {end:g} s reaches over the end of recording "
            f"{segment.recording!r}, which has {duration:.3f} s"
        )
    length = (duration if end == -1 else min(end, duration)) - start
    # Kaldi compares in floating point too; a tolerance spares a segment of exactly 0.1 s.
    if length < MIN_SEGMENT_LENGTH - 1e-6:
        return (
            f"segment from {start:g} s to {end:g} s has {length:.3f} s of audio, "
            f"less than {MIN_SEGMENT_LENGTH} s"
        )
    return None


def _read_recording(data: DataDir, recording: str, allow_pipes: bool) -> tuple[Samples, int]:
    try:
        return read_audio(data.wav[recording], allow_pipes=allow_pipes)
    except DataError as error:
        where = f"{data.path / 'wav.scp'}: {recording}"
        raise DataError(f"{error.where}: {error.what}", where=where, remedy=error.remedy) from error


@contextmanager
def _opened(location: str, allow_pipes: bool) -> Iterator[soundfile.SoundFile]:
    """Open a recording whose container is whole."""
    stream: BinaryIO
    if is_command(location):
        stream = io.BytesIO(_run(location, allow_pipes))
    else:
        stream = _open_file(location)
    with stream:
        whole = check_container(stream, location)
        try:
            # By its name where there is one: seeking through Python objects is slower and noisier.
            audio = soundfile.SoundFile(whole if isinstance(whole, io.BytesIO) else location)
        except (soundfile.LibsndfileError, TypeError) as error:
            raise DataError(
                f"not an audio file that libsndfile can read ({_reason(error)})",
                where=location,
                remedy="WAV, FLAC, OGG and NIST SPHERE (not shortened) are supported; convert it",
            ) from error
        with audio:
            check_opened(audio, whole, location)
            yield audio


def _open_file(location: str) -> BinaryIO:
    path = Path(location)
    try:
        if path.is_dir():
            raise DataError("is a folder, not a recording", where=location)
        stream = path.open("rb")
    except FileNotFoundError as error:
        remedy = None
        if location.startswith("~"):
            remedy = "Write the home folder out: ~ is not expanded"
        elif not path.is_absolute():
            remedy = f"Relative names are taken from the current folder, {Path.cwd()}"
        raise DataError("no such audio file", where=location, remedy=remedy) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot open: {error}", where=location) from error
    if not os.fstat(stream.fileno()).st_size:
        stream.close()
        raise DataError("empty audio file", where=location)
    return stream


def _run(command: str, allow_pipes: bool) -> bytes:
    if not allow_pipes:
        raise DataError(
            "a command, and commands are not run by default",
            where=command,
            remedy="Pass --allow-pipes if you trust the directory: they run in a shell",
        )
    shell_command = command.rstrip().removesuffix("|")
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", shell_command], stdin=subprocess.DEVNULL, capture_output=True
        )
    except (OSError, ValueError) as error:
        raise DataError(f"cannot run the command: {error}", where=command) from error
    if done.returncode:
        errors = " | ".join(done.stderr.decode("utf-8", "replace").splitlines()[-3:])
        raise DataError(
            f"the command failed with status {done.returncode}: {errors[-300:] or 'no message'}",
            where=command,
            remedy="Run it in a shell to see why",
        )
    if not done.stdout:
        raise DataError("the command wrote nothing", where=command)
    return done.stdout


def _require_one_channel(audio: soundfile.SoundFile, location: str | Path) -> None:
    if audio.channels != 1:
        raise DataError(
            f"{audio.channels} channels, expected one",
            where=location,
            remedy="Write each channel to a recording of its own, or mix them down "
            "(sox IN OUT remix -)",
        )


def _decode(audio: soundfile.SoundFile, location: str | Path) -> Samples:
    try:
        samples: Samples = audio.read(dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError, MemoryError) as error:
        raise DataError(
            f"cut short or damaged ({_reason(error)})",
            where=location,
            remedy="Fetch the file again",
        ) from error
    if len(samples) < audio.frames:
        raise cut_short(
            location, f"its header promises {audio.frames} samples, {len(samples)} are there"
        )
    return samples


def _check_float(samples: Samples, location: str | Path) -> None:
    if not np.isfinite(samples).all():
        first = int(np.argmin(np.isfinite(samples)))
        raise DataError(f"NaN or infinite samples, the first at {first}", where=location)
    peak = float(np.abs(samples).max())
    if peak > _LOUDEST_FLOAT:
        raise DataError(
            f"floating-point samples reach {peak:g}, expected -1 to 1",
            where=location,
            remedy="Divide them by 32768 if they are on the scale of 16-bit integers",
        )


def _reason(error: Exception) -> str:
    """Keep libsndfile's words without the name that it gives to the file."""
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
