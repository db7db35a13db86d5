"""The training data of a GMM system, packed for many passes over it by several processes."""

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import (
    TransitionModel,
    read_transition_model,
    write_transition_model,
)
from mariana_asr.align.formats.tree_io import ContextDependency, read_tree, write_tree
from mariana_asr.align.graphs import GraphCompiler, TrainingGraph, read_graphs, write_graphs
from mariana_asr.align.transition_ids import check_transition_ids, iterate_alignments
from mariana_asr.align.utterances import split_in_chunks, usable_utterances
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, StageError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.linear import apply_linear
from mariana_asr.features.splice import splice
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.parallel import WorkerPool
from mariana_asr.skipped import Skipped

_FOLDER_PREFIX = ".passes."

SharedT = TypeVar("SharedT")
ResultT = TypeVar("ResultT")


class IndexLine(NamedTuple):
    """An utterance in its chunk: its first frame there and the one after its last."""

    utterance: str
    speaker: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Chunk:
    """Some of the utterances, as files that share a prefix.

    What a process reads of them is mapped into memory rather than copied.
    """

    prefix: Path

    def index(self) -> list[IndexLine]:
        """The utterances, in order."""
        return [IndexLine(*line) for line in json.loads(self._file("json").read_text("utf-8"))]

    def write_index(self, lines: list[IndexLine]) -> None:
        """Write what ``index`` reads."""
        self._file("json").write_text(json.dumps(lines), encoding="utf-8")

    def features(self) -> NDArray[np.float32]:
        """Features of all utterances one after the other, (T, D); adapted ones if there are."""
        adapted = self._file("adapted.npy")
        return np.load(adapted if adapted.exists() else self._file("feats.npy"), mmap_mode="r")

    def unadapted_features(self) -> NDArray[np.float32]:
        """The same without speakers' transforms."""
        return np.load(self._file("feats.npy"), mmap_mode="r")

    def write_features(self, feats: NDArray[np.float32], *, adapted: bool = False) -> None:
        """Replace the features, or the adapted ones beside them."""
        name = "adapted.npy" if adapted else "feats.npy"
        temporary = self._file("new.npy")
        np.save(temporary, feats)
        temporary.rename(self._file(name))

    def alignment(self) -> NDArray[np.int32]:
        """Transition ids of all frames, (T,); 0 in utterances without an alignment."""
        return np.load(self._file("ali.npy"))

    def write_alignment(self, tids: NDArray[np.int32]) -> None:
        """Write what ``alignment`` reads."""
        np.save(self._file("ali.npy"), tids)

    def graphs(self) -> Iterator[tuple[IndexLine, TrainingGraph]]:
        """The training graphs of the utterances that have one."""
        lines = {line.utterance: line for line in self.index()}
        for utterance, graph in read_graphs(self.prefix.with_suffix(".graphs")):
            yield lines[utterance], graph

    def write_graphs(self, graphs: list[tuple[str, TrainingGraph]]) -> None:
        """Write what ``graphs`` reads."""
        write_graphs(self.prefix.with_suffix(".graphs"), graphs)

    def _file(self, suffix: str) -> Path:
        return self.prefix.with_suffix("." + suffix)


@dataclass
class FeatureMoments:
    """Sums of features and of their squares, (D,) each, over a number of frames."""

    frames: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


