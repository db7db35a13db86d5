"""Utterances whose alignment looks wrong, so that their transcripts or recordings may be.

An utterance is held against the others: how well its path scores, as a whole and where it scores
worst, how fast its words are said, how long its phones last. Deviations are robust, so that the
bad utterances that are sought do not widen the measure they are found with.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mariana_asr.align.output.aligned_utterance import AlignedUtterance
from mariana_asr.align.output.measures import (
    FEWEST_VALUES,
    Measurer,
    Measures,
    Stretch,
    deviations,
    group_medians,
    robust_deviation,
)
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.files import write_json, write_text
from mariana_asr.lang.langdir import Lang
from mariana_asr.options import Options

SUSPECTS_TABLE = "suspects.txt"
SUSPECTS_JSON = "suspects.json"

_MOST_FOR_ONE_REASON = 5.0
"""What a single reason can add to how suspicious an utterance is."""


class SuspectOptions(Options):
    """When an utterance counts as suspicious."""

    score_deviations: float = Field(default=3.5, gt=0)
    """Its log-likelihood a frame is so many deviations below the median, of all utterances or of
    its speaker's; or that of its worst stretch below other utterances' worst."""
    stretch: float = Field(default=0.25, gt=0)
    """Seconds in the worst stretch: as long as a short word, which may be wrong by itself."""
    min_speaker_utterances: int = Field(default=5, ge=2)
    """A speaker with fewer utterances is only compared with everybody."""
    rate_deviations: float = Field(default=3.5, gt=0)
    """Its phones a second of speech are so many deviations above or below the median, on a scale
    of logarithms."""
    phone_deviations: float = Field(default=5.0, gt=0)
    """One of its phones lasts so many deviations longer than is usual for that phone, on a scale
    of logarithms."""
    short_run: int = Field(default=4, ge=2)
    """So many of its phones in a row take the HMM's shortest path, as they do where words are
    aligned that were not said."""
    short_words: int = Field(default=2, ge=1)
    """So many of its words have only such phones."""
    max_silence: float = Field(default=1.5, gt=0)
    """A silence between its words lasts longer than so many seconds."""


@dataclass(frozen=True)
class Reason:
    """One thing that is wrong with an utterance.

    Attributes:
        kind: ``failed``, ``score``, ``stretch``, ``rate``, ``long_phone``, ``short_run``,
            ``short_words``, ``silence`` or ``retry``.
        weight: How far it is beyond what the options allow: 1 is just there, 5 the most.
        text: For people.
        start: Where in the utterance, in seconds; None where it is the whole.
        end: Where that ends.
    """

    kind: str
    weight: float
    text: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Suspect:
    """A suspicious utterance.

    Attributes:
        utterance: Its id.
        speaker: Its speaker's id; empty where it is not known.
        suspicion: Sum of the reasons' weights; None where the utterance could not be aligned.
        score: Log-likelihood a frame; None where it could not be aligned.
        reasons: What is wrong, the weightiest first.
        transcript: What it is said to say.
    """

    utterance: str
    speaker: str
    suspicion: float | None
    score: float | None
    reasons: list[Reason]
    transcript: str


class SuspectFinder:
    """Takes the alignments of a corpus one by one, then tells the suspicious ones."""

    def __init__(
        self, lang: Lang, data: DataDir, frame_shift: float, options: SuspectOptions | None = None
    ) -> None:
        """Prepare for the alignments of a data directory.

        Args:
            lang: Phones that it was aligned with.
            data: Speakers and transcripts.
            frame_shift: Seconds from one frame to the next.
            options: Thresholds; None takes the defaults.

        Raises:
            FormatError: The lang directory's topology is damaged.
        """
        self._data = data
        self._shift = frame_shift
        self._options = options or SuspectOptions()
        self._names = {number: name for name, number in lang.phones.items()}
        self._measurer = Measurer(lang, max(1, round(self._options.stretch / frame_shift)))
        self._measures: list[Measures] = []
        self._durations: dict[int, Counter[int]] = defaultdict(Counter)

    def add(self, aligned: AlignedUtterance) -> None:
        """Take an alignment into account; it is not kept."""
        for phone in aligned.phones:
            if self._measurer.is_speech(phone.phone):
                self._durations[phone.phone][phone.frames] += 1
        self._measures.append(self._measurer.measure(aligned))

    def suspects(self, failed: Mapping[str, str] | None = None) -> list[Suspect]:
        """Tell the suspicious utterances, the worst first.

        Args:
            failed: Utterances that could not be aligned to the reason; they come first of all.
        """
        reasons: dict[str, list[Reason]] = defaultdict(list)
        for finder in (
            self._low_scores,
            self._bad_stretches,
            self._extreme_rates,
            self._long_phones,
            self._oddities,
        ):
            for utterance, reason in finder():
                reasons[utterance].append(reason)
        scores = {measures.utterance: measures.score for measures in self._measures}
        odd = [
            Suspect(
                utterance,
                self._data.utt2spk[utterance],
                round(sum(reason.weight for reason in listed), 2),
                round(scores[utterance], 4),
                sorted(listed, key=lambda reason: -reason.weight),
                self._data.text[utterance],
            )
            for utterance, listed in reasons.items()
        ]
        odd.sort(key=lambda suspect: (-(suspect.suspicion or 0.0), suspect.utterance))
        return [
            Suspect(
                utterance,
                self._data.utt2spk.get(utterance, ""),
                None,
                None,
                [Reason("failed", _MOST_FOR_ONE_REASON, f"not aligned: {reason}")],
                self._data.text.get(utterance, ""),
            )
            for utterance, reason in sorted((failed or {}).items())
        ] + odd

    def write(self, out_dir: str | Path, failed: Mapping[str, str] | None = None) -> list[Suspect]:
        """Write ``suspects.txt`` and ``suspects.json``, and tell what is in them."""
        suspects = self.suspects(failed)
        write_text(Path(out_dir) / SUSPECTS_TABLE, _table(suspects))
        tree: dict[str, Any] = {
            "aligned": len(self._measures),
            "failed": len(failed or {}),
            "options": self._options.model_dump(),
            "suspects": [asdict(suspect) for suspect in suspects],
        }
        write_json(Path(out_dir) / SUSPECTS_JSON, tree)
        return suspects

    def _low_scores(self) -> Iterator[tuple[str, Reason]]:
        scores = np.array([measures.score for measures in self._measures])
        everybody = deviations(scores)
        among_own, known = self._deviations_among_own(scores)
        for at, measures in enumerate(self._measures):
            below = max(-everybody[at], -among_own[at])
            if below >= self._options.score_deviations:
                text = f"score {measures.score:.2f}, {everybody[at]:+.1f} deviations from all"
                text += f", {among_own[at]:+.1f} from the speaker's" if known[at] else ""
                yield (
                    measures.utterance,
                    _reason("score", below / self._options.score_deviations, text),
                )

    def _deviations_among_own(
        self, scores: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Deviations from the speaker's median, and for which utterances they can be told."""
        speakers = [self._data.utt2spk[measures.utterance] for measures in self._measures]
        count = Counter(speakers)
        fewest = self._options.min_speaker_utterances
        known = np.array([count[speaker] >= fewest for speaker in speakers], dtype=bool)
        result = np.zeros(len(scores))
        if known.any():
            result[known] = deviations((scores - group_medians(scores, speakers))[known])
        return result, known

    def _bad_stretches(self) -> Iterator[tuple[str, Reason]]:
        judged = [
            (measures, measures.worst) for measures in self._measures if measures.worst is not None
        ]
        below = -deviations(np.array([measures.worst_score for measures, _ in judged]))
        for (measures, stretch), z in zip(judged, below, strict=True):
            weight = z / self._options.score_deviations
            if weight >= 1.0:
                text = f"score {measures.worst_score:.2f} {self._place(stretch)}"
                text += (
                    f" ({measures.worst_words}), {-z:+.1f} deviations from other worst stretches"
                )
                yield measures.utterance, self._reason_at("stretch", weight, text, stretch)

    def _extreme_rates(self) -> Iterator[tuple[str, Reason]]:
        spoken = [measures for measures in self._measures if measures.speech_frames]
        rates = np.array([m.phones / (m.speech_frames * self._shift) for m in spoken])
        for measures, rate, z in zip(spoken, rates, deviations(np.log(rates)), strict=True):
            weight = abs(z) / self._options.rate_deviations
            if weight >= 1.0:
                text = f"{rate:.1f} phones a second, {z:+.1f} deviations from all"
                yield measures.utterance, _reason("rate", weight, text)

    def _long_phones(self) -> Iterator[tuple[str, Reason]]:
        usual = _usual_durations(self._durations)
        for measures in self._measures:
            for phone in measures.longest:
                if phone.phone not in usual:
                    continue
                median, deviation = usual[phone.phone]
                z = (math.log(phone.frames) - median) / deviation
                weight = z / self._options.phone_deviations
                if weight >= 1.0:
                    stretch = Stretch(phone.start, phone.frames)
                    text = f"{self._names[phone.phone]} {self._place(stretch)} lasts "
                    text += f"{phone.frames * self._shift:.2f} s, {z:+.1f} deviations from usual"
                    yield measures.utterance, self._reason_at("long_phone", weight, text, stretch)

    def _oddities(self) -> Iterator[tuple[str, Reason]]:
        """What is wrong whatever the other utterances are like."""
        options = self._options
        for measures in self._measures:
            if measures.short_run_phones >= options.short_run:
                place = self._place(measures.short_run)
                text = f"{measures.short_run_phones} phones at minimal duration {place}"
                weight = measures.short_run_phones / options.short_run
                yield (
                    measures.utterance,
                    self._reason_at("short_run", weight, text, measures.short_run),
                )
            if measures.short_words >= options.short_words:
                text = f"{measures.short_words} words at minimal duration"
                weight = measures.short_words / options.short_words
                yield measures.utterance, _reason("short_words", weight, text)
            silence = measures.pause.frames * self._shift
            if silence > options.max_silence:
                text = f"silence of {silence:.2f} s {self._place(measures.pause)}"
                weight = silence / options.max_silence
                yield measures.utterance, self._reason_at("silence", weight, text, measures.pause)
            if measures.retried:
                yield measures.utterance, Reason("retry", 1.0, "took the retry beam")

    def _place(self, stretch: Stretch) -> str:
        end = (stretch.start + stretch.frames) * self._shift
        return f"at {stretch.start * self._shift:.2f}-{end:.2f} s"

    def _reason_at(self, kind: str, weight: float, text: str, stretch: Stretch) -> Reason:
        start, end = stretch.start, stretch.start + stretch.frames
        return _reason(
            kind, weight, text, round(start * self._shift, 6), round(end * self._shift, 6)
        )


