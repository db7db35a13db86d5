"""Kaldi data directories: what they hold, reading and writing them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mariana_asr.errors import DataError
from mariana_asr.files import write_text

FEATURES_FILE = "features.json"
"""The file of a data directory that holds the options its features were computed with."""

FIX_REMEDY = "mariana-asr validate DATA_DIR --fix repairs what can be repaired"
"""The remedy for what ``fix_data_dir`` takes care of."""

SPEED_FORM = "a factor of speed from 0.5 to 2 in hundredths"
"""What ``utt2speed`` holds for an utterance, in the words of an error."""

_LINE_END = b"\n"


@dataclass(frozen=True)
class Segment:
    """A part of a recording; times in seconds, an ``end`` of -1 is the recording's end."""

    recording: str
    start: float
    end: float


@dataclass(frozen=True)
class DataDir:
    """A Kaldi data directory in memory.

    Attributes:
        path: The directory it was read from or is to be written to.
        utt2spk: Utterance to speaker; its keys are the utterances.
        text: Utterance to transcript, words joined by single spaces.
        wav: Recording to file or command (``wav.scp``); empty where there is no audio.
        segments: Utterance to its part of a recording; None where utterances are recordings.
        feats: Utterance to the place of its features (``feats.scp``); None before extraction.
        cmvn: Speaker to the place of its CMVN statistics (``cmvn.scp``).
        spk2gender: Speaker to ``m`` or ``f``, where known.
        speeds: Utterance to the factor that it is sped up by as it is read (``utt2speed``, which
            is not Kaldi's); 1 for those that it leaves out.
    """

    path: Path
    utt2spk: dict[str, str]
    text: dict[str, str] = field(default_factory=dict)
    wav: dict[str, str] = field(default_factory=dict)
    segments: dict[str, Segment] | None = None
    feats: dict[str, str] | None = None
    cmvn: dict[str, str] | None = None
    spk2gender: dict[str, str] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)

    @property
    def utterances(self) -> list[str]:
        """Utterance ids, sorted by their bytes as Kaldi wants them."""
        return sorted(self.utt2spk)

    @property
    def spk2utt(self) -> dict[str, list[str]]:
        """Speaker to its utterances, both sorted."""
        speakers: dict[str, list[str]] = {}
        for utterance in self.utterances:
            speakers.setdefault(self.utt2spk[utterance], []).append(utterance)
        return dict(sorted(speakers.items()))

    def subset(self, utterances: Iterable[str], path: Path | None = None) -> "DataDir":
        """Keep only some utterances, with the recordings and speakers that they need."""
        kept = set(utterances)
        utt2spk = {u: s for u, s in self.utt2spk.items() if u in kept}
        speakers = set(utt2spk.values())
        segments, recordings = None, kept
        if self.segments is not None:
            segments = {u: s for u, s in self.segments.items() if u in kept}
            recordings = {s.recording for s in segments.values()}
        return replace(
            self,
            path=path or self.path,
            utt2spk=utt2spk,
            text={u: t for u, t in self.text.items() if u in kept},
            wav={r: w for r, w in self.wav.items() if r in recordings},
            segments=segments,
            feats=self.feats and {u: f for u, f in self.feats.items() if u in kept},
            cmvn=self.cmvn and {s: c for s, c in self.cmvn.items() if s in speakers},
            spk2gender={s: g for s, g in self.spk2gender.items() if s in speakers},
            speeds={u: speed for u, speed in self.speeds.items() if u in kept},
        )

    def write(self) -> None:
        """Write the directory's files, sorted, each atomically; ``utt2spk`` comes last."""
        tables: dict[str, dict[str, str]] = {
            "text": self.text,
            "wav.scp": self.wav,
            "segments": {
                u: f"{s.recording} {_plain_number(s.start)} {_plain_number(s.end)}"
                for u, s in (self.segments or {}).items()
            },
            "feats.scp": self.feats or {},
            "cmvn.scp": self.cmvn or {},
            "spk2gender": self.spk2gender,
            "utt2speed": {u: _plain_number(speed) for u, speed in self.speeds.items()},
            "spk2utt": {s: " ".join(us) for s, us in self.spk2utt.items()},
            "utt2spk": self.utt2spk,
        }
        for name, table in tables.items():
            if table:
                lines = [f"{key} {value}".rstrip() for key, value in sorted(table.items())]
                write_text(self.path / name, "\n".join(lines) + "\n")
            else:
                (self.path / name).unlink(missing_ok=True)