class TrainingCorpus:
    """Features, training graphs and current alignments of the training data, on disk.

    A corpus is cut into chunks of utterances. For each, a hidden folder in the output directory
    holds the features, the graphs and the current transition ids. Memory use does not grow with
    the frames of the corpus, and the order of all sums depends on the corpus alone, not on the
    processes.
    """

    def __init__(self, out_dir: Path, pool: WorkerPool) -> None:
        """``out_dir`` gets the hidden folder; leftovers of a killed run in it are removed.

        Raises:
            StageError: It cannot be made.
        """
        for leftover in out_dir.glob(_FOLDER_PREFIX + "*"):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            self.folder = Path(mkdtemp(prefix=_FOLDER_PREFIX, dir=out_dir))
        except OSError as error:
            raise _file_error(out_dir, error) from error
        self._pool = pool
        self._chunks: list[Chunk] = []
        self._passes = 0

    def __enter__(self) -> "TrainingCorpus":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the folder.

        Raises:
            StageError: A file could not be read or written, in this process or in another.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _file_error(self.folder.parent, error) from error

    def map(
        self, function: Callable[[Chunk, SharedT], ResultT], shared: SharedT
    ) -> Iterator[tuple[Chunk, ResultT]]:
        """Apply a function to all chunks, in order; yield each with its result.

        What is ``shared`` goes to the processes through a file that each reads once.
        """
        self._passes += 1
        file = self.folder / f"{self._passes}.shared"
        file.write_bytes(pickle.dumps(shared))
        results = self._pool.map(partial(_call, function=function, file=file), self._chunks)
        yield from zip(self._chunks, results, strict=True)
        file.unlink()

    def pack(self, data: DataDir, front_end: FrontEnd, skipped: Skipped) -> FeatureMoments | None:
        """Read all features; give back the moments of the first chunk.

        None where no utterance has features and a transcript.
        """
        usable = usable_utterances(data, front_end.transform, skipped)
        parts = list(split_in_chunks(data, usable))
        chunks = [Chunk(self.folder / f"{number:06}") for number in range(len(parts))]
        first: FeatureMoments | None = None
        results = self._pool.map(
            partial(_pack, front_end=front_end), zip(chunks, parts, strict=True)
        )
        for chunk, (moments, failed) in zip(chunks, results, strict=True):
            _skip(failed, skipped)
            if moments is not None:
                first = first or moments
                self._chunks.append(chunk)
        return first

    def splice_and_project(self, matrix: NDArray[np.float32], *, left: int, right: int) -> None:
        """Replace features (T, D) by a linear transform of them and of their neighbours."""
        for _ in self.map(_splice_and_project, (left, right, matrix)):
            pass

    def transform(self, matrix: NDArray[np.float32]) -> None:
        """Replace features by a linear transform of them, (E, D)."""
        self.splice_and_project(matrix, left=0, right=0)

    def adapt(self, transforms: Mapping[str, NDArray[np.float32]]) -> None:
        """Transform features by their speakers' matrices, (D, D + 1), in place of earlier ones."""
        items = (
            (chunk, {s: transforms[s] for s in {line.speaker for line in chunk.index()}})
            for chunk in self._chunks
        )
        for _ in self._pool.map(_adapt, items):
            pass

    @property
    def num_utterances(self) -> int:
        """Number of utterances packed."""
        return sum(len(chunk.index()) for chunk in self._chunks)

    def speakers_of_chunks(self) -> list[set[str]]:
        """The speakers with utterances in each chunk."""
        return [{line.speaker for line in chunk.index()} for chunk in self._chunks]

    def load_alignments(self, source: Path, transition_model: TransitionModel) -> dict[str, str]:
        """Take over alignments from a directory or archive.

        Returns:
            The utterances that have none there, or one of another length, with the reason.

        Raises:
            FormatError: A file is damaged, or holds no transition ids of the model.
        """
        places: dict[str, tuple[int, int, int]] = {}
        for number, chunk in enumerate(self._chunks):
            index = chunk.index()
            places.update((line.utterance, (number, line.start, line.end)) for line in index)
            chunk.write_alignment(np.zeros(index[-1].end, dtype=np.int32))
        failed = dict.fromkeys(places, f"no alignment in {source}")
        current, tids = -1, np.zeros(0, dtype=np.int32)
        for utterance, aligned in iterate_alignments(source):
            if utterance not in places:
                continue
            check_transition_ids(aligned, transition_model)
            number, start, end = places[utterance]
            if len(aligned) != end - start:
                failed[utterance] = (
                    f"{end - start} frames of features, but {len(aligned)} in the alignment"
                )
                continue
            if number != current:
                if current >= 0:
                    self._chunks[current].write_alignment(tids)
                current, tids = number, self._chunks[number].alignment()
            tids[start:end] = aligned
            del failed[utterance]
        if current >= 0:
            self._chunks[current].write_alignment(tids)
        return failed

    def set_model(self, transition_model: TransitionModel, tree: ContextDependency) -> None:
        """Say which tree and transition model graphs and alignments are for, from now on."""
        write_tree(self.folder / "tree", tree)
        write_transition_model(self.folder / "transitions.mdl", transition_model)

    def compile_graphs(self, lang: Lang, skipped: Skipped) -> None:
        """Compile the training graphs of all utterances."""
        for _, failed in self.map(_compile_graphs, (self.folder, lang.path)):
            _skip(failed, skipped)

    def align_equally(self) -> dict[str, str]:
        """Make flat-start alignments; give back the utterances that failed, with the reason."""
        failed: dict[str, str] = {}
        for _, result in self.map(_align_equally, None):
            failed.update(result)
        return failed

    def alignments(self) -> Iterator[tuple[str, NDArray[np.int32]]]:
        """Yield (utterance, transition ids) of the utterances that are aligned."""
        for chunk in self._chunks:
            tids = chunk.alignment()
            for line in aligned_lines(chunk):
                yield line.utterance, tids[line.start : line.end]


