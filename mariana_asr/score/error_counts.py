"""Counting recognition errors: words or characters that differ from the reference."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import kaldialign

from mariana_asr.errors import DataError, summarise

logger = logging.getLogger(__name__)

Unit = Literal["word", "char"]
"""What is counted: words, or characters without the spaces between words."""


@dataclass(frozen=True)
class ErrorCounts:
    """Errors of hypotheses against references.

    Attributes:
        errors: Least number of insertions, deletions and substitutions, summed over utterances.
        tokens: Words or characters in the references.
        ins: Insertions. How the errors split into the three kinds depends on ties between equally
            short alignments; their sum does not.
        del_: Deletions.
        sub: Substitutions.
        utterances: Number of references.
        wrong_utterances: Utterances with at least one error.
    """

    errors: int = 0
    tokens: int = 0
    ins: int = 0
    del_: int = 0
    sub: int = 0
    utterances: int = 0
    wrong_utterances: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        """Counts of both together."""
        return ErrorCounts(
            self.errors + other.errors,
            self.tokens + other.tokens,
            self.ins + other.ins,
            self.del_ + other.del_,
            self.sub + other.sub,
            self.utterances + other.utterances,
            self.wrong_utterances + other.wrong_utterances,
        )

    @property
    def percent(self) -> float:
        """Errors in percent of the references' tokens; infinite for errors against no tokens."""
        if self.tokens == 0:
            return math.inf if self.errors else 0.0
        return 100.0 * self.errors / self.tokens


def tokenize(text: str, unit: Unit) -> list[str]:
    """Split a transcript into words at white space, or into characters without white space."""
    words = text.split()
    return words if unit == "word" else list("".join(words))


def count_errors(reference: str, hypothesis: str, unit: Unit = "word") -> ErrorCounts:
    """Count the errors of one utterance: the Levenshtein distance, as Kaldi's compute-wer does."""
    wanted, given = tokenize(reference, unit), tokenize(hypothesis, unit)
    counts = kaldialign.edit_distance(wanted, given)
    return ErrorCounts(
        errors=counts["total"],
        tokens=len(wanted),
        ins=counts["ins"],
        del_=counts["del"],
        sub=counts["sub"],
        utterances=1,
        wrong_utterances=int(counts["total"] > 0),
    )


def score_texts(
    references: Mapping[str, str], hypotheses: Mapping[str, str], unit: Unit = "word"
) -> ErrorCounts:
    """Count the errors of a test set, as Kaldi's ``compute-wer --mode=all`` does.

    Every reference counts: an utterance without a hypothesis counts as deleted, with a warning.

    Args:
        references: Utterance to what was said.
        hypotheses: Utterance to what was recognised.
        unit: Whether words or characters are counted.

    Raises:
        DataError: There is no reference, or a hypothesis belongs to none.
    """
    if not references:
        raise DataError("there are no reference transcripts to score against")
    unknown = sorted(hypotheses.keys() - references.keys())
    if unknown:
        raise DataError(
            f"{len(unknown)} hypotheses have no reference transcript: {summarise(unknown)}",
            remedy="Score against the data directory that was decoded",
        )
    missing = sorted(references.keys() - hypotheses.keys())
    if missing:
        logger.warning(
            "%d of %d utterances have no hypothesis (%s); all their %ss count as deleted",
            len(missing),
            len(references),
            summarise(missing),
            "character" if unit == "char" else unit,
        )
    total = ErrorCounts()
    for utterance, reference in references.items():
        total += count_errors(reference, hypotheses.get(utterance, ""), unit)
    return total
