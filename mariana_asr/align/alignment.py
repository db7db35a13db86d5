"""Forced alignment with a trained model, and Kaldi's alignment files."""

import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mariana_asr.align.gmm import DiagGmms
from mariana_asr.align.graphs import GraphCompiler
from mariana_asr.align.model_io import (
    read_transition_model,
)
from mariana_asr.align.phone_tables import check_phones
from mariana_asr.align.transition_ids import (
    alignment_to_pdfs,
    alignment_to_phones,
    check_transition_ids,
    read_alignments,
)
from mariana_asr.align.tree_io import read_tree
from mariana_asr.align.utterances import (
    GmmAcousticModel,
    HasLogLikelihoods,
    TransitionScores,
    report_oov_words,
    split_in_chunks,
    usable_utterances,
)
from mariana_asr.align.viterbi import BeamOptions, ScaleOptions
from mariana_asr.archives import write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError
from mariana_asr.features.reading import iterate_features
from mariana_asr.files import atomic_file, write_text
from mariana_asr.lang.langdir import Lang
from mariana_asr.parallel import parallel_map
from mariana_asr.skipped import Skipped

__all__ = [
    "AlignOptions",
    "AlignSummary",
    "align",
    "alignment_to_pdfs",
    "alignment_to_phones",
    "check_transition_ids",
    "read_alignments",
]

logger = logging.getLogger(__name__)


class AlignOptions(BeamOptions, ScaleOptions):
    """Options of forced alignment, with the names and defaults of steps/align_si.sh."""

    boost_silence: float = Field(default=1.0, gt=0)
    """Factor on the likelihoods of silence."""


@dataclass(frozen=True)
class AlignSummary:
    """What an alignment gave.

    Attributes:
        utterances: Number of utterances aligned.
        frames: Number of their frames.
        log_likelihood_per_frame: Of the paths, transitions included, without the acoustic scale.
        retried: Number of utterances that took the retry beam.
        skipped: Number of utterances that could not be aligned.
    """

    utterances: int
    frames: int
    log_likelihood_per_frame: float
    retried: int
    skipped: int


def align(
    data: DataDir,
    lang: Lang,
    model_dir: str | Path,
    out_dir: str | Path,
    options: AlignOptions | None = None,
    *,
    jobs: int = 1,
    acoustic_model: HasLogLikelihoods | None = None,
) -> AlignSummary:
    """Align utterances to their transcripts.

    Writes ``ali.1.gz`` (transition ids), ``num_jobs``, ``scores.txt`` (each utterance's
    log-likelihood per frame), ``skipped.txt`` (utterances that failed, with the reason), and
    copies of ``tree``, ``final.mdl`` and ``phones.txt`` to ``out_dir``.

    Args:
        data: Features and transcripts.
        lang: Lexicon and phones, the same phones as the model's.
        model_dir: Directory with ``tree`` and ``final.mdl``.
        out_dir: Where the alignment goes.
        options: Beams and scales; None takes the defaults.
        jobs: Number of processes.
        acoustic_model: What gives likelihoods of the pdfs of ``final.mdl``; None takes the GMMs
            in it, on the features that ``front_end.json`` beside it describes.

    Raises:
        FormatError: A file of the model is missing or damaged; its phones differ from those of
            ``lang``; or the data's features are not those it was trained on.
        DataError: The data directory has no features.
        StageError: No utterance could be aligned.
    """
    model_dir, out_dir = Path(model_dir), Path(out_dir)
    options = options or AlignOptions()
    check_phones(lang, model_dir)
    if acoustic_model is None:
        acoustic_model = GmmAcousticModel.load(model_dir)
    front_end = acoustic_model.front_end
    front_end.check(data.path)
    report_oov_words(data, lang)
    out_dir.mkdir(parents=True, exist_ok=True)

    skipped = Skipped("alignment")
    usable = usable_utterances(data, front_end.transform, skipped)
    totals = _Totals()
    results = parallel_map(
        _align_chunk,
        split_in_chunks(data, usable),
        jobs=jobs,
        setup=_load_aligner,
        setup_arguments=(model_dir, lang, options, acoustic_model),
    )
    with (
        atomic_file(out_dir / "scores.txt") as temporary,
        open(temporary, "w", encoding="utf-8") as scores,
    ):
        aligned = write_int_vectors(
            out_dir / "ali.1.gz", _collect(results, totals, scores, skipped)
        )
    if not aligned:
        (out_dir / "ali.1.gz").unlink()
    skipped.finish(out_dir / "skipped.txt", aligned)
    write_text(out_dir / "num_jobs", "1\n")
    for name in ("tree", "final.mdl", "phones.txt"):
        source = lang.path / name if name == "phones.txt" else model_dir / name
        if source.resolve() != (out_dir / name).resolve():
            with atomic_file(out_dir / name) as temporary:
                shutil.copyfile(source, temporary)
    per_frame = totals.log_like / totals.frames
    logger.info("aligned %d utterances, log-likelihood %.3f a frame", aligned, per_frame)
    return AlignSummary(aligned, totals.frames, per_frame, totals.retried, len(skipped))