def _file_error(folder: Path, error: OSError) -> StageError:
    # numpy says how much it wrote, but not why it stopped.
    reason = error.strerror or f"{error}, so the disk may be full"
    return StageError(
        f"a file of the training cannot be read or written: {reason}",
        where=error.filename or folder,
        remedy="There must be room for the features and graphs of the whole corpus",
    )


@lru_cache(maxsize=1)
def _read_shared(file: Path) -> Any:
    return pickle.loads(file.read_bytes())


def _call(chunk: Chunk, *, function: Callable[[Chunk, Any], ResultT], file: Path) -> ResultT:
    return function(chunk, _read_shared(file))


def _skip(failed: Mapping[str, str], skipped: Skipped) -> None:
    for utterance, reason in failed.items():
        skipped.add(utterance, reason)


def _pack(
    item: tuple[Chunk, DataDir], *, front_end: FrontEnd
) -> tuple[FeatureMoments | None, dict[str, str]]:
    chunk, data = item
    skipped = Skipped("packing")
    matrices: list[NDArray[np.float32]] = []
    index: list[IndexLine] = []
    start = 0
    for utterance, feats in front_end.iterate(data, skipped=skipped):
        matrices.append(feats)
        end = start + len(feats)
        line = IndexLine(utterance, data.utt2spk[utterance], start, end, data.text[utterance])
        index.append(line)
        start = end
    if not matrices:
        return None, skipped.reasons
    packed = np.concatenate(matrices)
    chunk.write_features(packed)
    chunk.write_index(index)
    double = packed.astype(np.float64)
    moments = FeatureMoments(start, double.sum(axis=0), np.square(double).sum(axis=0))
    return moments, skipped.reasons


def aligned_lines(chunk: Chunk) -> list[IndexLine]:
    """The utterances of a chunk that have an alignment."""
    tids = chunk.alignment()
    return [line for line in chunk.index() if tids[line.start]]


def spliced_features(chunk: Chunk, left: int, right: int) -> NDArray[np.float32]:
    """Features of a chunk with their neighbours within the utterance, (T, D (left + 1 + right))."""
    feats = chunk.features()
    return np.concatenate(
        [splice(feats[line.start : line.end], left, right) for line in chunk.index()]
    )


def _splice_and_project(chunk: Chunk, shared: tuple[int, int, NDArray[np.float32]]) -> None:
    left, right, matrix = shared
    feats = spliced_features(chunk, left, right) if left or right else chunk.features()
    chunk.write_features(apply_linear(feats, matrix))


def _adapt(item: tuple[Chunk, dict[str, NDArray[np.float32]]]) -> None:
    chunk, transforms = item
    feats = chunk.unadapted_features()
    adapted = [
        apply_linear(feats[line.start : line.end], transforms[line.speaker])
        for line in chunk.index()
    ]
    chunk.write_features(np.concatenate(adapted), adapted=True)


def read_corpus_model(folder: Path) -> tuple[TransitionModel, ContextDependency]:
    """Read the transition model and the tree that ``TrainingCorpus.set_model`` was given."""
    return read_transition_model(folder / "transitions.mdl"), read_tree(folder / "tree")


@lru_cache(maxsize=1)
def _graph_compiler(folder: Path, lang_dir: Path) -> tuple[GraphCompiler, Lang]:
    lang = read_lang(lang_dir)
    return GraphCompiler(*read_corpus_model(folder), lang), lang


def _compile_graphs(chunk: Chunk, folders: tuple[Path, Path]) -> dict[str, str]:
    compiler, lang = _graph_compiler(*folders)
    failed: dict[str, str] = {}
    graphs = []
    for line in chunk.index():
        try:
            graph = compiler.compile(lang.transcript_to_ids(line.text))
            graphs.append((line.utterance, graph))
        except DataError as error:
            failed[line.utterance] = str(error)
    chunk.write_graphs(graphs)
    return failed


def _kaldi_hash(utterance: str) -> int:
    """Kaldi's hash of an utterance id, which alone decides its flat start (StringHasher)."""
    value = 0
    for byte in utterance.encode():
        value = (value * 7853 + byte) & 0xFFFFFFFF
    return value


def _align_equally(chunk: Chunk, _: None) -> dict[str, str]:
    tids = np.zeros(chunk.index()[-1].end, dtype=np.int32)
    failed: dict[str, str] = {}
    for line, graph in chunk.graphs():
        frames = line.end - line.start
        aligned = graph.equal_alignment(frames, seed=_kaldi_hash(line.utterance))
        if aligned is None:
            failed[line.utterance] = f"too few frames for a flat start: {frames}"
        else:
            tids[line.start : line.end] = aligned
    chunk.write_alignment(tids)
    return failed
