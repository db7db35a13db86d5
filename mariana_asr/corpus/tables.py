"""The tables of a data directory as they lie on disk, right or wrong, for validating and fixing.

``datadir.read_table`` refuses a wrong table; this reads what can be read of it and notes what is
odd. Bytes that are not UTF-8 are kept as lone surrogates, so that they can be written back.
"""

import math
import operator
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from mariana_asr.corpus.datadir import SPEED_FORM, parse_segment, parse_speed


class Key(StrEnum):
    """What the first column of a table names."""

    UTTERANCE = "utterance"
    RECORDING = "recording"
    SPEAKER = "speaker"


class Role(StrEnum):
    """What becomes of a table when it is fixed."""

    NEEDED = "needed"
    """Without a right line in it an utterance cannot be used, so the utterance is dropped."""
    DERIVED = "derived"
    """It can be computed again, so it is removed when it does not fit."""
    INFORMATION = "information"
    """Only the user can supply a line that lacks or is wrong."""


@dataclass(frozen=True)
class TableFormat:
    """One of the files of a data directory.

    Attributes:
        name: The file's name.
        key: What its first column names.
        role: What becomes of it when it is fixed.
        value_problem: Says what is wrong with the rest of a line; None if nothing is.
        is_location: Whether the rest of a line is a file name or command, kept as it is.
    """

    name: str
    key: Key
    role: Role
    value_problem: Callable[[str], str | None]
    is_location: bool = False


@dataclass(frozen=True)
class Oddity:
    """A way in which lines can be odd, whatever the table."""

    message: str
    remedy: str
    fixable: bool


NOT_UTF8 = Oddity("not UTF-8", "Convert the file, e.g. with iconv -f ENCODING -t UTF-8", False)
BYTE_ORDER_MARK = Oddity("byte order mark", "Save the file as UTF-8 without one", True)
CARRIAGE_RETURN = Oddity(
    "Windows line ending", "Convert the file, e.g. with sed -i 's/\\r$//'", True
)
WHITESPACE = Oddity(
    "whitespace that is neither space nor tab", "Write a space, as Kaldi splits at no other", True
)
NOT_PRINTABLE = Oddity("character that cannot be printed", "Remove the character", False)
LEADING_SPACE = Oddity("space before the id", "Remove it", True)
EMPTY_LINE = Oddity("empty line", "Remove it", True)
NO_FINAL_NEWLINE = Oddity("last line does not end in a newline", "Add one", True)


@dataclass(frozen=True)
class RawTable:
    """A table as read: parallel lists of line numbers, keys and values, empty lines left out."""

    path: Path
    format: TableFormat
    lines: list[int]
    keys: list[str]
    values: list[str]
    is_utf8: bool = True
    oddities: dict[Oddity, list[int]] = field(default_factory=dict)
    """Oddity to the lines that have it."""

    def sort_keys(self) -> list[str] | list[bytes]:
        """Keys that compare as their bytes do, which is the C locale's order."""
        # UTF-8 sorts as its code points do; only escaped bytes would be out of place.
        return self.keys if self.is_utf8 else [to_bytes(key) for key in self.keys]

    def is_sorted_and_unique(self) -> bool:
        """Whether the keys strictly increase in the C locale's order."""
        keys = self.sort_keys()
        return all(map(operator.lt, keys, keys[1:]))


def to_bytes(text: str) -> bytes:
    """Give back the bytes that ``read_raw_table`` decoded."""
    return text.encode("utf-8", "surrogateescape")


def c_sorted(ids: Iterable[str]) -> list[str]:
    """Sort ids by their bytes, as Kaldi's programs expect (the C locale's order)."""
    return sorted(ids, key=to_bytes)


def read_raw_table(path: Path, table_format: TableFormat) -> RawTable:
    """Read whatever can be read of a table.

    Raises:
        OSError: The file cannot be read at all.
    """
    content = path.read_bytes()
    oddities: dict[Oddity, list[int]] = {}
    is_utf8 = True
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        is_utf8 = False
        text = content.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    elif lines:
        oddities[NO_FINAL_NEWLINE] = [len(lines)]
    if "\ufeff" in text:  # within a file too, where files with such a mark were joined
        mark = re.compile("[\\s\ufeff]*\ufeff")
        marked = [number for number, line in enumerate(lines, 1) if mark.match(line)]
        if marked:
            oddities[BYTE_ORDER_MARK] = marked
            lines = [mark.sub("", line, count=1) if mark.match(line) else line for line in lines]
    # Removing them first keeps them from counting as odd whitespace at the ends of lines.
    if "\r" in text:
        returns = [number for number, line in enumerate(lines, 1) if line.endswith("\r")]
        if returns:
            oddities[CARRIAGE_RETURN] = returns
            lines = [line.rstrip("\r") for line in lines]
    _note_characters(lines, set(text), table_format, oddities)

    numbers: list[int] = []
    keys: list[str] = []
    values: list[str] = []
    for number, line in enumerate(lines, 1):
        fields = line.split(maxsplit=1)
        if not fields:
            oddities.setdefault(EMPTY_LINE, []).append(number)
            continue
        if line[0].isspace():
            oddities.setdefault(LEADING_SPACE, []).append(number)
        numbers.append(number)
        keys.append(fields[0])
        values.append(fields[1].rstrip() if len(fields) == 2 else "")
    return RawTable(path, table_format, numbers, keys, values, is_utf8, oddities)


