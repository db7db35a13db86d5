"""Whether an audio file is whole: what its container promises against what is there."""

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

import soundfile

from mariana_asr.errors import DataError

_STREAM_LENGTH = 0x7FFFF000
"""From this value on, a WAV length field says "unknown" (SoX writes this one to a pipe)."""
_LARGEST_FRAME_COUNT = 1 << 48
"""libsndfile reports an enormous number of frames where a header does not tell it."""


def check_container(stream: BinaryIO, location: str) -> BinaryIO:
    """Compare the lengths that a header promises with what is there.

    libsndfile silently shortens WAV, SPHERE and OGG files that were cut, and takes a WAV file
    whose length field is 0, as programs write it to a pipe, for an empty one.

    Returns:
        The stream, or a copy in memory with the length filled in; at its start.

    Raises:
        DataError: The file was cut, or is SPHERE compressed with shorten.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    magic = stream.read(4)
    if magic in (b"RIFF", b"RIFX"):
        stream = _check_wav(stream, size, location)
    elif magic == b"NIST":
        _check_sphere(stream, location)
    elif magic == b"OggS":
        _check_ogg(stream, size, location)
    stream.seek(0)
    return stream


def _check_wav(stream: BinaryIO, size: int, location: str) -> BinaryIO:
    stream.seek(0)
    order = "<" if stream.read(4) == b"RIFF" else ">"
    riff = stream.read(8)
    position = 12
    while True:
        stream.seek(position)
        header = stream.read(8)
        if len(header) < 8:
            raise cut_short(location, "it ends before its samples begin")
        length = struct.unpack(order + "I", header[4:])[0]
        position += 8
        if header[:4] == b"data":
            break
        position += length + length % 2
    present = size - position
    riff_length = struct.unpack(order + "I", riff[:4])[0]
    # An empty recording that other chunks follow also has a length of 0, but its RIFF length fits.
    unknown = length >= _STREAM_LENGTH or (not length and abs(riff_length + 8 - size) > 1)
    if present >= length and not (unknown and not length):
        return stream
    if not unknown:
        raise cut_short(
            location, f"its header promises {length} bytes of samples, {present} are there"
        )
    if not present:
        return stream
    stream.seek(0)
    content = bytearray(stream.read())
    content[4:8] = struct.pack(order + "I", size - 8)
    content[position - 4 : position] = struct.pack(order + "I", present)
    return io.BytesIO(bytes(content))


def _check_sphere(stream: BinaryIO, location: str) -> None:
    stream.seek(0)
    header = stream.read(1024)
    if b"shorten" in header:
        raise DataError(
            "SPHERE file compressed with shorten, which libsndfile cannot read",
            where=location,
            remedy="Convert it with sph2pipe, or name 'sph2pipe -f wav FILE |' in wav.scp "
            "and pass --allow-pipes",
        )


def _check_ogg(stream: BinaryIO, size: int, location: str) -> None:
    """The last page must be whole and marked as the end of its stream (RFC 3533, section 6)."""
    stream.seek(max(0, size - 131072))  # a page has at most 65,307 bytes
    tail = stream.read()
    start = tail.rfind(b"OggS")
    page = tail[start:]
    segments = page[26] if start >= 0 and len(page) > 26 else 0
    length = 27 + segments + sum(page[27 : 27 + segments])
    if start < 0 or len(page) < length or not page[5] & 4:
        raise cut_short(location, "its last page is not marked as the end")


def check_opened(audio: soundfile.SoundFile, stream: BinaryIO, location: str) -> None:
    """Compare what libsndfile found in a file with what the file's header promises.

    Raises:
        DataError: There are no samples, fewer than promised, or their number is unknown.
    """
    frames = int(audio.frames)
    if frames > _LARGEST_FRAME_COUNT:
        raise DataError(
            "its header does not tell its length",
            where=location,
            remedy="It was written to a pipe; write it to a file, or convert it to WAV",
        )
    if audio.format == "NIST":
        promised = _sphere_sample_count(stream)
        if promised is not None and frames < promised:
            raise cut_short(location, f"its header promises {promised} samples, {frames} are there")
    elif audio.format not in ("WAV", "WAVEX", "FLAC", "OGG") and "(should be" in audio.extra_info:
        raise cut_short(location, "its header promises more samples than there are")
    if not frames:
        raise DataError("no samples in it", where=location)


def _sphere_sample_count(stream: BinaryIO) -> int | None:
    position = stream.tell()
    stream.seek(0)
    header = stream.read(1024)
    stream.seek(position)
    for line in header.split(b"\n"):
        fields = line.split()
        if len(fields) == 3 and fields[0] == b"sample_count" and fields[2].isdigit():
            return int(fields[2])
    return None


def cut_short(location: str | Path, why: str) -> DataError:
    """Make the error for a file of which a part is missing."""
    return DataError(f"cut short: {why}", where=location, remedy="Fetch the file again")