@dataclass
class _Totals:
    frames: int = 0
    log_like: float = 0.0
    retried: int = 0


def _collect(
    results: Iterable["_ChunkResult"], totals: _Totals, scores: TextIO, skipped: Skipped
) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Yield alignments as they come, and note everything else about them."""
    for result in results:
        for utterance, reason in result.failed.items():
            skipped.add(utterance, reason)
        for utterance, tids, log_like in result.aligned:
            scores.write(f"{utterance} {log_like / len(tids):.4f}\n")
            totals.frames += len(tids)
            totals.log_like += log_like
            yield utterance, tids
        totals.retried += result.retried


@dataclass
class _ChunkResult:
    aligned: list[tuple[str, NDArray[np.int32], float]]
    failed: dict[str, str]
    retried: int = 0


class _Aligner:
    """What a process loads once: graph compiler, transitions and acoustic model."""

    def __init__(
        self, model_dir: Path, lang: Lang, options: AlignOptions, acoustic_model: HasLogLikelihoods
    ) -> None:
        transition_model = read_transition_model(model_dir / "final.mdl")
        self._lang = lang
        self._options = options
        self._compiler = GraphCompiler(transition_model, read_tree(model_dir / "tree"), lang)
        self._front_end = acoustic_model.front_end
        self._scores: DiagGmms | HasLogLikelihoods = (
            acoustic_model.gmm if isinstance(acoustic_model, GmmAcousticModel) else acoustic_model
        )
        self._transitions = TransitionScores.of(
            transition_model,
            options,
            silence_phone=lang.optional_silence,
            boost_silence=options.boost_silence,
        )

    def align(self, data: DataDir) -> _ChunkResult:
        """Align the utterances of a part of the data."""
        skipped = Skipped("alignment")
        result = _ChunkResult([], skipped.reasons)
        for utterance, feats in iterate_features(
            data,
            self._front_end.transform,
            feature_dim=self._front_end.feature_dim,
            skipped=skipped,
        ):
            try:
                words = self._lang.transcript_to_ids(data.text[utterance])
                graph = self._compiler.compile(words)
                path = self._transitions.align(graph, feats, self._scores, self._options)
            except DataError as error:
                skipped.add(utterance, str(error))
                continue
            result.aligned.append((utterance, path.tids, path.log_like))
            result.retried += path.retried
        return result


_aligner: _Aligner | None = None


def _load_aligner(
    model_dir: Path, lang: Lang, options: AlignOptions, acoustic_model: HasLogLikelihoods
) -> None:
    global _aligner
    _aligner = _Aligner(model_dir, lang, options, acoustic_model)


def _align_chunk(data: DataDir) -> _ChunkResult:
    assert _aligner is not None  # parallel_map's setup has run
    return _aligner.align(data)
