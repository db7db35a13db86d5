"""Repairing a Kaldi data directory, as Kaldi's utils/fix_data_dir.sh does."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mariana_asr.corpus.audio import is_command, segment_problem
from mariana_asr.corpus.datadir import parse_segment
from mariana_asr.corpus.problems import Problem, printable
from mariana_asr.corpus.tables import (
    FORMATS,
    Key,
    RawTable,
    Role,
    archive_file,
    archive_problem,
    c_sorted,
    file_problem,
    read_raw_table,
    to_bytes,
)
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError, summarise
from mariana_asr.files import atomic_file
from mariana_asr.skipped import Skipped

BACKUP = ".backup"


@dataclass(frozen=True)
class FixReport:
    """What ``fix_data_dir`` did.

    Attributes:
        path: The data directory.
        total: Number of utterances before, those in ``utt2spk``.
        dropped: Utterance to the reason why it was dropped.
        changes: What was done, file by file, with counts; empty if nothing had to be.
        remaining: Problems that only the user can solve.
    """

    path: Path
    total: int
    dropped: dict[str, str]
    changes: list[str]
    remaining: list[Problem]

    @property
    def kept(self) -> int:
        """Number of utterances after."""
        return self.total - len(self.dropped)

    def __str__(self) -> str:
        """Say what was done, a line each; the remaining problems print themselves."""
        lines = [f"{self.path}: kept {self.kept} of {self.total} utterances", *self.changes]
        for reason, count in Counter(self.dropped.values()).most_common(10):
            lines.append(f"dropped {count}: {reason}")
        if self.changes:
            lines.append(f"originals are in {self.path / BACKUP}")
        return "\n".join(lines)


@dataclass
class _CleanTable:
    """A table without duplicate and malformed lines."""

    raw: RawTable
    rows: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    """Key to what is wrong with its only line."""
    changes: list[str] = field(default_factory=list)

    def note(self, count: int, what: str) -> None:
        if count:
            lines = "1 line" if count == 1 else f"{count} lines"
            self.changes.append(f"{self.raw.format.name}: {lines}: {what}")


def fix_data_dir(path: str | Path) -> FixReport:
    """Sort a data directory's files, remove what is double or does not fit, rebuild ``spk2utt``.

    An utterance is dropped if it lacks a right line in one of those of ``text``, ``segments``,
    ``wav.scp`` and ``feats.scp`` that exist, or the file that it points to is not there. Files
    that can be computed again (``cmvn.scp``, ``utt2dur``, ...) are removed if they do not fit.
    Recordings are not opened and commands not run. The originals of changed files are kept in
    ``.backup`` and never overwritten there; the dropped utterances are listed in its
    ``skipped.txt``.

    Raises:
        DataError: There is no ``utt2spk``, no utterance would remain, or a file cannot be read
            or written. Nothing is changed then, unless writing failed.
    """
    path = Path(path)
    tables = _read_clean_tables(path)
    utt2spk = tables["utt2spk"].rows
    every = dict.fromkeys(tables["utt2spk"].raw.keys)
    reasons = _reasons_to_drop(list(every), tables)
    kept = [utterance for utterance in every if utterance not in reasons]
    dropped = {printable(utterance): printable(reason) for utterance, reason in reasons.items()}
    if not kept:
        counts = summarise([f"{u}: {reason}" for u, reason in dropped.items()], 3)
        raise DataError(
            f"no utterance would remain ({counts})",
            where=path,
            remedy="Nothing was changed; correct what all of them lack",
        )
    expected = {Key.UTTERANCE: set(kept), Key.SPEAKER: {utt2spk[u] for u in kept}}
    expected[Key.RECORDING] = _recordings(kept, tables)
    contents: dict[str, bytes | None] = {}
    changes: list[str] = []
    for name, table in tables.items():
        if name != "spk2utt":
            contents[name] = _new_content(table, expected[table.raw.format.key])
            changes += table.changes
    contents["spk2utt"] = _spk2utt(kept, utt2spk)
    try:
        replaced = _replace(path, contents)
    except OSError as error:
        raise DataError(f"cannot write: {error}", where=path) from error
    told = {change.partition(":")[0] for change in changes}
    changes += [
        f"{name}: " + ("made from utt2spk" if name == "spk2utt" else "spaces made single")
        for name in replaced
        if name not in told
    ]
    if dropped:
        skipped = Skipped(f"fixing {path}")
        for utterance, reason in dropped.items():
            skipped.add(utterance, reason)
        skipped.finish(path / BACKUP / "skipped.txt", len(kept))
    remaining = validate_data_dir(path, need_text=False, need_audio=False, allow_pipes=True)
    return FixReport(path, len(every), dropped, changes, remaining)


def _read_clean_tables(path: Path) -> dict[str, _CleanTable]:
    if not path.is_dir():
        raise DataError("no such data directory", where=path)
    tables = {}
    for name, table_format in FORMATS.items():
        try:
            tables[name] = _clean(read_raw_table(path / name, table_format))
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"cannot read: {reason}", where=path / name) from error
    if "utt2spk" not in tables:
        raise DataError(
            "no utt2spk, so this cannot be fixed",
            where=path,
            remedy="Write it: one line 'utterance speaker' each; see docs/data.md",
        )
    return tables


def _clean(raw: RawTable) -> _CleanTable:
    table = _CleanTable(raw)
    if raw.format.name == "spk2utt":  # it is made again in any case
        return table
    doubles = conflicts = expanded = 0
    for key, value in zip(raw.keys, raw.values, strict=True):
        if not raw.format.is_location:
            value = " ".join(value.split())
        elif value.startswith("~") and not file_problem(str(Path(value).expanduser())):
            value = str(Path(value).expanduser())
            expanded += 1
        if key in table.rows:
            doubles += 1
            conflicts += value != table.rows[key]
            continue
        message = raw.format.value_problem(value)
        if message and raw.format.role is not Role.INFORMATION:
            table.wrong.setdefault(key, message)
        else:
            table.rows[key] = value
    malformed = len(raw.keys) - len(table.rows) - doubles
    for key in table.wrong.keys() & table.rows.keys():
        del table.wrong[key]
    for oddity, lines in raw.oddities.items():
        if oddity.fixable:
            table.note(len(lines), oddity.message)
    table.note(expanded, "~ expanded")
    table.note(malformed, "malformed, removed")
    table.note(doubles, f"double, removed ({conflicts} with another value: the first was kept)")
    keys = raw.sort_keys()
    if sorted(keys) != keys:
        table.changes.append(f"{raw.format.name}: sorted")
    return table


def _reasons_to_drop(utterances: list[str], tables: Mapping[str, _CleanTable]) -> dict[str, str]:
    """Say for each utterance that cannot be used why."""
    lost_recordings: dict[str, str] = {}
    if "wav.scp" in tables:
        for recording, location in tables["wav.scp"].rows.items():
            problem = None if is_command(location) else file_problem(location)
            if problem:
                lost_recordings[recording] = problem
    archives: dict[str, str | None] = {}
    if "feats.scp" in tables:
        archives = {archive_file(value): None for value in tables["feats.scp"].rows.values()}
        archives = {file: archive_problem(file) for file in archives}
    durations: dict[str, float] = {}
    if "reco2dur" in tables:
        durations = {key: float(value) for key, value in tables["reco2dur"].rows.items()}
    reasons: dict[str, str] = {}
    for utterance in utterances:
        reason = (
            _lacks_line(utterance, tables)
            or _lacks_audio(utterance, tables, lost_recordings, durations)
            or (
                "feats.scp" in tables
                and archives[archive_file(tables["feats.scp"].rows[utterance])]
            )
        )
        if reason:
            reasons[utterance] = reason
    return reasons


def _lacks_line(utterance: str, tables: Mapping[str, _CleanTable]) -> str | None:
    for name in ("utt2spk", "text", "segments", "feats.scp"):
        if name in tables and utterance not in tables[name].rows:
            return f"{name}: {tables[name].wrong.get(utterance, 'no line')}"
    return None


def _lacks_audio(
    utterance: str,
    tables: Mapping[str, _CleanTable],
    lost_recordings: Mapping[str, str],
    durations: Mapping[str, float],
) -> str | None:
    if "wav.scp" not in tables:
        return None
    wav = tables["wav.scp"]
    recording = utterance
    if "segments" in tables:
        segment = parse_segment(tables["segments"].rows[utterance])
        if segment is None:
            return "segments: malformed"
        recording = segment.recording
        if recording in durations:
            problem = segment_problem(segment, durations[recording])
            if problem:
                return problem
    if recording not in wav.rows:
        return f"wav.scp: {recording}: {wav.wrong.get(recording, 'no line')}"
    return lost_recordings.get(recording)


def _recordings(utterances: list[str], tables: Mapping[str, _CleanTable]) -> set[str]:
    if "segments" not in tables:
        return set(utterances)
    rows = tables["segments"].rows
    return {rows[utterance].split(maxsplit=1)[0] for utterance in utterances}


def _new_content(table: _CleanTable, expected: set[str]) -> bytes | None:
    """Make a file's new content, noting what was changed; None if it is to be removed."""
    name, role = table.raw.format.name, table.raw.format.role
    rows = {key: value for key, value in table.rows.items() if key in expected}
    table.note(len(table.rows) - len(rows), f"{table.raw.format.key} that is not kept, removed")
    why = None
    if role is Role.DERIVED:
        lacking = len(expected) - len(rows)
        archives = {archive_file(value) for value in rows.values()}
        if lacking:
            why = f"it lacks {lacking} of {len(expected)} {table.raw.format.key}s"
        elif table.raw.format.is_location and any(map(archive_problem, archives)):
            why = "an archive that it names is not there"
    elif not rows and role is Role.INFORMATION:
        why = "nothing in it is kept"
    if why:
        table.changes.append(f"{name}: the file was removed, as {why}")
        return None
    return b"".join(to_bytes(f"{key} {rows[key]}\n") for key in c_sorted(rows))


