"""An utterance's alignment as words, phones and times."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import TransitionModel
from mariana_asr.align.output.segments import PhoneSegment, PhoneSplitter, WordAligner, WordSegment
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.lang.langdir import Lang

_DEFAULT_FRAME_SHIFT = 0.01


@dataclass(frozen=True, slots=True)
class AlignedUtterance:
    """What an alignment says of an utterance.

    Attributes:
        utterance: Its id.
        speaker: Its speaker's id.
        transcript: The words as the transcript writes them, unknown ones too.
        words: Words and the silences between them, in order; times are frames.
        frames: Number of frames.
        score: Log-likelihood a frame.
        retried: Whether only the retry beam found a path.
        frame_scores: Log-likelihood of each frame, shape (T,); None where they are not known.
    """

    utterance: str
    speaker: str
    transcript: tuple[str, ...]
    words: tuple[WordSegment, ...]
    frames: int
    score: float
    retried: bool
    frame_scores: NDArray[np.floating] | None = None

    @property
    def phones(self) -> Iterator[PhoneSegment]:
        """All phones in order, silences among them."""
        return (phone for segment in self.words for phone in segment.phones)

    @property
    def labelled_words(self) -> Iterator[tuple[str | None, WordSegment]]:
        """Words and silences in order, words as the transcript writes them, silences as None."""
        spoken = iter(self.transcript)
        return ((next(spoken) if segment.word else None, segment) for segment in self.words)


class UtteranceSegmenter:
    """Turns alignments of a data directory into words and phones."""

    def __init__(self, lang: Lang, transition_model: TransitionModel, data: DataDir) -> None:
        """Read the lexicon.

        Raises:
            FormatError: The lang directory's lexicon is missing or damaged.
        """
        self._lang = lang
        self._data = data
        self._splitter = PhoneSplitter(transition_model)
        self._aligner = WordAligner(lang)

    def segment(
        self,
        utterance: str,
        tids: NDArray[np.integer],
        score: float,
        retried: bool = False,
        frame_scores: NDArray[np.floating] | None = None,
    ) -> AlignedUtterance:
        """Cut an alignment into phones and words.

        Args:
            utterance: Its id.
            tids: Transition ids, shape (T,).
            score: Log-likelihood a frame.
            retried: Whether only the retry beam found a path.
            frame_scores: Log-likelihood of each frame, shape (T,), where known.

        Raises:
            DataError: The phones are not those of the utterance's transcript.
            FormatError: A number is no transition id of the model.
        """
        text = self._data.text[utterance]
        words = self._aligner.segment(
            self._lang.transcript_to_ids(text), self._splitter.split(tids)
        )
        return AlignedUtterance(
            utterance=utterance,
            speaker=self._data.utt2spk[utterance],
            transcript=tuple(text.split()),
            words=tuple(words),
            frames=len(tids),
            score=score,
            retried=retried,
            frame_scores=frame_scores,
        )


def frame_shift_seconds(features: Mapping[str, Any] | None) -> float:
    """Seconds from one frame to the next, by the options of the features (`FrontEnd.features`).

    Frames start at whole samples, so at 22.05 kHz a shift of 10 ms is one of 9.977 ms. Features
    from Kaldi, whose options are not known, are taken to have its default, 10 ms.
    """
    if features is None or "frame_shift" not in features:
        return _DEFAULT_FRAME_SHIFT
    seconds = float(features["frame_shift"]) * 0.001
    rate = float(features.get("sample_frequency", 0.0))
    return int(rate * seconds) / rate if rate else seconds