def file_problem(location: str) -> str | None:
    """Say why a recording's file cannot be one, without opening it; None if nothing is wrong."""
    if location.startswith("~"):
        return f"{location}: ~ is not expanded"
    try:
        status = os.stat(location)
    except FileNotFoundError:
        return f"no such file: {location}"
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        return f"cannot look up {location!r}: {error}"
    if stat.S_ISDIR(status.st_mode):
        return f"is a folder: {location}"
    # Devices and named pipes have no size.
    is_empty = stat.S_ISREG(status.st_mode) and not status.st_size
    return f"empty file: {location}" if is_empty else None


def archive_file(location: str) -> str:
    """Name the file of an entry like ``feats.ark:1234[0:9]``, as ``feats.scp`` holds them."""
    return re.sub(r"(:\d+)?(\[[^\]]*\])?$", "", location)


def archive_problem(file: str) -> str | None:
    """Say why an archive's file cannot be one, without opening it; None if nothing is wrong."""
    if "|" in file or file.strip() == "-":
        return f"{file}: commands are supported in wav.scp only"
    return file_problem(file)


def _note_characters(
    lines: list[str],
    characters: set[str],
    table_format: TableFormat,
    oddities: dict[Oddity, list[int]],
) -> None:
    """Find the lines that hold odd characters, if ``characters``, all that occur, has any."""
    odd: dict[Oddity, str] = {NOT_UTF8: "", WHITESPACE: "", NOT_PRINTABLE: ""}
    for character in characters - set(" \t\n"):
        if "\udc80" <= character <= "\udcff":
            odd[NOT_UTF8] += character
        elif character.isspace():
            # A file's name may hold such a space, and Kaldi keeps it.
            odd[WHITESPACE] += "" if table_format.is_location else character
        elif unicodedata.category(character) in ("Cc", "Cn", "Cs") or character == "\ufeff":
            odd[NOT_PRINTABLE] += character
    for oddity, found in odd.items():
        if found:
            search = re.compile("[" + re.escape(found) + "]").search
            numbers = [number for number, line in enumerate(lines, 1) if search(line)]
            if numbers:
                oddities[oddity] = numbers


def _one_field(what: str) -> Callable[[str], str | None]:
    def problem(value: str) -> str | None:
        return None if len(value.split()) == 1 else f"expected one {what}, found {value!r}"

    return problem


def _number(what: str, is_right: Callable[[float], bool]) -> Callable[[str], str | None]:
    def problem(value: str) -> str | None:
        try:
            right = is_right(float(value))
        except ValueError:
            right = False
        return None if right else f"expected {what}, found {value!r}"

    return problem


def _transcript(value: str) -> str | None:
    return None if value else "empty transcript"


def _utterances(value: str) -> str | None:
    return None if value else "a speaker without utterances"


def _location(value: str) -> str | None:
    return None if value else "no file name or command"


def _segment(value: str) -> str | None:
    segment = parse_segment(value)
    if segment is None:
        return f"expected 'recording start end' with times in seconds, found {value!r}"
    if segment.start < 0:
        return f"segment starts at {segment.start:g} s, before its recording"
    if segment.end != -1 and segment.end <= segment.start:
        return f"segment ends at {segment.end:g} s, not after its start at {segment.start:g} s"
    return None


def _speed(value: str) -> str | None:
    return None if parse_speed(value) else f"expected {SPEED_FORM}, found {value!r}"


def _gender(value: str) -> str | None:
    return None if value in ("m", "f") else f"expected m or f, found {value!r}"


def _file_and_channel(value: str) -> str | None:
    fields = value.split()
    # Kaldi takes the channel 1 too, with a warning.
    if len(fields) == 2 and fields[1] in ("A", "B", "1"):
        return None
    return f"expected a file and the channel A or B, found {value!r}"


def _positive_and_finite(number: float) -> bool:
    return 0 < number < math.inf


_seconds = _number("a positive number of seconds", _positive_and_finite)
_frames = _number("a positive whole number", lambda n: _positive_and_finite(n) and n == int(n))
_warp = _number("a number between 0.5 and 1.5", lambda n: 0.5 < n < 1.5)

_U, _R, _S = Key.UTTERANCE, Key.RECORDING, Key.SPEAKER
_NEEDED, _DERIVED, _INFORMATION = Role.NEEDED, Role.DERIVED, Role.INFORMATION

FORMATS: dict[str, TableFormat] = {
    table_format.name: table_format
    for table_format in (
        TableFormat("utt2spk", _U, _NEEDED, _one_field("speaker")),
        TableFormat("spk2utt", _S, _DERIVED, _utterances),
        TableFormat("text", _U, _NEEDED, _transcript),
        TableFormat("segments", _U, _NEEDED, _segment),
        TableFormat("wav.scp", _R, _NEEDED, _location, is_location=True),
        TableFormat("feats.scp", _U, _NEEDED, _location, is_location=True),
        TableFormat("cmvn.scp", _S, _DERIVED, _location, is_location=True),
        TableFormat("vad.scp", _U, _DERIVED, _location, is_location=True),
        TableFormat("utt2dur", _U, _DERIVED, _seconds),
        TableFormat("utt2num_frames", _U, _DERIVED, _frames),
        TableFormat("reco2dur", _R, _DERIVED, _seconds),
        TableFormat("spk2gender", _S, _INFORMATION, _gender),
        TableFormat("spk2warp", _S, _INFORMATION, _warp),
        TableFormat("utt2speed", _U, _INFORMATION, _speed),
        TableFormat("utt2warp", _U, _INFORMATION, _warp),
        TableFormat("utt2lang", _U, _INFORMATION, _one_field("language")),
        TableFormat("utt2uniq", _U, _INFORMATION, _one_field("utterance")),
        TableFormat("reco2file_and_channel", _R, _INFORMATION, _file_and_channel),
    )
}
"""The files of a data directory that are known, by name."""
