"""Checking a Kaldi data directory, as strictly as Kaldi's utils/validate_data_dir.sh.

Where that script stops at the first fault, everything is reported here at once.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from mariana_asr.corpus.audio import is_command, segment_problem
from mariana_asr.corpus.datadir import parse_segment
from mariana_asr.corpus.problems import Problem, ProblemList
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
from mariana_asr.corpus.validate_contents import measure_recordings, read_all_features

__all__ = ["Problem", "validate_data_dir"]

ILLEGAL_WORDS = ("<s>", "</s>", "#0", "<eps>")
"""Symbols with a meaning in graphs, so that they cannot be words of a transcript."""

_SPEAKER_ORDER_REMEDY = (
    "Make speaker ids prefixes of utterance ids, joined by '-', which sorts before letters "
    "and digits"
)


def validate_data_dir(
    path: str | Path,
    *,
    need_text: bool = True,
    need_audio: bool = True,
    need_feats: bool = False,
    allow_empty_text: bool = False,
    read_data: bool = False,
    allow_pipes: bool = False,
    limit: int = 20,
    jobs: int = 1,
) -> list[Problem]:
    """List everything that is wrong with a data directory; it is right if the list is empty.

    What is present is checked even where it is not needed.

    Args:
        path: The data directory.
        need_text: Whether ``text`` must be there.
        need_audio: Whether ``wav.scp`` must be there.
        need_feats: Whether ``feats.scp`` must be there.
        allow_empty_text: Whether an utterance may have a transcript without a word.
        read_data: Whether to read every recording and feature matrix too.
        allow_pipes: Whether commands in ``wav.scp`` are allowed, and run by ``read_data``.
        limit: How many problems of one kind are listed for one file; the rest are counted.
        jobs: Processes that read recordings.
    """
    path = Path(path)
    problems = ProblemList(limit, [path / name for name in FORMATS])
    if not path.is_dir():
        problems.add(path, None, "no such data directory", "Check its name", kind="directories")
        return problems.finish()
    needed = {"utt2spk": True, "spk2utt": True}
    needed |= {"text": need_text, "wav.scp": need_audio, "feats.scp": need_feats}
    tables = _read_tables(path, needed, problems)
    for table in tables.values():
        _check_oddities(table, problems)
        _check_values(table, problems, allow_empty_text)
        _check_order(table, problems)
    if "text" in tables:
        _check_words(tables["text"], problems)
    _check_ids(path, tables, problems)
    if "wav.scp" in tables:
        _check_audio_files(tables["wav.scp"], problems, allow_pipes)
    for name in ("feats.scp", "cmvn.scp", "vad.scp"):
        if name in tables:
            _check_archives(tables[name], problems)
    durations = _known_durations(tables)
    if read_data and "wav.scp" in tables:
        durations |= measure_recordings(tables["wav.scp"], problems, allow_pipes, jobs)
    if read_data and "feats.scp" in tables:
        read_all_features(tables["feats.scp"], tables.get("utt2num_frames"), problems)
    if "segments" in tables:
        _check_segment_ends(tables["segments"], durations, problems)
    return problems.finish()


def _read_tables(
    path: Path, needed: Mapping[str, bool], problems: ProblemList
) -> dict[str, RawTable]:
    tables = {}
    for name, table_format in FORMATS.items():
        file = path / name
        try:
            tables[name] = read_raw_table(file, table_format)
        except FileNotFoundError:
            if needed.get(name):
                problems.add(
                    file,
                    None,
                    "no such file",
                    "--fix makes it from utt2spk"
                    if name == "spk2utt"
                    else "See docs/data.md for what it holds",
                    kind="missing files",
                    fixable=name == "spk2utt",
                )
        except OSError as error:
            reason = error.strerror or str(error)
            problems.add(file, None, f"cannot read: {reason}", "Make it readable", kind="files")
    if "segments" in tables and "wav.scp" not in tables and not needed["wav.scp"]:
        file = path / "wav.scp"
        problems.add(file, None, "no such file, though there are segments", "", kind="files")
    return tables


def _check_oddities(table: RawTable, problems: ProblemList) -> None:
    for oddity, lines in table.oddities.items():
        more = f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
        problems.add(
            table.path,
            lines[0],
            oddity.message + more,
            oddity.remedy,
            kind=oddity.message,
            fixable=oddity.fixable,
        )
    if not table.keys:
        problems.add(
            table.path,
            None,
            "empty file",
            "Fill it or remove it",
            kind="empty files",
            fixable=table.format.role is Role.DERIVED,
        )


def _check_values(table: RawTable, problems: ProblemList, allow_empty_text: bool) -> None:
    wrong = table.format.value_problem
    needed = table.format.role is Role.NEEDED
    may_be_empty = allow_empty_text and table.format.name == "text"
    for line, key, value in zip(table.lines, table.keys, table.values, strict=True):
        if may_be_empty and not value:
            continue
        message = wrong(value)
        if message:
            problems.add(
                table.path,
                line,
                f"{key!r}: {message}",
                "Correct the line" + ("; --fix drops the utterance" if needed else ""),
                kind="wrong lines",
                fixable=table.format.role is not Role.INFORMATION,
            )


def _check_order(table: RawTable, problems: ProblemList) -> None:
    if table.is_sorted_and_unique():
        return
    first: dict[str, int] = {}
    for place, (line, key) in enumerate(zip(table.lines, table.keys, strict=True)):
        if key in first:
            earlier = first[key]
            same = table.values[earlier] == table.values[place]
            problems.add(
                table.path,
                line,
                f"{key!r} came in line {table.lines[earlier]} already, "
                f"with {'the same' if same else 'another'} value",
                "Remove one of them" if same else "Remove the wrong one; --fix keeps the first",
                kind="duplicate ids",
                fixable=True,
            )
        else:
            first[key] = place
    keys = table.sort_keys()
    out_of_order = [place for place in range(1, len(keys)) if keys[place] < keys[place - 1]]  # type: ignore[operator]
    if out_of_order:
        place = out_of_order[0]
        problems.add(
            table.path,
            table.lines[place],
            f"not sorted: {table.keys[place]!r} comes after {table.keys[place - 1]!r}"
            + (f" ({len(out_of_order)} such places)" if len(out_of_order) > 1 else ""),
            "Sort it by bytes: LC_ALL=C sort, or --fix",
            kind="files out of order",
            fixable=True,
        )


def _check_words(text: RawTable, problems: ProblemList) -> None:
    illegal = re.compile(r"(?<!\S)(?:" + "|".join(map(re.escape, ILLEGAL_WORDS)) + r")(?!\S)")
    for line, key, value in zip(text.lines, text.keys, text.values, strict=True):
        # "#" and "<" are rare, so this spares nearly every transcript the slower search.
        if ("<" in value or "#" in value) and (found := illegal.search(value)):
            problems.add(
                text.path,
                line,
                f"{key!r}: the transcript holds {found[0]}, which cannot be a word",
                "Remove it",
                kind="transcripts with such symbols",
            )


def _check_ids(path: Path, tables: Mapping[str, RawTable], problems: ProblemList) -> None:
    """Tables must hold the same utterances, recordings and speakers."""
    utt2spk = tables.get("utt2spk")
    if utt2spk is None or not utt2spk.keys:
        return
    rows = zip(utt2spk.keys, utt2spk.values, strict=True)
    speaker_of = {key: value for key, value in rows if len(value.split()) == 1}
    expected = {Key.UTTERANCE: set(utt2spk.keys), Key.SPEAKER: set(speaker_of.values())}
    source = {Key.UTTERANCE: "utt2spk", Key.SPEAKER: "utt2spk", Key.RECORDING: "utt2spk"}
    segments = tables.get("segments")
    if segments is None:
        expected[Key.RECORDING] = expected[Key.UTTERANCE]
    else:
        expected[Key.RECORDING] = {value.split(maxsplit=1)[0] for value in segments.values if value}
        source[Key.RECORDING] = "segments"
    for name, table in tables.items():
        if name not in ("utt2spk", "spk2utt") and table.keys:
            key = table.format.key
            _check_same_ids(table, expected[key], source[key], problems)
    if "spk2utt" in tables:
        _check_spk2utt(tables["spk2utt"], speaker_of, problems)
    _check_speaker_order(utt2spk, speaker_of, problems)


def _check_same_ids(
    table: RawTable, expected: set[str], source: str, problems: ProblemList
) -> None:
    present = set(table.keys)
    if present == expected:
        return
    what = table.format.key
    for line, key in zip(table.lines, table.keys, strict=True):
        if key not in expected:
            problems.add(
                table.path,
                line,
                f"{what} {key!r} is not in {source}",
                "Add it there or remove it here; --fix removes it",
                kind=f"{what} ids that are not in {source}",
                fixable=True,
            )
    role = table.format.role
    remedy = {
        Role.NEEDED: "Add the line; --fix drops the utterance",
        Role.DERIVED: "Add the line; --fix removes the file, which can be computed again",
        Role.INFORMATION: "Add the line, or remove the file",
    }[role]
    for key in sorted(expected - present):
        problems.add(
            table.path,
            None,
            f"no line for {what} {key!r}, which is in {source}",
            remedy,
            kind=f"{what} ids without a line",
            fixable=role is not Role.INFORMATION,
        )


def _check_spk2utt(spk2utt: RawTable, speaker_of: Mapping[str, str], problems: ProblemList) -> None:
    expected: dict[str, list[str]] = {}
    for utterance in c_sorted(speaker_of):
        expected.setdefault(speaker_of[utterance], []).append(utterance)

    def add(line: int | None, message: str) -> None:
        problems.add(
            spk2utt.path,
            line,
            message,
            "It is made from utt2spk; --fix makes it again",
            kind="lines that do not match utt2spk",
            fixable=True,
        )

    for line, speaker, value in zip(spk2utt.lines, spk2utt.keys, spk2utt.values, strict=True):
        listed, right = value.split(), expected.get(speaker)
        if right is None:
            add(line, f"speaker {speaker!r} is not in utt2spk")
        elif listed != right:
            extra, lacking = sorted(set(listed) - set(right)), sorted(set(right) - set(listed))
            what = "has its utterances in another order than utt2spk, or twice"
            if extra:
                what = f"has {extra[0]!r}, which utt2spk does not give it"
            elif lacking:
                what = f"lacks {lacking[0]!r}, which utt2spk gives it"
            add(line, f"speaker {speaker!r} {what}")
    for speaker in sorted(expected.keys() - set(spk2utt.keys)):
        add(None, f"no line for speaker {speaker!r}, who is in utt2spk")


def _check_speaker_order(
    utt2spk: RawTable, speaker_of: Mapping[str, str], problems: ProblemList
) -> None:
    """Kaldi's programs read utterances and speakers side by side, so one order must fit both."""
    lines = dict(zip(utt2spk.keys, utt2spk.lines, strict=True))
    order = c_sorted(speaker_of)
    for earlier, later in pairwise(order):
        if to_bytes(speaker_of[later]) < to_bytes(speaker_of[earlier]):
            problems.add(
                utt2spk.path,
                lines[later],
                f"speakers are out of order when utterances are sorted: {later!r} of "
                f"{speaker_of[later]!r} comes after {earlier!r} of {speaker_of[earlier]!r}",
                _SPEAKER_ORDER_REMEDY,
                kind="places where speakers are out of order",
            )