def read_data_dir(path: str | Path) -> DataDir:
    """Read a Kaldi data directory.

    Only what reading needs is checked here; ``validate_data_dir`` checks everything. Windows line
    endings and a byte order mark are passed over; an utterance whose segment is empty or whose
    audio is missing is found when it is read.

    Raises:
        DataError: The directory or ``utt2spk`` is missing, or a table cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError("no such data directory", where=path)
    if not (path / "utt2spk").exists():
        raise DataError(
            "no utt2spk, so this is no Kaldi data directory",
            where=path,
            remedy="See docs/data.md for the files that a data directory holds",
        )

    def optional(name: str) -> dict[str, str] | None:
        return read_table(path / name) if (path / name).exists() else None

    def locations(name: str) -> dict[str, str] | None:
        table = optional(name)
        _require_values(path / name, table or {}, lambda location: bool(location))
        return table

    utt2spk = read_table(path / "utt2spk")
    _require_values(path / "utt2spk", utt2spk, lambda speaker: len(speaker.split()) == 1)
    segments = optional("segments")
    return DataDir(
        path=path,
        utt2spk=utt2spk,
        text={u: " ".join(t.split()) for u, t in (optional("text") or {}).items()},
        wav=locations("wav.scp") or {},
        segments=None
        if segments is None
        else {
            u: _segment(path / "segments", number, u, line)
            for number, (u, line) in enumerate(segments.items(), 1)
        },
        feats=locations("feats.scp"),
        cmvn=locations("cmvn.scp"),
        spk2gender=optional("spk2gender") or {},
        speeds={
            u: _speed(path / "utt2speed", number, u, value)
            for number, (u, value) in enumerate((optional("utt2speed") or {}).items(), 1)
        },
    )


def read_table(path: str | Path) -> dict[str, str]:
    """Read ``key value...`` lines into a dictionary; a key without a value maps to "".

    Raises:
        DataError: Missing, not UTF-8, an empty line, or a key that comes twice.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("no such file", where=path) from error
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror or error}", where=path) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "not UTF-8",
            where=f"{path}:{content.count(_LINE_END, 0, error.start) + 1}",
            remedy="Convert the file, e.g. with iconv -f ENCODING -t UTF-8",
        ) from error
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    table: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split(maxsplit=1)
        if not fields or fields[0] in table:
            what = f"{fields[0]!r} comes twice" if fields else "empty line"
            raise DataError(what, where=f"{path}:{number}", remedy=FIX_REMEDY)
        table[fields[0]] = fields[1].strip() if len(fields) == 2 else ""
    return table


def parse_segment(value: str) -> Segment | None:
    """Parse ``recording start end``; None if it is not that, or a time is not a finite number."""
    fields = value.split()
    try:
        recording, start, end = fields[0], float(fields[1]), float(fields[2])
    except (IndexError, ValueError):
        return None
    if len(fields) != 3 or not math.isfinite(start) or not math.isfinite(end):
        return None
    return Segment(recording, start, end)


def _segment(path: Path, number: int, utterance: str, line: str) -> Segment:
    segment = parse_segment(line)
    if segment is None:
        # A file that read_table took has one entry a line, so the entry's number is the line's.
        raise DataError(
            f"expected 'utterance recording start end' with times in seconds, "
            f"found '{utterance} {line}'",
            where=f"{path}:{number}",
            remedy=FIX_REMEDY,
        )
    return segment


def parse_speed(value: str) -> float | None:
    """Parse a factor of speed; None if it is not right (see ``is_speed``)."""
    try:
        speed = float(value)
    except ValueError:
        return None
    return speed if is_speed(speed) else None


def is_speed(speed: float) -> bool:
    """Whether a recording can be read at this speed: hundredths from 0.5 to 2.

    In hundredths the ratio of two sample rates is one of small numbers, so resampling is cheap.
    """
    return 0.5 <= speed <= 2.0 and abs(speed * 100 - round(speed * 100)) < 1e-6


def _speed(path: Path, number: int, utterance: str, value: str) -> float:
    speed = parse_speed(value)
    if speed is None:
        raise DataError(
            f"expected an utterance and {SPEED_FORM}, found '{utterance} {value}'",
            where=f"{path}:{number}",
            remedy="Correct the line",
        )
    return speed


def _require_values(path: Path, table: dict[str, str], is_right: Callable[[str], bool]) -> None:
    for number, (key, value) in enumerate(table.items(), 1):
        if not is_right(value):
            raise DataError(
                f"expected {key!r} and one value, found {value!r}" if value else f"{key!r} alone",
                where=f"{path}:{number}",
                remedy=FIX_REMEDY,
            )


def _plain_number(number: float) -> str:
    """Write a number so that it reads back as the same one."""
    return repr(float(number)).removesuffix(".0")
