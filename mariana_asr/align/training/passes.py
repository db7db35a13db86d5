"""Passes over the training data: what processes sum up of a chunk of utterances at a time."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.gmm.estimation import GmmStats
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.training.conversion import AlignmentConverter
from mariana_asr.align.training.corpus import (
    Chunk,
    TrainingCorpus,
    aligned_lines,
    read_corpus_model,
    spliced_features,
)
from mariana_asr.align.transforms.fmllr import (
    FmllrOptions,
    FmllrResult,
    FmllrStats,
    accumulate_speakers,
    estimate_speakers,
)
from mariana_asr.align.transforms.lda import LdaStats
from mariana_asr.align.transforms.mllt import MlltStats
from mariana_asr.align.tree.phones import PhoneTable
from mariana_asr.align.tree.statistics import TreeStats
from mariana_asr.align.utterances import TransitionScores
from mariana_asr.align.viterbi import BeamOptions
from mariana_asr.errors import DataError


@dataclass(frozen=True)
class PassModel:
    """What a process needs of the model to align and accumulate."""

    gmm: DiagGmms
    transitions: TransitionScores


@dataclass
class Realignment:
    """What a realignment gives.

    Attributes:
        log_like: Log-likelihood of the paths, transitions included.
        aligned: Number of utterances with a path.
        retried: Number of those that took the retry beam.
        failed: Utterances that could not be aligned, with the reason.
    """

    log_like: float = 0.0
    aligned: int = 0
    retried: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: "Realignment") -> None:
        """Add the result of other utterances."""
        self.log_like += other.log_like
        self.aligned += other.aligned
        self.retried += other.retried
        self.failed.update(other.failed)


@dataclass
class PassResult:
    """What one pass of Viterbi training gives.

    Attributes:
        stats: Statistics of the Gaussians.
        transition_counts: Frames of each transition id, (number of transition ids + 1,).
        realigned: The realignment that came first; nothing in it if there was none.
    """

    stats: GmmStats
    transition_counts: NDArray[np.float64]
    realigned: Realignment = field(default_factory=Realignment)

    @classmethod
    def empty(cls, model: PassModel) -> "PassResult":
        """The result of no utterances."""
        return cls(GmmStats.empty(model.gmm), np.zeros(len(model.transitions.pdfs)))

    def add(self, other: "PassResult") -> None:
        """Add the result of other utterances."""
        self.stats.add(other.stats)
        self.transition_counts += other.transition_counts
        self.realigned.add(other.realigned)


def gmm_pass(corpus: TrainingCorpus, model: PassModel, beams: BeamOptions | None) -> PassResult:
    """Sum up statistics of a model on the current alignments; first realign, if beams are given."""
    total = PassResult.empty(model)
    for _, result in corpus.map(_gmm_pass, (model, beams)):
        total.add(result)
    return total


def _gmm_pass(chunk: Chunk, shared: tuple[PassModel, BeamOptions | None]) -> PassResult:
    model, beams = shared
    result = PassResult.empty(model)
    if beams is not None:
        result.realigned = _realign(chunk, (model, beams))
    feats, tids, _ = _aligned_frames(chunk)
    pdfs = model.transitions.pdfs[tids]
    result.stats.accumulate(model.gmm, feats, pdfs, device=model.transitions.device)
    result.transition_counts += np.bincount(tids, minlength=len(model.transitions.pdfs))
    return result


def realign(corpus: TrainingCorpus, model: PassModel, beams: BeamOptions) -> Realignment:
    """Realign without summing up statistics."""
    total = Realignment()
    for _, result in corpus.map(_realign, (model, beams)):
        total.add(result)
    return total


def _realign(chunk: Chunk, shared: tuple[PassModel, BeamOptions]) -> Realignment:
    """Align a chunk anew; 0 stands for all frames of utterances without a path."""
    model, beams = shared
    result = Realignment()
    feats = chunk.features()
    tids = np.zeros(len(feats), dtype=np.int32)
    for line, graph in chunk.graphs():
        try:
            path = model.transitions.align(graph, feats[line.start : line.end], model.gmm, beams)
        except DataError as error:
            result.failed[line.utterance] = str(error)
            continue
        tids[line.start : line.end] = path.tids
        result.log_like += path.log_like
        result.aligned += 1
        result.retried += path.retried
    chunk.write_alignment(tids)
    return result


def _aligned_frames(
    chunk: Chunk, speech: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]]:
    """Features and transition ids of the frames that have one, and which frames these are.

    ``speech`` says for each transition id whether to take it; without it all are taken.
    """
    tids, feats = chunk.alignment(), chunk.features()
    kept = tids > 0 if speech is None else (tids > 0) & speech[tids]
    if kept.all():
        return np.asarray(feats), tids, kept
    return feats[kept], tids[kept], kept


def lda_pass(
    corpus: TrainingCorpus, classes: NDArray[np.int32], *, left: int, right: int
) -> LdaStats:
    """Sum up statistics for LDA of spliced features.

    Args:
        corpus: Unspliced features and their alignments.
        classes: Class of each transition id, -1 for those to leave out.
        left: Frames of left context.
        right: Frames of right context.
    """
    total: LdaStats | None = None
    for _, stats in corpus.map(_lda_pass, (classes, left, right)):
        if total is None:
            total = stats
        else:
            total.add(stats)
    assert total is not None, "a corpus has at least one chunk"
    return total


def _lda_pass(chunk: Chunk, shared: tuple[NDArray[np.int32], int, int]) -> LdaStats:
    classes, left, right = shared
    feats, tids = spliced_features(chunk, left, right), chunk.alignment()
    kept = (tids > 0) & (classes[tids] >= 0)
    stats = LdaStats.empty(int(classes.max()) + 1, feats.shape[1])
    stats.accumulate(feats[kept], classes[tids[kept]])
    return stats


def mllt_pass(corpus: TrainingCorpus, model: PassModel, speech: NDArray[np.bool_]) -> MlltStats:
    """Sum up statistics for MLLT over the frames whose transition ids are ``speech``."""
    total = MlltStats.empty(model.gmm.dim)
    for _, stats in corpus.map(_mllt_pass, (model, speech)):
        total.add(stats)
    return total


def _mllt_pass(chunk: Chunk, shared: tuple[PassModel, NDArray[np.bool_]]) -> MlltStats:
    model, speech = shared
    feats, tids, _ = _aligned_frames(chunk, speech)
    stats = MlltStats.empty(model.gmm.dim)
    stats.accumulate(model.gmm, feats, model.transitions.pdfs[tids])
    return stats


def fmllr_pass(
    corpus: TrainingCorpus, model: PassModel, speech: NDArray[np.bool_], options: FmllrOptions
) -> dict[str, FmllrResult]:
    """Estimate a transform of every speaker's current features.

    Args:
        corpus: Features and their alignments.
        model: The model that features are to be fitted to.
        speech: For each transition id whether it is no silence.
        options: How to estimate, and the weight of silence.

    Returns:
        Speaker to transform.
    """
    weights = np.where(speech, 1.0, options.silence_weight).astype(np.float32)
    parts = (stats for _, stats in corpus.map(_fmllr_pass, (model, weights)))
    return estimate_speakers(parts, corpus.speakers_of_chunks(), options)


def _fmllr_pass(
    chunk: Chunk, shared: tuple[PassModel, NDArray[np.float32]]
) -> dict[str, FmllrStats]:
    model, weights = shared
    feats, tids, kept = _aligned_frames(chunk)
    index = chunk.index()
    stats = {line.speaker: FmllrStats.empty(model.gmm.dim) for line in index}
    number = {speaker: place for place, speaker in enumerate(stats)}
    speakers = np.repeat(
        [number[line.speaker] for line in index], [line.end - line.start for line in index]
    )
    accumulate_speakers(
        list(stats.values()),
        speakers[kept],
        model.gmm,
        feats,
        model.transitions.pdfs[tids],
        weights[tids],
    )
    return stats


def unadapted_pass(corpus: TrainingCorpus, model: PassModel) -> GmmStats:
    """Statistics of unadapted features, with posteriors of the model on the adapted ones.

    The model that they give matches the adapted one Gaussian for Gaussian
    (Kaldi: gmm-acc-stats-twofeats).
    """
    total = GmmStats.empty(model.gmm)
    for _, stats in corpus.map(_unadapted_pass, model):
        total.add(stats)
    return total


def _unadapted_pass(chunk: Chunk, model: PassModel) -> GmmStats:
    feats, tids, kept = _aligned_frames(chunk)
    stats = GmmStats.empty(model.gmm)
    unadapted = chunk.unadapted_features()[kept]
    stats.accumulate(model.gmm, feats, model.transitions.pdfs[tids], summed=unadapted)
    return stats


def tree_pass(
    corpus: TrainingCorpus, table: PhoneTable, *, width: int, central: int
) -> tuple[TreeStats, list[str]]:
    """Sum up statistics of each phone in its context, for a decision tree.

    Returns:
        The statistics, and the utterances left out because their alignment is not a sequence of
        whole phones.
    """
    total: TreeStats | None = None
    left_out: list[str] = []
    for _, (stats, bad) in corpus.map(_tree_pass, (table, width, central)):
        left_out += bad
        if total is None:
            total = stats
        else:
            total.add(stats)
    assert total is not None, "a corpus has at least one chunk"
    return total, left_out


def _tree_pass(chunk: Chunk, shared: tuple[PhoneTable, int, int]) -> tuple[TreeStats, list[str]]:
    table, width, central = shared
    feats, tids, _ = _aligned_frames(chunk)
    lines = aligned_lines(chunk)
    lengths = [line.end - line.start for line in lines]
    starts = np.cumsum([0, *lengths[:-1]])
    stats = TreeStats.empty(feats.shape[1], width, central)
    if not len(tids):
        return stats, []
    bad = stats.accumulate(feats, tids, starts, table)
    return stats, [lines[number].utterance for number in bad]


def convert_pass(corpus: TrainingCorpus, source: Path) -> dict[str, str]:
    """Convert alignments from the model in ``source`` to the corpus's own model and tree.

    Returns:
        The utterances that cannot be converted, with the reason; they have no alignment then.
    """
    failed: dict[str, str] = {}
    for _, bad in corpus.map(_convert_pass, (source, corpus.folder)):
        failed.update(bad)
    return failed


def _convert_pass(chunk: Chunk, folders: tuple[Path, Path]) -> dict[str, str]:
    converter = _converter(*folders)
    tids = chunk.alignment()
    failed: dict[str, str] = {}
    for line in aligned_lines(chunk):
        span = slice(line.start, line.end)
        try:
            tids[span] = converter.convert(tids[span])
        except DataError as error:
            failed[line.utterance] = error.what
            tids[span] = 0
    chunk.write_alignment(tids)
    return failed


@lru_cache(maxsize=1)
def _converter(source: Path, folder: Path) -> AlignmentConverter:
    transition_model, tree = read_corpus_model(folder)
    return AlignmentConverter(read_transition_model(source / "final.mdl"), transition_model, tree)
