"""What comes of decoding utterances, and the files that it goes to."""

import gzip
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from mariana_asr.align.transforms.fmllr import FmllrResult
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.errors import DataError
from mariana_asr.files import atomic_file


@dataclass(frozen=True)
class Batch:
    """What a process takes at once: an utterance, or all of a speaker."""

    speaker: str
    utterances: list[str]


@dataclass(frozen=True)
class UtteranceResult:
    """What a process sends back: hypotheses by setting, or the reason why there are none.

    Attributes:
        utterance: Its id.
        hypotheses: Its words for each setting of the options.
        reason: Why there are no hypotheses.
        partial: Whether the search ended in no final state of the graph.
        frames: Number of its frames.
        lattice: Where the bytes of its lattice are, if they are wanted.
    """

    utterance: str
    hypotheses: list[str] | None = None
    reason: str = ""
    partial: bool = False
    frames: int = 0
    lattice: Path | None = None

    @classmethod
    def failed(cls, utterance: str, error: DataError) -> "UtteranceResult":
        """The result of an utterance that cannot be decoded."""
        return cls(utterance, reason=str(error).removeprefix(f"{utterance}: "))


@dataclass(frozen=True)
class BatchResult:
    """What came of a batch.

    Attributes:
        utterances: Their results, in the order that they were given in.
        seconds: Time that it took.
        transforms: The speaker's fMLLR transform, where the model was adapted.
    """

    utterances: list[UtteranceResult]
    seconds: float
    transforms: dict[str, FmllrResult] = field(default_factory=dict)


def hypothesis_file(decode_dir: str | Path, lm_weight: float, penalty: float) -> Path:
    """Where ``decode`` puts the hypotheses of one language-model weight and penalty."""
    return Path(decode_dir) / "hyp" / f"{lm_weight:g}_{penalty:g}.txt"


class ResultFiles:
    """The files of hypotheses and lattices; they appear when all utterances are done."""

    def __init__(self, out_dir: Path, options: DecodeOptions, utterances: list[str]) -> None:
        """``utterances`` gives the order of the lines."""
        self._out_dir = out_dir
        self._options = options
        self._expected = iter(utterances)
        self._next = next(self._expected, None)
        self._early: dict[str, UtteranceResult] = {}
        self._stack = ExitStack()
        self._hypotheses: list[IO[str]] = []
        self._lattices: gzip.GzipFile | None = None

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        try:
            for weight, penalty in self._options.settings:
                path = enter(atomic_file(hypothesis_file(self._out_dir, weight, penalty)))
                self._hypotheses.append(enter(open(path, "w", encoding="utf-8")))
            if self._options.write_lattices:
                path = enter(atomic_file(self._out_dir / "lat.1.gz"))
                self._lattices = enter(gzip.open(path, "wb", compresslevel=3))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, result: UtteranceResult) -> None:
        """Add an utterance; it is held back until those before it have come.

        They come in order but where a speaker's utterances do not stand together.
        """
        self._early[result.utterance] = result
        while self._next is not None and self._next in self._early:
            self._write(self._early.pop(self._next))
            self._next = next(self._expected, None)

    def _write(self, result: UtteranceResult) -> None:
        hypotheses = result.hypotheses or [""] * len(self._hypotheses)
        for file, words in zip(self._hypotheses, hypotheses, strict=True):
            file.write(f"{result.utterance} {words}".rstrip() + "\n")
        if self._lattices is not None and result.lattice is not None:
            self._lattices.write(result.utterance.encode() + b" " + result.lattice.read_bytes())
            result.lattice.unlink()
