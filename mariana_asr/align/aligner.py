"""What a process does of a forced alignment: chunks of utterances, one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.formats.tree_io import read_tree
from mariana_asr.align.gmm.device import DeviceName
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.graphs import GraphCompiler
from mariana_asr.align.phone_tables import speech_transition_ids
from mariana_asr.align.transforms.fmllr import FmllrOptions, FmllrStats, accumulate_speakers
from mariana_asr.align.utterances import GmmAcousticModel, HasLogLikelihoods, TransitionScores
from mariana_asr.align.viterbi import AlignedPath, BeamOptions, ScaleOptions
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError
from mariana_asr.lang.langdir import Lang
from mariana_asr.skipped import Skipped

Features = NDArray[np.float32]
Transforms = Mapping[str, NDArray[np.float32]]


class AlignmentScales(BeamOptions, ScaleOptions):
    """Beams, scales and adaptation, with the names and defaults of steps/align_fmllr.sh."""

    boost_silence: float = Field(default=1.0, gt=0)
    """Factor on the likelihoods of silence."""
    fmllr: FmllrOptions = FmllrOptions()
    """Estimation of the speakers' transforms, for a speaker-adapted model."""
    device: DeviceName = "auto"
    """Where GMMs' likelihoods are computed; `auto` takes a GPU if there is one."""


@dataclass
class ChunkResult:
    """What came of a chunk.

    Attributes:
        aligned: Utterances and their paths, in order.
        failed: Utterances that could not be aligned, with the reason.
    """

    aligned: list[tuple[str, AlignedPath]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Aligner:
    """What a process loads once: graph compiler, transitions and acoustic models."""

    def __init__(
        self,
        model_dir: Path,
        lang: Lang,
        scales: AlignmentScales,
        acoustic_model: HasLogLikelihoods,
        unadapted: DiagGmms | None,
    ) -> None:
        """``unadapted`` are the GMMs for features before adaptation, of a model that has such."""
        transition_model = read_transition_model(model_dir / "final.mdl")
        self._lang = lang
        self._scales = scales
        self._compiler = GraphCompiler(transition_model, read_tree(model_dir / "tree"), lang)
        self._front_end = acoustic_model.front_end
        self._scores: DiagGmms | HasLogLikelihoods = (
            acoustic_model.gmm if isinstance(acoustic_model, GmmAcousticModel) else acoustic_model
        )
        self._unadapted = unadapted
        self._transitions = TransitionScores.of(
            transition_model,
            scales,
            silence_phone=lang.optional_silence,
            boost_silence=scales.boost_silence,
            device=scales.device,
        )
        speech = speech_transition_ids(transition_model, lang)
        self._weights = np.where(speech, 1.0, scales.fmllr.silence_weight).astype(np.float32)

    def align(self, data: DataDir, speakers: Transforms | None) -> ChunkResult:
        """Align a part of the data, its features adapted if there are transforms."""
        result, _ = self._align(data, self._scores, speakers)
        return result

    def speaker_stats(self, data: DataDir) -> dict[str, FmllrStats]:
        """Statistics for the transforms of the speakers of a part of the data.

        They are taken on alignments with the unadapted model and on its Gaussians' posteriors
        (Kaldi: gmm-post-to-gpost, gmm-est-fmllr-gpost).
        """
        assert self._unadapted is not None, "the model is a speaker-adapted one"
        assert isinstance(self._scores, DiagGmms)
        result, kept = self._align(data, self._unadapted, None, keep=True)
        stats = {speaker: FmllrStats.empty(self._scores.dim) for speaker in data.spk2utt}
        if not result.aligned:
            return stats
        number = {speaker: place for place, speaker in enumerate(stats)}
        tids = np.concatenate([path.tids for _, path in result.aligned])
        speakers = np.repeat(
            [number[data.utt2spk[utterance]] for utterance, _ in result.aligned],
            [len(path.tids) for _, path in result.aligned],
        )
        accumulate_speakers(
            list(stats.values()),
            speakers,
            self._scores,
            np.concatenate(kept),
            self._transitions.pdfs[tids],
            self._weights[tids],
            posterior_gmms=self._unadapted,
        )
        return stats

    def _align(
        self,
        data: DataDir,
        model: DiagGmms | HasLogLikelihoods,
        speakers: Transforms | None,
        *,
        keep: bool = False,
    ) -> tuple[ChunkResult, list[Features]]:
        """Align with a model; the features of what could be aligned come back if wanted."""
        skipped = Skipped("alignment")
        result = ChunkResult(failed=skipped.reasons)
        kept: list[Features] = []
        for utterance, feats in self._front_end.iterate(data, skipped=skipped, speakers=speakers):
            try:
                words = self._lang.transcript_to_ids(data.text[utterance])
                graph = self._compiler.compile(words)
                path = self._transitions.align(graph, feats, model, self._scales)
            except DataError as error:
                skipped.add(utterance, str(error))
                continue
            result.aligned.append((utterance, path))
            if keep:
                kept.append(feats)
        return result, kept


_aligner: Aligner | None = None


def load_aligner(
    model_dir: Path,
    lang: Lang,
    scales: AlignmentScales,
    acoustic_model: HasLogLikelihoods,
    unadapted: DiagGmms | None,
) -> None:
    """Load what ``align_chunk`` and ``chunk_speaker_stats`` use, once a process."""
    global _aligner
    _aligner = Aligner(model_dir, lang, scales, acoustic_model, unadapted)


def align_chunk(item: tuple[DataDir, Transforms | None]) -> ChunkResult:
    """Align a part of the data, with its speakers' transforms if there are any."""
    assert _aligner is not None, "the pool's setup has run"
    return _aligner.align(*item)


def chunk_speaker_stats(data: DataDir) -> dict[str, FmllrStats]:
    """Statistics for the transforms of the speakers of a part of the data."""
    assert _aligner is not None, "the pool's setup has run"
    return _aligner.speaker_stats(data)
