"""Files that show an alignment to people and programs: CTM, TextGrid, JSON and scores."""

import json
import shutil
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import TransitionModel
from mariana_asr.align.output.aligned_utterance import AlignedUtterance, UtteranceSegmenter
from mariana_asr.align.output.segments import PhoneSegment, WordSegment
from mariana_asr.align.output.textgrid import Interval, textgrid_text
from mariana_asr.corpus.datadir import DataDir, Segment, read_table
from mariana_asr.corpus.speed import AS_RECORDED
from mariana_asr.errors import DataError, RecipeError
from mariana_asr.files import atomic_directory, atomic_file
from mariana_asr.lang.langdir import Lang

WORDS_CTM = "words.ctm"
PHONES_CTM = "phones.ctm"
RECORDING_WORDS_CTM = "words.recordings.ctm"
RECORDING_PHONES_CTM = "phones.recordings.ctm"
TEXTGRID_FOLDER = "textgrid"
JSON_FILE = "alignment.jsonl"
SCORES_FILE = "scores.txt"

_POSITION_MARKS = {"_B": "begin", "_E": "end", "_I": "internal", "_S": "singleton"}


class AlignmentWriter:
    """Writes the alignments of a data directory as they come, one utterance after the other.

    The files, by format:

    - ``ctm``: ``words.ctm`` and ``phones.ctm``; for data with segments also
      ``words.recordings.ctm`` and ``phones.recordings.ctm``, whose times are the recordings'.
    - ``textgrid``: ``textgrid/UTTERANCE.TextGrid`` for Praat.
    - ``json``: ``alignment.jsonl``, an object an utterance.
    - ``scores``: ``scores.txt``, the log-likelihood a frame.

    They appear under their names only when the writer is closed without an error; those of formats
    that were not asked for are then removed, since they would be of another alignment.
    """

    def __init__(
        self,
        out_dir: str | Path,
        lang: Lang,
        transition_model: TransitionModel,
        data: DataDir,
        frame_shift: float,
        formats: Collection[str] = ("ctm", "textgrid", "json"),
    ) -> None:
        """Read the lexicon; nothing is written yet.

        Args:
            out_dir: Where the files go.
            lang: Lexicon and phones that the alignment was made with.
            transition_model: The model that it was made with.
            data: Transcripts, speakers and, where there are, segments.
            frame_shift: Seconds from one frame to the next (`frame_shift_seconds`).
            formats: Which of ``FORMATS`` to write.

        Raises:
            FormatError: The lang directory's lexicon is missing or damaged.
            DataError: ``reco2file_and_channel`` of the data directory is damaged.
            RecipeError: There is no such format.
        """
        if unknown := sorted(set(formats) - set(FORMATS)):
            raise RecipeError(
                f"no such format: {', '.join(unknown)}",
                remedy=f"Choose among {', '.join(FORMATS)}",
            )
        self._out_dir = Path(out_dir)
        self._segmenter = UtteranceSegmenter(lang, transition_model, data)
        self._times = _Times(lang, data, frame_shift)
        self._formats = [name for name in FORMATS if name in formats]
        self._stack = ExitStack()
        self._sinks: list[_Sink] = []

    def __enter__(self) -> "AlignmentWriter":
        """Open temporary files."""
        with ExitStack() as stack:
            for name in self._formats:
                self._sinks.append(FORMATS[name](self._out_dir, self._times, stack))
            self._stack = stack.pop_all()
        return self

    def write(
        self,
        utterance: str,
        tids: NDArray[np.integer],
        score: float,
        retried: bool = False,
        frame_scores: NDArray[np.floating] | None = None,
    ) -> AlignedUtterance:
        """Write one alignment.

        Args:
            utterance: Its id.
            tids: Transition ids, shape (T,).
            score: Log-likelihood a frame.
            retried: Whether only the retry beam found a path.
            frame_scores: Log-likelihood of each frame on the path, shape (T,), where known.

        Returns:
            The alignment as words and phones.

        Raises:
            DataError: The phones are not those of the utterance's transcript; nothing of it is
                written.
            FormatError: A number is no transition id of the model.
        """
        aligned = self._segmenter.segment(utterance, tids, score, retried, frame_scores)
        for sink in self._sinks:
            sink.write(aligned)
        return aligned

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Rename the files into place, or remove them if the block failed."""
        self._stack.__exit__(kind, error, trace)
        if error is None:
            written = {name for sink in self._sinks for name in sink.names}
            for stale in _ALL_FILES - written:
                (self._out_dir / stale).unlink(missing_ok=True)
            if TEXTGRID_FOLDER not in written:
                shutil.rmtree(self._out_dir / TEXTGRID_FOLDER, ignore_errors=True)


class _Times:
    """Names of phones, and frames as seconds."""

    def __init__(self, lang: Lang, data: DataDir, frame_shift: float) -> None:
        self.frame_shift = frame_shift
        self.silence = lang.optional_silence
        self.phones = {number: name for name, number in lang.phones.items()}
        self.plain_phones = {
            number: _without_position(name, (lang.word_boundary or {}).get(number))
            for number, name in self.phones.items()
        }
        self.segments = data.segments
        self._speeds = data.speeds
        table = data.path / "reco2file_and_channel"
        self.channels: dict[str, str] = {}
        if data.segments is not None and table.exists():
            self.channels = read_table(table)
            for number, (recording, channel) in enumerate(self.channels.items(), 1):
                if len(channel.split()) != 2:
                    raise DataError(
                        f"expected 'recording file channel', found '{recording} {channel}'",
                        where=f"{table}:{number}",
                    )

    def seconds(self, frames: int) -> float:
        """Time of a frame's start, to the microsecond."""
        return round(frames * self.frame_shift, 6)

    def segment(self, utterance: str) -> Segment | None:
        """The part of a recording that an utterance is, for data with segments."""
        return None if self.segments is None else self.segments[utterance]

    def speed(self, utterance: str) -> float:
        """Seconds of the recording in a second of the utterance."""
        return self._speeds.get(utterance, AS_RECORDED)

    def file_and_channel(self, recording: str) -> str:
        """What a CTM calls a recording, by ``reco2file_and_channel`` where there is one."""
        return self.channels.get(recording, f"{recording} 1")


