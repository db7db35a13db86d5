"""Decoding with a speaker-adapted model: two searches, with fMLLR of each speaker after each.

Follows Kaldi's steps/decode_fmllr.sh.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.transforms.fmllr import FmllrOptions, FmllrResult, FmllrStats, estimate_fmllr
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.decode.graph import Graph, read_silence_phones
from mariana_asr.decode.lattice import Lattice
from mariana_asr.decode.lattice_file import lattice_from_bytes, lattice_to_bytes
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.posteriors import Posteriors, lattice_posteriors
from mariana_asr.decode.results import Batch, BatchResult, UtteranceResult
from mariana_asr.decode.scorers import AdaptedModel
from mariana_asr.decode.search import LatticeDecoder
from mariana_asr.decode.utterances import ResultMaker, write_scratch
from mariana_asr.errors import DataError
from mariana_asr.features.linear import compose_affine

FIRST_LATTICE_BEAM = 6.0
"""Of the first search: the default of steps/decode.sh, which decode_fmllr.sh leaves as it is."""

SECOND_POSTERIOR_BEAM = 4.0
"""What lattices of the second search are pruned with before their posteriors are taken."""

Features = NDArray[np.float32]
Transforms = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Searched:
    """What the second search left of an utterance: its lattice, and whether it is complete."""

    lattice: Path
    complete: bool


class SpeakerDecoder:
    """Decodes all utterances of a speaker."""

    def __init__(
        self,
        data: DataDir,
        model: AdaptedModel,
        graph: Graph,
        options: DecodeOptions,
        scratch: Path,
    ) -> None:
        """``scratch`` is a folder for lattices: those of a speaker may be too large for memory.

        Raises:
            FormatError: The graph has no list of silence phones.
        """
        self._data = data
        self._model = model
        self._options = options
        self._scratch = scratch
        self._maker = ResultMaker(graph, options, scratch)
        self._pdfs = model.first.pdf_of_transition_id
        self._pdf_of_label = np.append(-1, self._pdfs)
        first = {"beam": options.first_beam, "lattice_beam": FIRST_LATTICE_BEAM}
        self._first = LatticeDecoder(graph, self._pdfs, options.model_copy(update=first))
        self._second = LatticeDecoder(graph, self._pdfs, options)
        silence = np.isin(model.phone_of_transition_id, read_silence_phones(graph.path))
        self._weights = np.where(silence, options.silence_weight, 1.0)
        self._fmllr = FmllrOptions(
            update_type=options.fmllr_update_type,
            min_count=options.fmllr_min_count,
            silence_weight=options.silence_weight,
        )

    def decode(self, batch: Batch) -> BatchResult:
        """Decode a speaker's utterances, adapted as far as they allow."""
        began = time.perf_counter()
        speaker, utterances = batch.speaker, batch.utterances
        failed: dict[str, UtteranceResult] = {}
        searched: dict[str, _Searched] = {}
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            first = self._estimate(
                self._first_pass(utterances, failed), posterior_gmms=self._model.first.gmms
            )
            left = [utterance for utterance in utterances if utterance not in failed]
            before = {speaker: first.matrix}
            second = self._estimate(self._second_pass(left, before, Path(folder), failed, searched))
            matrix = compose_affine(second.matrix, first.matrix)
            rescored = {
                utterance: self._rescore(utterance, found, {speaker: matrix})
                for utterance, found in searched.items()
            }
        results = {**failed, **rescored}
        estimated = first if first.adapted and not second.adapted else second
        return BatchResult(
            [results[utterance] for utterance in utterances],
            time.perf_counter() - began,
            {speaker: replace(estimated, matrix=matrix)},
        )

    def _first_pass(
        self, utterances: list[str], failed: dict[str, UtteranceResult]
    ) -> Iterator[tuple[Features, Posteriors]]:
        """Search with unadapted features."""
        for utterance in utterances:
            try:
                feats = self._model.front_end.read(self._data, utterance)
                raw, _ = self._first.search(self._model.first.log_likelihoods(feats), utterance)
                posteriors = self._posteriors(Lattice.from_raw(raw), FIRST_LATTICE_BEAM)
            except DataError as error:
                failed[utterance] = UtteranceResult.failed(utterance, error)
                continue
            yield feats, posteriors

    def _second_pass(
        self,
        utterances: list[str],
        transforms: Transforms,
        folder: Path,
        failed: dict[str, UtteranceResult],
        searched: dict[str, _Searched],
    ) -> Iterator[tuple[Features, Posteriors]]:
        """Search with adapted features, and put the lattices aside for rescoring."""
        for number, utterance in enumerate(utterances):
            try:
                feats = self._model.front_end.read(self._data, utterance, transforms)
                raw, complete = self._second.search(
                    self._model.gmms.log_likelihoods(feats), utterance
                )
                posteriors = self._posteriors(Lattice.from_raw(raw), SECOND_POSTERIOR_BEAM)
            except DataError as error:
                failed[utterance] = UtteranceResult.failed(utterance, error)
                continue
            searched[utterance] = _Searched(folder / f"{number}.lat", complete)
            write_scratch(searched[utterance].lattice, lattice_to_bytes(raw))
            yield feats, posteriors

    def _posteriors(self, lattice: Lattice, beam: float) -> Posteriors:
        """Posteriors of pdfs, those in silence with their weight."""
        posteriors = lattice_posteriors(
            lattice, acoustic_scale=self._options.acoustic_scale, beam=beam
        )
        return posteriors.weighted(self._weights).relabelled(self._pdf_of_label)

    def _estimate(
        self,
        utterances: Iterable[tuple[Features, Posteriors]],
        posterior_gmms: DiagGmms | None = None,
    ) -> FmllrResult:
        """Estimate a speaker's transform (Kaldi: gmm-est-fmllr, or gmm-est-fmllr-gpost)."""
        stats = FmllrStats.empty(self._model.gmms.dim)
        for feats, posteriors in utterances:
            stats.accumulate(
                self._model.gmms,
                feats[posteriors.frames],
                posteriors.labels,
                posteriors.weights,
                posterior_gmms=posterior_gmms,
            )
        return estimate_fmllr([stats], self._fmllr)[0]

    def _rescore(
        self, utterance: str, searched: _Searched, transforms: Transforms
    ) -> UtteranceResult:
        """Score a lattice again with the final features, and find its best paths."""
        try:
            feats = self._model.front_end.read(self._data, utterance, transforms)
            scores = self._model.gmms.log_likelihoods(feats)
            raw = lattice_from_bytes(searched.lattice.read_bytes(), utterance)
            lattice = Lattice.from_raw(raw).rescored(scores, self._pdfs)
            return self._maker.result(
                utterance, lattice, frames=len(feats), complete=searched.complete
            )
        except DataError as error:
            return UtteranceResult.failed(utterance, error)