def _check_audio_files(wav: RawTable, problems: ProblemList, allow_pipes: bool) -> None:
    for line, key, value in zip(wav.lines, wav.keys, wav.values, strict=True):
        if is_command(value):
            if not allow_pipes:
                problems.add(
                    wav.path,
                    line,
                    f"{key!r} is a command, and commands are not run by default",
                    "Pass --allow-pipes if you trust the directory: they run in a shell",
                    kind="commands",
                )
        elif value and (message := file_problem(value)):
            problems.add(
                wav.path,
                line,
                f"{key!r}: {message}",
                _remedy_for_missing(value),
                kind="recordings without a usable file",
                fixable=True,
            )


def _remedy_for_missing(location: str) -> str:
    if location.startswith("~"):
        return "Write the home folder out"
    if Path(location).is_absolute():
        return "Correct the name; --fix drops the utterance"
    return (
        f"Relative names are taken from the current folder, {Path.cwd()}; correct the name, "
        "or --fix drops the utterance"
    )


def _check_archives(table: RawTable, problems: ProblemList) -> None:
    known: dict[str, str | None] = {}
    for line, key, value in zip(table.lines, table.keys, table.values, strict=True):
        file = archive_file(value)
        if file not in known:
            known[file] = archive_problem(file)
        message = known[file]
        if value and message:
            problems.add(
                table.path,
                line,
                f"{key!r}: {message}",
                "Extract the features again, or correct the name",
                kind="entries without a usable archive",
                fixable=True,
            )


def _known_durations(tables: Mapping[str, RawTable]) -> dict[str, float]:
    table = tables.get("reco2dur")
    if table is None:
        return {}
    rows = zip(table.keys, table.values, strict=True)
    return {key: float(value) for key, value in rows if table.format.value_problem(value) is None}


def _check_segment_ends(
    segments: RawTable, durations: Mapping[str, float], problems: ProblemList
) -> None:
    for line, key, value in zip(segments.lines, segments.keys, segments.values, strict=True):
        if segments.format.value_problem(value) is not None:
            continue
        segment = parse_segment(value)
        if segment is None or segment.recording not in durations:
            continue
        message = segment_problem(segment, durations[segment.recording])
        if message:
            problems.add(
                segments.path,
                line,
                f"{key!r}: {message}",
                "Correct its times",
                kind="segments that do not fit their recording",
                fixable=True,
            )
