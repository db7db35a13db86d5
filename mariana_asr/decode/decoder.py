"""Decoding of a data directory with an acoustic model and a graph.

Each utterance is searched for a lattice; then the best path is found for every language-model
weight and word insertion penalty, so that scoring can choose among them.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from mariana_asr.align.training.sat import UNADAPTED_FILE, report_unadapted
from mariana_asr.align.transforms.fmllr import FmllrResult
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.decode.adaptation import SpeakerDecoder
from mariana_asr.decode.graph import read_graph, read_silence_phones
from mariana_asr.decode.options import DecodeOptions
from mariana_asr.decode.results import (
    Batch,
    BatchResult,
    ResultFiles,
    hypothesis_file,
)
from mariana_asr.decode.scorers import AdaptedModel, is_speaker_adapted, load_scorer
from mariana_asr.decode.utterances import UtteranceDecoder
from mariana_asr.errors import FormatError, summarise
from mariana_asr.features.front_end import SpeakerTransforms
from mariana_asr.features.linear import write_speaker_transforms
from mariana_asr.files import read_json, write_json, write_text
from mariana_asr.options import validated
from mariana_asr.parallel import parallel_map
from mariana_asr.skipped import Skipped

__all__ = [
    "SUMMARY_FILE",
    "DecodeRecord",
    "DecodeSummary",
    "decode",
    "hypothesis_file",
    "read_decode_record",
]

logger = logging.getLogger(__name__)

SUMMARY_FILE = "decode.json"
TRANSFORMS_FILE = "trans.1"

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
        decode_seconds: Time spent on decoding, summed over processes.
        speakers: Speakers to whom the model was to be adapted; 0 if it is no such model.
        unadapted: Those of them who have too little speech for it.
    """

    utterances: int
    decoded: int
    partial: int
    skipped: int
    audio_seconds: float
    decode_seconds: float
    speakers: int = 0
    unadapted: int = 0

    @property
    def rtf(self) -> float:
        """Real-time factor of one process: its seconds a second of audio."""
        return self.decode_seconds / self.audio_seconds if self.audio_seconds else 0.0


def decode(
    data: DataDir,
    model_dir: str | Path,
    graph_dir: str | Path,
    out_dir: str | Path,
    options: DecodeOptions,
    *,
    jobs: int = 1,
    transforms: SpeakerTransforms | None = None,
) -> DecodeSummary:
    """Decode every utterance of a data directory.

    Writes to ``out_dir``: ``hyp/LMWEIGHT_PENALTY.txt`` for every setting (Kaldi's text form, one
    line an utterance, sorted); ``skipped.txt`` and ``partial.txt`` with the utterances that have
    no hypothesis (an empty one stands in for it, so that all their words count as errors) or whose
    search reached no final state; ``lat.1.gz`` if asked for; and ``decode.json``, last, with
    counts, real-time factor and options. Memory does not grow with the number of utterances.

    A speaker-adapted model (a folder with ``final.alimdl``) is adapted to each speaker, whose
    utterances are then decoded together. ``trans.1`` holds the speakers' transforms, as a Kaldi
    archive, and ``unadapted.txt`` the speakers that have too little data and keep the unit
    transform, with the reason. A network that was trained on adapted features is no such model:
    it is given the ``transforms`` that such a decoding of the same data has written.

    Args:
        data: A data directory with features.
        model_dir: A GMM (``final.mdl``) or a network (``nnet.pt`` and ``final.mdl``), each with
            its ``front_end.json``.
        graph_dir: ``HCLG.fst`` and ``words.txt``; for adaptation ``phones/silence.csl`` too.
        out_dir: Where to write.
        options: Beams and weights.
        jobs: Number of processes.
        transforms: Each speaker's fMLLR transform, for a network on adapted features.

    Raises:
        FormatError: The model or the graph is damaged, they do not belong together, or the data
            directory's features are not those that the model was trained on; or there are
            transforms, and the model is no network on adapted features.
        DataError: There are no transforms for a network on adapted features.
        StageError: No utterance at all could be decoded.
    """
    out_dir, model_dir, graph_dir = Path(out_dir), Path(model_dir), Path(graph_dir)
    frame_shift = _check_inputs(data, model_dir, graph_dir, options, transforms)
    # Without the summary a directory that is written half is never taken for a whole one.
    for name in (SUMMARY_FILE, TRANSFORMS_FILE, UNADAPTED_FILE):
        (out_dir / name).unlink(missing_ok=True)
    adapts = _adapts(model_dir, options)
    skipped = Skipped("decoding")
    partial: list[str] = []
    estimated: dict[str, FmllrResult] = {}
    done, frames, seconds = 0, 0, 0.0
    with (
        _scratch_folder(out_dir) as scratch,
        ResultFiles(out_dir, options, data.utterances) as files,
    ):
        results = parallel_map(
            _decode_batch,
            _by_speaker(data) if adapts else _one_by_one(data),
            jobs=jobs,
            setup=_set_up,
            setup_arguments=(data, model_dir, graph_dir, options, scratch, transforms),
        )
        try:
            for batch in results:
                seconds += batch.seconds
                estimated |= batch.transforms
                for result in batch.utterances:
                    files.write(result)
                    frames += result.frames
                    if result.hypotheses is None:
                        skipped.add(result.utterance, result.reason)
                    if result.partial:
                        partial.append(result.utterance)
                    done += 1
                    if done % _UTTERANCES_A_LOG_LINE == 0:
                        logger.info("decoding: %d of %d utterances", done, len(data.utt2spk))
        finally:
            _release()
        # In here, so that with nothing decoded no hypotheses appear.
        skipped.finish(out_dir / "skipped.txt", done - len(skipped))
    if adapts:
        write_speaker_transforms(out_dir, {s: r.matrix for s, r in estimated.items()})
        report_unadapted(out_dir, estimated)
    summary = DecodeSummary(
        utterances=len(data.utt2spk),
        decoded=done - len(skipped),
        partial=len(partial),
        skipped=len(skipped),
        audio_seconds=round(frames * frame_shift, 3),
        decode_seconds=round(seconds, 3),
        speakers=len(estimated),
        unadapted=sum(not result.adapted for result in estimated.values()),
    )
    _write_summary(out_dir, summary, sorted(partial), options)
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


