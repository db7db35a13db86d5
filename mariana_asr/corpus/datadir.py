"""Kaldi data directories: what they hold, reading and writing them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mariana_asr.errors import DataError
from mariana_asr.files import write_text


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
    """

    path: Path
    utt2spk: dict[str, str]
    text: dict[str, str] = field(default_factory=dict)
    wav: dict[str, str] = field(default_factory=dict)
    segments: dict[str, Segment] | None = None
    feats: dict[str, str] | None = None
    cmvn: dict[str, str] | None = None
    spk2gender: dict[str, str] = field(default_factory=dict)

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
        segments = self.segments and {u: s for u, s in self.segments.items() if u in kept}
        recordings = {s.recording for s in segments.values()} if segments else kept
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
        )

    def write(self) -> None:
        """Write the directory's files, sorted, each atomically; ``utt2spk`` comes last."""
        tables: dict[str, dict[str, str]] = {
            "text": self.text,
            "wav.scp": self.wav,
            "segments": {
                u: f"{s.recording} {s.start:g} {s.end:g}" for u, s in (self.segments or {}).items()
            },
            "feats.scp": self.feats or {},
            "cmvn.scp": self.cmvn or {},
            "spk2gender": self.spk2gender,
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

    Only what reading needs is checked here; ``validate_data_dir`` checks everything.

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

    segments = optional("segments")
    return DataDir(
        path=path,
        utt2spk=read_table(path / "utt2spk"),
        text={u: " ".join(t.split()) for u, t in (optional("text") or {}).items()},
        wav=optional("wav.scp") or {},
        segments=None
        if segments is None
        else {u: _segment(path, u, line) for u, line in segments.items()},
        feats=optional("feats.scp"),
        cmvn=optional("cmvn.scp"),
        spk2gender=optional("spk2gender") or {},
    )


def read_table(path: str | Path) -> dict[str, str]:
    """Read ``key value...`` lines into a dictionary; a key without a value maps to "".

    Raises:
        DataError: Missing, not UTF-8, an empty line, or a key that comes twice.
    """
    path = Path(path)
    table: dict[str, str] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("no such file", where=path) from error
    for number, raw in enumerate(content.split(b"\n"), 1):
        if not raw and number == content.count(b"\n") + 1:
            break
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                "not UTF-8", where=f"{path}:{number}", remedy="Convert the file, e.g. with iconv"
            ) from error
        fields = line.split(maxsplit=1)
        if not fields:
            raise DataError("empty line", where=f"{path}:{number}")
        if fields[0] in table:
            raise DataError(f"{fields[0]!r} comes twice", where=f"{path}:{number}")
        table[fields[0]] = fields[1].strip() if len(fields) == 2 else ""
    return table


def _segment(path: Path, utterance: str, line: str) -> Segment:
    fields = line.split()
    try:
        return Segment(fields[0], float(fields[1]), float(fields[2]))
    except (IndexError, ValueError) as error:
        raise DataError(
            f"{utterance} {line}: expected 'utterance recording start end'",
            where=path / "segments",
        ) from error
