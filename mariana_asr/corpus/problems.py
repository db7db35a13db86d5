"""What is wrong with a data directory, as a list for people to work through."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data directory.

    Attributes:
        file: The file at fault; it may be missing.
        line: Its line, from 1; None where no single line is at fault.
        message: What is wrong, with the offending value.
        remedy: What to do about it.
        fixable: Whether ``fix_data_dir`` repairs it, if need be by dropping the utterance.
    """

    file: Path
    line: int | None
    message: str
    remedy: str
    fixable: bool = False

    def __str__(self) -> str:
        """One line: ``file:line: message. remedy``."""
        place = f"{self.file}:{self.line}" if self.line is not None else str(self.file)
        return f"{place}: {self.message}" + (f". {self.remedy}" if self.remedy else "")


class ProblemList:
    """Problems in the order of files and lines, at most ``limit`` of one kind in one file.

    A million lines with the same fault would bury the others; what goes over the limit is counted
    in one more problem.
    """

    def __init__(self, limit: int, files: Iterable[Path]) -> None:
        """List at most ``limit`` problems of one kind in one file; ``files`` gives their order."""
        self._limit = limit
        self._problems: list[tuple[int, int, Problem]] = []
        self._files = {file: place for place, file in enumerate(files)}
        self._counts: Counter[tuple[Path, str, bool]] = Counter()

    def add(
        self,
        file: Path,
        line: int | None,
        message: str,
        remedy: str,
        *,
        kind: str,
        fixable: bool = False,
    ) -> None:
        """Add a problem; ``kind`` names it in the plural (``duplicate ids``)."""
        self._counts[file, kind, fixable] += 1
        if self._counts[file, kind, fixable] > self._limit:
            return
        message = printable(message)
        order = self._files.setdefault(file, len(self._files))
        problem = Problem(file, line, message, remedy, fixable)
        self._problems.append((order, line or 0, problem))

    def finish(self) -> list[Problem]:
        """Return the problems, each file's in the order of its lines."""
        rest = [
            (self._files[file], 1 << 62, Problem(file, None, f"{more} more {kind}", "", fixable))
            for (file, kind, fixable), count in self._counts.items()
            if (more := count - self._limit) > 0
        ]
        return [p for _, _, p in sorted([*self._problems, *rest], key=lambda item: item[:2])]


def printable(text: str) -> str:
    """Escape bytes that are not UTF-8: they travel as lone surrogates, which cannot be printed."""
    return text.encode("utf-8", "backslashreplace").decode()
