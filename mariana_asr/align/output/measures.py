"""What an alignment is judged by: how well it scores, how fast its words are, what lasts long."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.output.aligned_utterance import AlignedUtterance
from mariana_asr.align.output.segments import PhoneSegment
from mariana_asr.lang.langdir import Lang

FEWEST_VALUES = 10
"""Values that a median and a deviation are taken over, at least."""

_LONGEST_KEPT = 3
_SIGMA_PER_MAD = 1.4826


class Stretch(NamedTuple):
    """A part of an utterance, in frames."""

    start: int
    frames: int


@dataclass(frozen=True, slots=True)
class Measures:
    """What is kept of an utterance: the same amount however long it is.

    Attributes:
        utterance: Its id.
        score: Log-likelihood a frame.
        retried: Whether only the retry beam found a path.
        phones: Number of phones of speech.
        speech_frames: Number of their frames.
        longest: Its longest phones of speech, the longest first.
        short_words: Number of words all of whose phones take the HMM's shortest path.
        short_run: The longest run of such phones; zero frames where there is none.
        short_run_phones: Number of phones in it.
        pause: The longest silence between words; zero frames where there is none.
        worst: The stretch whose log-likelihood is the lowest; None where that of the frames is
            not known.
        worst_score: Its log-likelihood a frame.
        worst_words: The words that it touches.
    """

    utterance: str
    score: float
    retried: bool
    phones: int
    speech_frames: int
    longest: tuple[PhoneSegment, ...]
    short_words: int
    short_run: Stretch
    short_run_phones: int
    pause: Stretch
    worst: Stretch | None
    worst_score: float
    worst_words: str


class Measurer:
    """Takes the measures of alignments."""

    def __init__(self, lang: Lang, stretch: int) -> None:
        """Prepare for the phones of a lang directory.

        Args:
            lang: Phones and their HMMs.
            stretch: Frames in the stretch that is sought as the worst.

        Raises:
            FormatError: The lang directory's topology is damaged.
        """
        self._silence = frozenset(lang.silence_phones)
        self._stretch = stretch
        topology = lang.topology()
        self._shortest = {phone: topology.min_length(phone) for phone in lang.nonsilence_phones}

    def is_speech(self, phone: int) -> bool:
        """Whether a phone is none of the silence and noise phones."""
        return phone not in self._silence

    def measure(self, aligned: AlignedUtterance) -> Measures:
        """Take the measures of one alignment."""
        phones = list(aligned.phones)
        speech = [phone for phone in phones if self.is_speech(phone.phone)]
        run = max(
            (list(group) for short, group in groupby(phones, self._is_short) if short),
            key=len,
            default=[],
        )
        pauses = [Stretch(w.start, w.frames) for w in aligned.words[1:-1] if not w.word]
        worst = None
        worst_score, worst_words = 0.0, ""
        if aligned.frame_scores is not None:
            worst, worst_score = worst_stretch(aligned.frame_scores, self._stretch)
            worst_words = " ".join(_words_within(aligned, worst))
        return Measures(
            utterance=aligned.utterance,
            score=aligned.score,
            retried=aligned.retried,
            phones=len(speech),
            speech_frames=sum(phone.frames for phone in speech),
            longest=tuple(nlargest(_LONGEST_KEPT, speech, key=lambda phone: phone.frames)),
            short_words=sum(all(map(self._is_short, word.phones)) for word in aligned.words),
            short_run=Stretch(run[0].start, sum(phone.frames for phone in run))
            if run
            else Stretch(0, 0),
            short_run_phones=len(run),
            pause=max(pauses, key=lambda pause: pause.frames, default=Stretch(0, 0)),
            worst=worst,
            worst_score=worst_score,
            worst_words=worst_words,
        )

    def _is_short(self, phone: PhoneSegment) -> bool:
        return self.is_speech(phone.phone) and phone.frames <= self._shortest[phone.phone]


def worst_stretch(frame_scores: NDArray[np.floating], frames: int) -> tuple[Stretch, float]:
    """Find the stretch of so many frames whose mean score is the lowest.

    Args:
        frame_scores: Log-likelihoods of the frames, shape (T,).
        frames: Its length; an utterance that is shorter is taken as a whole.

    Returns:
        The first such stretch, and its mean.
    """
    frames = min(frames, len(frame_scores))
    sums = np.concatenate([[0.0], np.cumsum(frame_scores, dtype=np.float64)])
    means = (sums[frames:] - sums[:-frames]) / frames
    start = int(np.argmin(means))
    return Stretch(start, frames), float(means[start])


def deviations(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distances from the median in robust standard deviations, shape (N,) to (N,).

    A robust deviation is the median absolute deviation, scaled to equal the standard deviation of
    normally distributed values. Zeros where there are too few values to tell, or where more than
    half of them are the same.
    """
    if len(values) < FEWEST_VALUES:
        return np.zeros(len(values))
    centred = values - np.median(values)
    scale = robust_deviation(values)
    return centred / scale if scale > 0 else np.zeros(len(values))


def robust_deviation(values: NDArray[np.floating]) -> float:
    """Median absolute deviation, scaled to a standard deviation."""
    return _SIGMA_PER_MAD * float(np.median(np.abs(values - np.median(values))))


def group_medians(values: NDArray[np.floating], groups: Sequence[str]) -> NDArray[np.float64]:
    """The median of each value's group, shape (N,)."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[group] for group in groups], dtype=np.int64)
    order = np.argsort(index, kind="stable")
    parts = np.split(values[order], np.cumsum(np.bincount(index))[:-1])
    return np.array([np.median(part) for part in parts])[index]


def _words_within(aligned: AlignedUtterance, stretch: Stretch) -> Iterable[str]:
    end = stretch.start + stretch.frames
    for word, segment in aligned.labelled_words:
        if segment.start < end and segment.start + segment.frames > stretch.start:
            yield word or "[silence]"
