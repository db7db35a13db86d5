"""Where log messages go: the terminal and log files, of this process and of those it starts."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

PACKAGE = "mariana_asr"

_LINE = "%(asctime)s %(levelname)s %(message)s"
_TIME = "%Y-%m-%d %H:%M:%S"


def start_logging(level: int = logging.INFO, *, prefix: str = "") -> None:
    """Send log messages to standard error: coloured on a terminal, plain lines elsewhere.

    ``prefix`` begins every line, where several processes write to one terminal.
    """
    handler: logging.Handler
    if sys.stderr.isatty() and not prefix:
        handler = RichHandler(
            console=Console(stderr=True), show_path=False, omit_repeated_times=False, markup=False
        )
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(prefix + _LINE, _TIME))
    logger = logging.getLogger(PACKAGE)
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def log_to_file(path: Path) -> None:
    """Append log messages to a file as plain lines, beside those on the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_LINE, _TIME))
    logging.getLogger(PACKAGE).addHandler(handler)


@dataclass(frozen=True)
class LogTargets:
    """What a process has to know to log where another one does."""

    level: int
    files: tuple[str, ...]

    @classmethod
    def of_this_process(cls) -> "LogTargets":
        """The level and the files that messages go to here."""
        logger = logging.getLogger(PACKAGE)
        files = [h.baseFilename for h in logger.handlers if isinstance(h, logging.FileHandler)]
        return cls(logger.getEffectiveLevel(), tuple(files))

    def take_over(self) -> None:
        """Log there from this process, too."""
        start_logging(self.level)
        for path in self.files:
            log_to_file(Path(path))