def _check_inputs(
    data: DataDir,
    model_dir: Path,
    graph_dir: Path,
    options: DecodeOptions,
    transforms: SpeakerTransforms | None,
) -> float:
    """Check that data, model and graph belong together; returns the frame shift in seconds."""
    scorer, graph = load_scorer(model_dir), read_graph(graph_dir)
    scorer.front_end.check(data.path)
    if transforms is not None and not scorer.front_end.adapted:
        raise FormatError(
            "there are transforms of speakers, and the model is no network on adapted features",
            where=model_dir,
            remedy="Give no transforms: speaker-adapted GMMs estimate their own",
        )
    scorer.front_end.check_speakers(transforms, model_dir)
    graph.check(len(scorer.pdf_of_transition_id))
    if _adapts(model_dir, options):
        read_silence_phones(graph_dir)
    settings = scorer.front_end.features or {}
    return float(settings.get("frame_shift", _DEFAULT_FRAME_SHIFT_MS)) / 1000.0


def _adapts(model_dir: Path, options: DecodeOptions) -> bool:
    return options.adapt and is_speaker_adapted(model_dir)


def _one_by_one(data: DataDir) -> Iterator[Batch]:
    for utterance in data.utterances:
        yield Batch(data.utt2spk[utterance], [utterance])


def _by_speaker(data: DataDir) -> Iterator[Batch]:
    """Speakers in the order of their first utterances, so that few results have to wait."""
    for speaker, utterances in sorted(data.spk2utt.items(), key=lambda item: item[1][0]):
        yield Batch(speaker, utterances)


@contextmanager
def _scratch_folder(out_dir: Path) -> Iterator[Path]:
    """A folder for lattices; one that a killed run has left is emptied."""
    path = out_dir / "lattices.tmp"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


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


class _Decoder(Protocol):
    def decode(self, batch: Batch) -> BatchResult: ...


_decoder: _Decoder | None = None
"""What each process loads once."""


def _set_up(
    data: DataDir,
    model_dir: Path,
    graph_dir: Path,
    options: DecodeOptions,
    scratch: Path,
    transforms: SpeakerTransforms | None,
) -> None:
    global _decoder
    graph = read_graph(graph_dir)
    if _adapts(model_dir, options):
        model = AdaptedModel.load(model_dir)
        _decoder = SpeakerDecoder(data, model, graph, options, scratch)
    else:
        scorer = load_scorer(model_dir, prior_scale=options.prior_scale)
        _decoder = UtteranceDecoder(data, scorer, graph, options, scratch, transforms)


def _release() -> None:
    """Let go of what was loaded, where everything ran in this process."""
    global _decoder
    _decoder = None


def _decode_batch(batch: Batch) -> BatchResult:
    assert _decoder is not None, "parallel_map calls _set_up first"
    return _decoder.decode(batch)
