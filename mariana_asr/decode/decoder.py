"""Decoding of a data directory with an acoustic model and a graph.

Each utterance is searched once for a lattice; then the best path is found for every language-model
weight and word insertion penalty, so that scoring can choose among them.
"""

import gzip
import logging
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from mariana_asr.corpus.datadir import DataDir
from mariana_asr.decode.graph import Graph, read_graph
from mariana_asr.decode.lattice import BestPath, Lattice, best_paths
from mariana_asr.decode.lattice_file import lattice_to_bytes
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.scorers import Scorer, load_scorer
from mariana_asr.decode.search import LatticeDecoder
from mariana_asr.errors import DataError, FormatError, summarise
from mariana_asr.features.front_end import read_utterance_features
from mariana_asr.files import atomic_file, read_json, write_json, write_text
from mariana_asr.options import validated
from mariana_asr.parallel import parallel_map
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

SUMMARY_FILE = "decode.json"

_DEFAULT_FRAME_SHIFT_MS = 10.0
_UTTERANCES_A_LOG_LINE = 500


@dataclass(frozen=True)
class DecodeSummary:
    """What came of decoding a data directory; ``decode.json`` holds it with the options.

    Attributes:
        utterances: Utterances given.
        decoded: Utterances that have a hypothesis, partial ones among them.
        partial: Utterances whose search ended in no final state of the graph.
        skipped: Utterances without a hypothesis.
        audio_seconds: Length of the decoded audio.
        decode_seconds: Time spent on the decoded utterances, summed over processes.
    """

    utterances: int
    decoded: int
    partial: int
    skipped: int
    audio_seconds: float
    decode_seconds: float

    @property
    def rtf(self) -> float:
        """Real-time factor of one process: its seconds a second of audio."""
        return self.decode_seconds / self.audio_seconds if self.audio_seconds else 0.0


def hypothesis_file(decode_dir: str | Path, lm_weight: float, penalty: float) -> Path:
    """Where ``decode`` puts the hypotheses of one language-model weight and penalty."""
    return Path(decode_dir) / "hyp" / f"{lm_weight:g}_{penalty:g}.txt"


def decode(
    data: DataDir,
    model_dir: str | Path,
    graph_dir: str | Path,
    out_dir: str | Path,
    options: DecodeOptions,
    *,
    jobs: int = 1,
) -> DecodeSummary:
    """Decode every utterance of a data directory.

    Writes to ``out_dir``: ``hyp/LMWEIGHT_PENALTY.txt`` for every setting (Kaldi's text form, one
    line an utterance, sorted); ``skipped.txt`` and ``partial.txt`` with the utterances that have
    no hypothesis (an empty one stands in for it, so that all their words count as errors) or whose
    search reached no final state; ``lat.1.gz`` if asked for; and ``decode.json``, last, with
    counts, real-time factor and options. Memory does not grow with the number of utterances.

    Args:
        data: A data directory with features.
        model_dir: A GMM (``final.mdl``) or a network (``nnet.pt`` and ``final.mdl``), each with
            its ``front_end.json``.
        graph_dir: ``HCLG.fst`` and ``words.txt``.
        out_dir: Where to write.
        options: Beams and weights.
        jobs: Number of processes.

    Raises:
        FormatError: The model or the graph is damaged, they do not belong together, or the data
            directory's features are not those that the model was trained on.
        StageError: No utterance at all could be decoded.
    """
    out_dir, model_dir, graph_dir = Path(out_dir), Path(model_dir), Path(graph_dir)
    frame_shift = _check_inputs(data, model_dir, graph_dir)
    # Without it a directory that is written half is never taken for a whole one.
    (out_dir / SUMMARY_FILE).unlink(missing_ok=True)
    skipped = Skipped("decoding")
    partial: list[str] = []
    frames, seconds, decoded = 0, 0.0, 0
    results = parallel_map(
        _decode_utterance,
        data.utterances,
        jobs=jobs,
        setup=_set_up,
        setup_arguments=(data, model_dir, graph_dir, options),
    )
    try:
        with _Output(out_dir, options) as output:
            for done, result in enumerate(results, 1):
                output.write(result)
                if result.hypotheses is None:
                    skipped.add(result.utterance, result.reason)
                else:
                    decoded += 1
                    frames += result.frames
                    seconds += result.seconds
                if result.partial:
                    partial.append(result.utterance)
                if done % _UTTERANCES_A_LOG_LINE == 0:
                    logger.info("decoding: %d of %d utterances", done, len(data.utt2spk))
            # In here, so that with nothing decoded no hypotheses appear.
            skipped.finish(out_dir / "skipped.txt", decoded)
    finally:
        _release()
    summary = DecodeSummary(
        utterances=len(data.utt2spk),
        decoded=decoded,
        partial=len(partial),
        skipped=len(skipped),
        audio_seconds=round(frames * frame_shift, 3),
        decode_seconds=round(seconds, 3),
    )
    _write_summary(out_dir, summary, partial, options)
    return summary