class _Sink(Protocol):
    """Where alignments go in one format."""

    names: list[str]

    def write(self, aligned: AlignedUtterance) -> None: ...


class _CtmSink:
    """``utterance channel start duration symbol`` lines (NIST's time-marked conversation files).

    Times have as many places as Kaldi's nbest-to-ctm writes for the frame shift. Words leave the
    optional silence out, phones hold it.
    """

    def __init__(self, out_dir: Path, times: _Times, stack: ExitStack) -> None:
        self.names = [WORDS_CTM, PHONES_CTM]
        if times.segments is not None:
            self.names += [RECORDING_WORDS_CTM, RECORDING_PHONES_CTM]
        self._times = times
        self._files = [_open(out_dir / name, stack) for name in self.names]
        shift = times.frame_shift
        self._places = 2 if shift >= 0.01 else 3 if shift >= 0.001 else 4

    def write(self, aligned: AlignedUtterance) -> None:
        words = [
            (segment.start, segment.frames, word)
            for word, segment in aligned.labelled_words
            if word is not None
        ]
        phones = [(p.start, p.frames, self._times.phones[p.phone]) for p in aligned.phones]
        self._write(self._files[:2], f"{aligned.utterance} 1", 0.0, words, phones)
        segment = self._times.segment(aligned.utterance)
        if segment is not None:
            prefix = self._times.file_and_channel(segment.recording)
            speed = self._times.speed(aligned.utterance)
            self._write(self._files[2:], prefix, segment.start, words, phones, speed=speed)

    def _write(
        self,
        files: list[TextIO],
        prefix: str,
        offset: float,
        *tiers: list[tuple[int, int, str]],
        speed: float = AS_RECORDED,
    ) -> None:
        shift, places = speed * self._times.frame_shift, self._places
        for file, tier in zip(files, tiers, strict=True):
            file.writelines(
                f"{prefix} {offset + shift * start:.{places}f} {shift * frames:.{places}f} {name}\n"
                for start, frames, name in tier
            )


