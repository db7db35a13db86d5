"""Utterances that a stage leaves out: counted, listed in a file and reported, never in silence."""

import logging
from collections.abc import Iterable
from pathlib import Path

from mariana_asr.errors import StageError, summarise
from mariana_asr.files import write_text

logger = logging.getLogger(__name__)


class Skipped:
    """The utterances that one run of a stage left out, each with its reason."""

    def __init__(self, stage: str) -> None:
        """``stage`` names the work in messages, for example ``feature extraction``."""
        self.stage = stage
        self.reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, utterance: str, reason: str) -> None:
        """Note that an utterance is left out."""
        self.reasons[utterance] = " ".join(reason.split())

    def finish(self, path: str | Path, done: Iterable[object] | int) -> None:
        """Write ``utterance reason`` lines to ``path`` and report the counts.

        The file is written even when nothing was skipped, so that an old one never misleads.

        Raises:
            StageError: No utterance at all was done.
        """
        count = done if isinstance(done, int) else sum(1 for _ in done)
        lines = [f"{utterance} {reason}\n" for utterance, reason in sorted(self.reasons.items())]
        write_text(path, "".join(lines))
        if not count:
            raise StageError(
                f"{self.stage}: none of {len(self)} utterances could be used",
                where=path,
                remedy="; ".join(line.strip() for line in lines[:3]),
            )
        if self.reasons:
            logger.warning(
                "%s: %d done, %d skipped (%s); reasons in %s",
                self.stage,
                count,
                len(self),
                summarise(sorted(self.reasons)),
                path,
            )
