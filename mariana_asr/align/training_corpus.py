"""The training data of a GMM system, packed for many passes over it by several processes."""

import json
import logging
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.gmm import DiagGmms
from mariana_asr.align.gmm_estimation import GmmStats
from mariana_asr.align.graphs import GraphCompiler, read_graphs, write_graphs
from mariana_asr.align.model_io import (
    TransitionModel,
    read_transition_model,
    write_transition_model,
)
from mariana_asr.align.tree_io import ContextDependency, read_tree, write_tree
from mariana_asr.align.utterances import TransitionScores, split_in_chunks, usable_utterances
from mariana_asr.align.viterbi import BeamOptions
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.reading import iterate_features
from mariana_asr.features.transform import TransformOptions
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.parallel import WorkerPool
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

_FOLDER_PREFIX = ".passes."


@dataclass(frozen=True)
class PassModel:
    """What a process needs of the model to align and accumulate."""

    gmm: DiagGmms
    transitions: TransitionScores


@dataclass
class FeatureMoments:
    """Sums of features and of their squares, (D,) each, over a number of frames."""

    frames: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


@dataclass
class PassResult:
    """What one pass over the data gives.

    Attributes:
        stats: Statistics of the Gaussians.
        transition_counts: Frames of each transition id, (number of transition ids + 1,).
        path_log_like: Log-likelihood of the paths of a realignment, transitions included.
        retried: Utterances that took the retry beam in a realignment.
        failed: Utterances that could not be aligned, with the reason.
    """

    stats: GmmStats
    transition_counts: NDArray[np.float64]
    path_log_like: float = 0.0
    retried: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: "PassResult") -> None:
        """Add the result of other utterances."""
        self.stats.add(other.stats)
        self.transition_counts += other.transition_counts
        self.path_log_like += other.path_log_like
        self.retried += other.retried
        self.failed.update(other.failed)