@dataclass(frozen=True)
class DecodeRecord:
    """What ``decode.json`` says of a finished decoding."""

    rtf: float
    options: DecodeOptions


def read_decode_record(decode_dir: str | Path) -> DecodeRecord:
    """Read ``decode.json``.

    Raises:
        FormatError: It is missing (the decoding is not finished) or damaged.
        RecipeError: It has an option that this version does not know.
    """
    path = Path(decode_dir) / SUMMARY_FILE
    tree = read_json(path)
    try:
        rtf, options = float(tree["rtf"]), tree["options"]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError("not a record of a decoding", where=path) from error
    return DecodeRecord(rtf, validated(DecodeOptions, options, str(path)))


def _check_inputs(data: DataDir, model_dir: Path, graph_dir: Path) -> float:
    """Check that data, model and graph belong together; returns the frame shift in seconds."""
    scorer, graph = load_scorer(model_dir), read_graph(graph_dir)
    scorer.front_end.check(data.path)
    graph.check(len(scorer.pdf_of_transition_id))
    settings = scorer.front_end.features or {}
    return float(settings.get("frame_shift", _DEFAULT_FRAME_SHIFT_MS)) / 1000.0


def _write_summary(
    out_dir: Path, summary: DecodeSummary, partial: list[str], options: DecodeOptions
) -> None:
    write_text(out_dir / "partial.txt", "".join(f"{utterance}\n" for utterance in partial))
    if partial:
        logger.warning(
            "decoding: the search reached no final state in %d utterances (%s); see %s",
            len(partial),
            summarise(partial),
            out_dir / "partial.txt",
        )
    logger.info(
        "decoding: %d utterances, %.1f s of audio, real-time factor %.4f in one process",
        summary.decoded,
        summary.audio_seconds,
        summary.rtf,
    )
    tree = {**asdict(summary), "rtf": round(summary.rtf, 5), "options": options.model_dump()}
    write_json(out_dir / SUMMARY_FILE, tree)


@dataclass(frozen=True)
class _Result:
    """What a process sends back: hypotheses by setting, or the reason why there are none."""

    utterance: str
    hypotheses: list[str] | None = None
    reason: str = ""
    partial: bool = False
    frames: int = 0
    seconds: float = 0.0
    lattice: bytes | None = None


class _Output:
    """The files of hypotheses and lattices; they appear when all utterances are done."""

    def __init__(self, out_dir: Path, options: DecodeOptions) -> None:
        self._out_dir = out_dir
        self._options = options
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

    def write(self, result: _Result) -> None:
        """Add an utterance."""
        hypotheses = result.hypotheses or [""] * len(self._hypotheses)
        for file, words in zip(self._hypotheses, hypotheses, strict=True):
            file.write(f"{result.utterance} {words}".rstrip() + "\n")
        if self._lattices is not None and result.lattice is not None:
            self._lattices.write(result.utterance.encode() + b" " + result.lattice)


@dataclass(frozen=True)
class _Process:
    """What each process loads once."""

    data: DataDir
    scorer: Scorer
    graph: Graph
    decoder: LatticeDecoder
    options: DecodeOptions

    def decode(self, utterance: str) -> _Result:
        began = time.perf_counter()
        front_end = self.scorer.front_end
        try:
            features = read_utterance_features(
                self.data, utterance, front_end.transform, feature_dim=front_end.feature_dim
            )
            raw, complete = self.decoder.search(self.scorer.log_likelihoods(features), utterance)
            paths = best_paths(Lattice.from_raw(raw), self.options.settings)
        except DataError as error:
            return _Result(utterance, reason=str(error).removeprefix(f"{utterance}: "))
        hypotheses = [self._text(path) for path in paths]
        seconds = time.perf_counter() - began
        lattice = lattice_to_bytes(raw) if self.options.write_lattices else None
        return _Result(utterance, hypotheses, "", not complete, len(features), seconds, lattice)

    def _text(self, path: BestPath) -> str:
        return " ".join(self.graph.words[word] for word in path.words.tolist())


_process: _Process | None = None


def _set_up(data: DataDir, model_dir: Path, graph_dir: Path, options: DecodeOptions) -> None:
    global _process
    scorer = load_scorer(model_dir, prior_scale=options.prior_scale)
    graph = read_graph(graph_dir)
    decoder = LatticeDecoder(graph, scorer.pdf_of_transition_id, options)
    _process = _Process(data, scorer, graph, decoder, options)


def _release() -> None:
    """Let go of what was loaded, where everything ran in this process."""
    global _process
    _process = None


def _decode_utterance(utterance: str) -> _Result:
    assert _process is not None, "parallel_map calls _set_up first"
    return _process.decode(utterance)