def _reason(
    kind: str, weight: float, text: str, start: float | None = None, end: float | None = None
) -> Reason:
    return Reason(kind, round(min(float(weight), _MOST_FOR_ONE_REASON), 2), text, start, end)


def _usual_durations(durations: Mapping[int, Counter[int]]) -> dict[int, tuple[float, float]]:
    """Median and robust deviation of the log duration of each phone that is frequent enough.

    A phone's deviation is taken to be that of all phones about their medians at least: one that is
    mostly short may yet be long in a few words, and whole frames make small deviations coarse.
    """
    logs = {
        phone: np.log(np.repeat(list(lengths.keys()), list(lengths.values())))
        for phone, lengths in durations.items()
        if lengths.total() >= FEWEST_VALUES
    }
    if not logs:
        return {}
    centred = np.concatenate([values - np.median(values) for values in logs.values()])
    common = max(robust_deviation(centred), 0.1)
    return {
        phone: (float(np.median(values)), max(robust_deviation(values), common))
        for phone, values in logs.items()
    }


def _table(suspects: Sequence[Suspect]) -> str:
    """The suspects in columns: utterance, speaker, suspicion, score and the reasons."""
    rows = [("# utterance", "speaker", "suspicion", "score", "reasons")]
    for suspect in suspects:
        rows.append(
            (
                suspect.utterance,
                suspect.speaker or "-",
                "failed" if suspect.suspicion is None else f"{suspect.suspicion:.2f}",
                "-" if suspect.score is None else f"{suspect.score:.4f}",
                "; ".join(reason.text for reason in suspect.reasons),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for *cells, reasons in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, reasons]) + "\n")
    return "".join(lines)
