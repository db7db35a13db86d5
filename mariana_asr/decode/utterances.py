"""Decoding one utterance after the other."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.decode.graph import Graph
from mariana_asr.decode.lattice import Lattice, best_paths
from mariana_asr.decode.lattice_file import lattice_to_bytes
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.results import Batch, BatchResult, UtteranceResult
from mariana_asr.decode.scorers import Scorer
from mariana_asr.decode.search import LatticeDecoder
from mariana_asr.errors import DataError, MarianaError
from mariana_asr.features.front_end import SpeakerTransforms


@dataclass(frozen=True)
class ResultMaker:
    """Makes the result of an utterance of its lattice.

    Attributes:
        graph: What was searched.
        options: Weights to try, and whether lattices are wanted.
        scratch: A folder for lattices that are.
    """

    graph: Graph
    options: DecodeOptions
    scratch: Path

    def result(
        self, utterance: str, lattice: Lattice, *, frames: int, complete: bool
    ) -> UtteranceResult:
        """Find the best paths, and put the lattice aside if it is wanted.

        Raises:
            DataError: The lattice has no path.
        """
        paths = best_paths(lattice, self.options.settings)
        words = self.graph.words
        hypotheses = [" ".join(words[word] for word in path.words.tolist()) for path in paths]
        kept = None
        if self.options.write_lattices:
            with tempfile.NamedTemporaryFile(dir=self.scratch, delete=False) as file:
                kept = Path(file.name)
            write_scratch(kept, lattice_to_bytes(lattice.to_raw()))
        return UtteranceResult(
            utterance, hypotheses, partial=not complete, frames=frames, lattice=kept
        )


class UtteranceDecoder:
    """Decodes utterances, each for itself."""

    def __init__(
        self,
        data: DataDir,
        scorer: Scorer,
        graph: Graph,
        options: DecodeOptions,
        scratch: Path,
        speakers: SpeakerTransforms | None = None,
    ) -> None:
        """``scratch`` is a folder for lattices that are wanted; ``speakers`` are transforms."""
        self._data = data
        self._scorer = scorer
        self._speakers = speakers
        self._decoder = LatticeDecoder(graph, scorer.pdf_of_transition_id, options)
        self._maker = ResultMaker(graph, options, scratch)

    def decode(self, batch: Batch) -> BatchResult:
        """Decode some utterances."""
        began = time.perf_counter()
        results = [self._decode(utterance) for utterance in batch.utterances]
        return BatchResult(results, time.perf_counter() - began)

    def _decode(self, utterance: str) -> UtteranceResult:
        try:
            feats = self._scorer.front_end.read(self._data, utterance, self._speakers)
            raw, complete = self._decoder.search(self._scorer.log_likelihoods(feats), utterance)
            return self._maker.result(
                utterance, Lattice.from_raw(raw), frames=len(feats), complete=complete
            )
        except DataError as error:
            return UtteranceResult.failed(utterance, error)


def write_scratch(path: Path, content: bytes) -> None:
    """Write a file that only this run will read.

    Raises:
        MarianaError: It cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise MarianaError(f"cannot write: {error.strerror or error}", where=path) from error
