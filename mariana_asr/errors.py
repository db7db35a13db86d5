"""Errors that a user can cause: each says what is wrong, where, and what to do about it.

The command line prints them without a traceback and exits with status 1.
"""

from collections.abc import Sequence
from pathlib import Path


class MarianaError(Exception):
    """Base of every error that a user can cause.

    Args:
        what: What went wrong, with the offending value.
        where: The file (``path`` or ``path:line``), key path or utterance at fault.
        remedy: What the user can do about it.
    """

    def __init__(
        self, what: str, *, where: str | Path | None = None, remedy: str | None = None
    ) -> None:
        """Keep the three parts apart, so that callers can add a place to an error."""
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        """One line, ``where: what. remedy``; a list of problems keeps its own lines."""
        text = f"{self.where}: {self.what}" if self.where is not None else self.what
        separator = "\n" if "\n" in self.what else ". "
        return f"{text}{separator}{self.remedy}" if self.remedy else text


class DataError(MarianaError):
    """Recordings, transcripts or tables of a data directory are wrong."""


class FormatError(MarianaError):
    """A file is not in the format that it should be in."""


class RecipeError(MarianaError):
    """A recipe, or an option given on the command line, is wrong."""


class StageError(MarianaError):
    """A stage could not produce what it is there for."""


class MissingPackageError(MarianaError):
    """A package that this function needs is not installed, or has an unusable version."""


def summarise(items: Sequence[str], limit: int = 5) -> str:
    """Join the first few items for a message: ``a, b, c and 7 more``."""
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 problem``, ``2 problems``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