class TrainingCorpus:
    """Features, training graphs and current alignments of the training data, on disk.

    A corpus is cut into chunks of utterances. For each, a hidden folder in the output directory
    holds the transformed features (mapped into memory, not read), the graphs and the current
    transition ids (0 in frames of utterances without an alignment). Memory use does not grow with
    the corpus, and the order of all sums depends on the corpus alone, not on the processes.
    """

    def __init__(self, out_dir: Path, pool: WorkerPool) -> None:
        """``out_dir`` gets the hidden folder; leftovers of a killed run in it are removed."""
        for leftover in out_dir.glob(_FOLDER_PREFIX + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._folder = Path(mkdtemp(prefix=_FOLDER_PREFIX, dir=out_dir))
        self._pool = pool
        self._chunks: list[Path] = []
        self._models = 0

    def __enter__(self) -> "TrainingCorpus":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def pack(self, data: DataDir, front_end: FrontEnd, skipped: Skipped) -> FeatureMoments | None:
        """Read and transform all features; give back the moments of the first chunk.

        None where no utterance has features and a transcript.
        """
        usable = usable_utterances(data, front_end.transform, skipped)
        chunks = list(split_in_chunks(data, usable))
        prefixes = [self._folder / f"{number:06}" for number in range(len(chunks))]
        pack = partial(_pack, transform=front_end.transform, feature_dim=front_end.feature_dim)
        first: FeatureMoments | None = None
        for prefix, (moments, failed) in zip(
            prefixes, self._pool.map(pack, zip(prefixes, chunks, strict=True)), strict=True
        ):
            for utterance, reason in failed.items():
                skipped.add(utterance, reason)
            if moments is not None:
                first = first or moments
                self._chunks.append(prefix)
        return first

    def compile_graphs(
        self,
        transition_model: TransitionModel,
        tree: ContextDependency,
        lang: Lang,
        skipped: Skipped,
    ) -> None:
        """Compile the training graphs of all utterances, for a tree and its transition model."""
        write_tree(self._folder / "tree", tree)
        write_transition_model(self._folder / "transitions.mdl", transition_model)
        for failed in self._pool.map(
            partial(_compile_graphs, model_dir=self._folder, lang_dir=lang.path), self._chunks
        ):
            for utterance, reason in failed.items():
                skipped.add(utterance, reason)

    def align_equally(self) -> dict[str, str]:
        """Make flat-start alignments; give back the utterances that failed, with the reason."""
        failed: dict[str, str] = {}
        for result in self._pool.map(_align_equally, self._chunks):
            failed.update(result)
        return failed

    def run_pass(self, model: PassModel, realign: BeamOptions | None) -> PassResult:
        """Accumulate statistics under a model; first realign, if beams are given."""
        self._models += 1
        file = self._folder / f"{self._models}.model"
        file.write_bytes(pickle.dumps(model))
        total = _empty_result(model)
        for result in self._pool.map(
            partial(_run_pass, model_file=file, beams=realign), self._chunks
        ):
            total.add(result)
        file.unlink()
        return total

    def alignments(self) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """Yield (utterance, transition ids) of the utterances that are aligned."""
        for prefix in self._chunks:
            tids = np.load(_alignment_file(prefix))
            for utterance, start, end, _ in _read_index(prefix):
                if tids[start]:
                    yield utterance, tids[start:end]


IndexLine = tuple[str, int, int, str]
"""Utterance, first frame in its chunk, frame after its last, and transcript."""


def _index_file(prefix: Path) -> Path:
    return prefix.with_suffix(".json")


def _features_file(prefix: Path) -> Path:
    return prefix.with_suffix(".feats.npy")


def _alignment_file(prefix: Path) -> Path:
    return prefix.with_suffix(".ali.npy")


def _graphs_prefix(prefix: Path) -> Path:
    return prefix.with_suffix(".graphs")


def _read_index(prefix: Path) -> list[IndexLine]:
    return [tuple(line) for line in json.loads(_index_file(prefix).read_text(encoding="utf-8"))]


def _pack(
    item: tuple[Path, DataDir], *, transform: TransformOptions, feature_dim: int
) -> tuple[FeatureMoments | None, dict[str, str]]:
    prefix, data = item
    skipped = Skipped("packing")
    matrices: list[NDArray[np.float32]] = []
    index: list[IndexLine] = []
    start = 0
    for utterance, feats in iterate_features(
        data, transform, feature_dim=feature_dim, skipped=skipped
    ):
        matrices.append(feats)
        index.append((utterance, start, start + len(feats), data.text[utterance]))
        start += len(feats)
    if not matrices:
        return None, skipped.reasons
    packed = np.concatenate(matrices)
    np.save(_features_file(prefix), packed)
    _index_file(prefix).write_text(json.dumps(index), encoding="utf-8")
    double = packed.astype(np.float64)
    moments = FeatureMoments(start, double.sum(axis=0), np.square(double).sum(axis=0))
    return moments, skipped.reasons


@lru_cache(maxsize=1)
def _graph_compiler(model_dir: Path, lang_dir: Path) -> tuple[GraphCompiler, Lang]:
    lang = read_lang(lang_dir)
    transition_model = read_transition_model(model_dir / "transitions.mdl")
    return GraphCompiler(transition_model, read_tree(model_dir / "tree"), lang), lang


def _compile_graphs(prefix: Path, *, model_dir: Path, lang_dir: Path) -> dict[str, str]:
    compiler, lang = _graph_compiler(model_dir, lang_dir)
    failed: dict[str, str] = {}
    graphs = []
    for utterance, _, _, text in _read_index(prefix):
        try:
            graphs.append((utterance, compiler.compile(lang.transcript_to_ids(text))))
        except DataError as error:
            failed[utterance] = str(error)
    write_graphs(_graphs_prefix(prefix), graphs)
    return failed


def _align_equally(prefix: Path) -> dict[str, str]:
    places = {utterance: (start, end) for utterance, start, end, _ in _read_index(prefix)}
    tids = np.zeros(max(end for _, end in places.values()), dtype=np.int32)
    failed: dict[str, str] = {}
    for utterance, graph in read_graphs(_graphs_prefix(prefix)):
        start, end = places[utterance]
        aligned = graph.equal_alignment(end - start, seed=crc32(utterance.encode()))
        if aligned is None:
            failed[utterance] = f"too few frames for a flat start: {end - start}"
        else:
            tids[start:end] = aligned
    np.save(_alignment_file(prefix), tids)
    return failed


@lru_cache(maxsize=1)
def _read_model(file: Path) -> PassModel:
    model: PassModel = pickle.loads(file.read_bytes())
    return model


def _empty_result(model: PassModel) -> PassResult:
    return PassResult(GmmStats.empty(model.gmm), np.zeros(len(model.transitions.pdfs)))


def _run_pass(prefix: Path, *, model_file: Path, beams: BeamOptions | None) -> PassResult:
    model = _read_model(model_file)
    feats = np.load(_features_file(prefix), mmap_mode="r")
    result = _empty_result(model)
    if beams is None:
        tids = np.load(_alignment_file(prefix))
    else:
        tids = _realign(prefix, feats, model, beams, result)
    aligned = tids > 0
    if not aligned.all():
        feats, tids = feats[aligned], tids[aligned]
    result.stats.accumulate(model.gmm, feats, model.transitions.pdfs[tids])
    result.transition_counts += np.bincount(tids, minlength=len(model.transitions.pdfs))
    return result


def _realign(
    prefix: Path,
    feats: NDArray[np.float32],
    model: PassModel,
    beams: BeamOptions,
    result: PassResult,
) -> NDArray[np.int32]:
    """Align a chunk anew; the transition ids of all its frames, 0 where there is no path."""
    places = {utterance: (start, end) for utterance, start, end, _ in _read_index(prefix)}
    tids = np.zeros(len(feats), dtype=np.int32)
    for utterance, graph in read_graphs(_graphs_prefix(prefix)):
        start, end = places[utterance]
        try:
            path = model.transitions.align(graph, feats[start:end], model.gmm, beams)
        except DataError as error:
            result.failed[utterance] = str(error)
            continue
        tids[start:end] = path.tids
        result.path_log_like += path.log_like
        result.retried += path.retried
    np.save(_alignment_file(prefix), tids)
    return tids