def _spk2utt(utterances: list[str], utt2spk: Mapping[str, str]) -> bytes:
    speakers: dict[str, list[str]] = {}
    for utterance in c_sorted(utterances):
        speakers.setdefault(utt2spk[utterance], []).append(utterance)
    return b"".join(to_bytes(" ".join([s, *speakers[s]]) + "\n") for s in c_sorted(speakers))


def _replace(path: Path, contents: Mapping[str, bytes | None]) -> list[str]:
    """Write or remove the files that change, keeping the originals; return their names."""
    replaced = []
    # utt2spk names the utterances, so it changes last.
    for name in sorted(contents, key=lambda name: (name == "utt2spk", name)):
        file, content = path / name, contents[name]
        if file.exists():
            if file.read_bytes() == content:
                continue
            _keep_original(file)
        if content is None:
            file.unlink()
        else:
            with atomic_file(file) as temporary:
                temporary.write_bytes(content)
        replaced.append(name)
    return replaced


def _keep_original(file: Path) -> None:
    """Copy a file to the backup folder, beside older copies."""
    folder = file.parent / BACKUP
    folder.mkdir(exist_ok=True)
    target, number = folder / file.name, 1
    while target.exists():
        number += 1
        target = folder / f"{file.name}.{number}"
    shutil.copy2(file, target)