class _TextGridSink:
    """A folder of Praat's TextGrids with the tiers ``words`` and ``phones``."""

    def __init__(self, out_dir: Path, times: _Times, stack: ExitStack) -> None:
        self.names = [TEXTGRID_FOLDER]
        self._times = times
        self._folder = stack.enter_context(atomic_directory(out_dir / TEXTGRID_FOLDER))

    def write(self, aligned: AlignedUtterance) -> None:
        seconds = self._times.seconds
        tiers = {
            "words": [
                Interval(seconds(s.start), seconds(s.start + s.frames), word or "")
                for word, s in aligned.labelled_words
            ],
            "phones": [
                Interval(
                    seconds(p.start),
                    seconds(p.start + p.frames),
                    self._times.plain_phones[p.phone],
                )
                for p in aligned.phones
            ],
        }
        text = textgrid_text(tiers, seconds(aligned.frames))
        (self._folder / textgrid_name(aligned.utterance)).write_text(text, encoding="utf-8")


class _JsonSink:
    """JSON lines, an object an utterance; times are seconds from the utterance's start."""

    def __init__(self, out_dir: Path, times: _Times, stack: ExitStack) -> None:
        self.names = [JSON_FILE]
        self._times = times
        self._file = _open(out_dir / JSON_FILE, stack)

    def write(self, aligned: AlignedUtterance) -> None:
        tree: dict[str, Any] = {
            "utterance": aligned.utterance,
            "speaker": aligned.speaker,
            "start": 0.0,
            "end": self._times.seconds(aligned.frames),
        }
        segment = self._times.segment(aligned.utterance)
        if segment is not None:
            tree["recording"] = segment.recording
            tree["recording_start"] = segment.start
        speed = self._times.speed(aligned.utterance)
        if speed != AS_RECORDED:
            tree["speed"] = speed
        tree |= {
            "frames": aligned.frames,
            "score": round(aligned.score, 4),
            "retried": aligned.retried,
            "words": [
                self._word(word, part, aligned.frame_scores)
                for word, part in aligned.labelled_words
                if word is not None
            ],
            "phones": self._phones(aligned.phones),
        }
        self._file.write(json.dumps(tree, ensure_ascii=False) + "\n")

    def _word(
        self, word: str, part: WordSegment, frame_scores: NDArray[np.floating] | None
    ) -> dict[str, Any]:
        tree: dict[str, Any] = {"word": word, **self._interval(part)}
        if frame_scores is not None:
            scores = frame_scores[part.start : part.start + part.frames]
            tree["score"] = round(float(np.mean(scores)), 4)
        return tree | {"phones": self._phones(part.phones)}

    def _phones(self, phones: Iterable[PhoneSegment]) -> list[dict[str, Any]]:
        return [{"phone": self._times.phones[p.phone], **self._interval(p)} for p in phones]

    def _interval(self, part: WordSegment | PhoneSegment) -> dict[str, float]:
        seconds = self._times.seconds
        return {"start": seconds(part.start), "end": seconds(part.start + part.frames)}


class _ScoreSink:
    """``utterance log-likelihood-a-frame`` lines."""

    def __init__(self, out_dir: Path, times: _Times, stack: ExitStack) -> None:
        self.names = [SCORES_FILE]
        self._file = _open(out_dir / SCORES_FILE, stack)

    def write(self, aligned: AlignedUtterance) -> None:
        self._file.write(f"{aligned.utterance} {aligned.score:.4f}\n")


FORMATS: dict[str, Callable[[Path, _Times, ExitStack], _Sink]] = {
    "ctm": _CtmSink,
    "textgrid": _TextGridSink,
    "json": _JsonSink,
    "scores": _ScoreSink,
}
"""What `AlignmentWriter` can write."""

_ALL_FILES = {WORDS_CTM, PHONES_CTM, RECORDING_WORDS_CTM, RECORDING_PHONES_CTM, JSON_FILE}


def _open(path: Path, stack: ExitStack) -> TextIO:
    temporary = stack.enter_context(atomic_file(path))
    return stack.enter_context(open(temporary, "w", encoding="utf-8"))


def _without_position(name: str, place: str | None) -> str:
    """Take the mark of a phone's place in the word off its name."""
    return name[:-2] if place and _POSITION_MARKS.get(name[-2:]) == place else name


def textgrid_name(utterance: str) -> str:
    """Name of an utterance's TextGrid; a slash in its id, which no name can hold, becomes %2F."""
    return utterance.replace("%", "%25").replace("/", "%2F") + ".TextGrid"
