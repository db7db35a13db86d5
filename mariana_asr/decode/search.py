"""The search of a graph for the lattice of an utterance."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.decode.graph import Graph
from mariana_asr.decode.lattice_file import RawLattice, lattice_from_bytes
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.errors import DataError, FormatError, MarianaError
from mariana_asr.kaldi import kaldi_decoder


class LatticeDecoder:
    """Searches a graph for the lattice of an utterance."""

    def __init__(
        self, graph: Graph, pdf_of_transition_id: NDArray[np.integer], options: DecodeOptions
    ) -> None:
        """``pdf_of_transition_id`` begins with the pdf of transition id 1."""
        self._graph = graph
        self._pdfs = pdf_of_transition_id
        self._options = options
        # The decoder's own determinisation is never used: get_raw_lattice comes before it.
        self._config = kaldi_decoder.LatticeSimpleDecoderConfig(
            beam=options.beam, lattice_beam=options.lattice_beam
        )

    def search(self, log_likelihoods: NDArray[np.float32], where: str) -> tuple[RawLattice, bool]:
        """Search the graph for the paths that go with the scores.

        Args:
            log_likelihoods: Log-likelihoods of pdfs, (T, P).
            where: The utterance, for messages.

        Returns:
            The lattice, with unscaled acoustic costs, and whether a final state of the graph was
            reached. If not, every state alive at the end counts as final, as with Kaldi's
            --allow-partial=true.

        Raises:
            DataError: There are no frames, scores are not finite, or no path survived.
            FormatError: The model scores fewer pdfs than its transition model has.
        """
        if log_likelihoods.shape[1] <= self._pdfs.max():
            raise FormatError(
                f"the acoustic model scores {log_likelihoods.shape[1]} pdfs, but its transition "
                f"model has pdf {self._pdfs.max()}",
                where=where,
                remedy="Put the final.mdl of the training alignments beside the network",
            )
        if not len(log_likelihoods):
            raise DataError("no frames", where=where)
        if not np.isfinite(log_likelihoods).all():
            frame = int(np.flatnonzero(~np.isfinite(log_likelihoods).all(axis=1))[0])
            raise DataError(f"NaN or infinite acoustic scores from frame {frame} on", where=where)
        scale = self._options.acoustic_scale
        scores = np.take(log_likelihoods * np.float32(scale), self._pdfs, axis=1)
        decoder = kaldi_decoder.LatticeSimpleDecoder(self._graph.fst, self._config)
        try:
            # It answers False as well where only no final state was reached, so look on.
            decoder.decode(kaldi_decoder.DecodableCtc(np.ascontiguousarray(scores)))
            _, lattice = decoder.get_raw_lattice()
        except RuntimeError as error:
            raise DataError(f"the decoder failed: {error}", where=where) from error
        if lattice.start < 0:
            raise DataError("no path survived the search", where=where, remedy="Widen the beam")
        with tempfile.NamedTemporaryFile(suffix=".lat") as file:
            if not lattice.write(file.name):
                raise MarianaError(
                    "cannot write a temporary file; is the disk full?", where=file.name
                )
            raw = lattice_from_bytes(Path(file.name).read_bytes(), where)
        return raw.scale_acoustic(1.0 / scale), bool(np.isfinite(decoder.final_relative_cost()))
