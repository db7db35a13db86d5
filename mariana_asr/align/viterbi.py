"""Viterbi alignment of an utterance to its training graph."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.align.formats.model_io import TransitionModel
from mariana_asr.align.graphs import TrainingGraph
from mariana_asr.kaldi import kaldi_hmm_gmm, kaldifst
from mariana_asr.options import Options


class ScaleOptions(Options):
    """Kaldi's scales of probabilities in alignment, with the defaults of its scripts."""

    transition_scale: float = 1.0
    """Scale of the log-probabilities of transitions between states."""
    acoustic_scale: float = Field(default=0.1, gt=0)
    """Scale of the acoustic log-likelihoods."""
    self_loop_scale: float = 0.1
    """Scale of the log-probabilities of staying in a state or leaving it."""


class BeamOptions(Options):
    """Beams of the alignment's search."""

    beam: float = Field(default=10.0, gt=0)
    """Paths that are worse than the best one by more than this are given up."""
    retry_beam: float = Field(default=40.0, ge=0)
    """The beam for a second try, when no path reached the end; 0 for none."""

    @model_validator(mode="after")
    def _check(self) -> "BeamOptions":
        if self.retry_beam and self.retry_beam <= self.beam:
            raise ValueError(f"retry_beam must be above beam ({self.beam:g}), or 0 for no retry")
        return self


@dataclass(frozen=True)
class AlignedPath:
    """The best path of an utterance.

    Attributes:
        tids: Transition id of each frame, shape (T,).
        log_like: Log-likelihood of the path, transitions included, divided by the acoustic scale
            as Kaldi reports it.
        retried: Whether it took the second, wider beam.
        frame_scores: Log-likelihood of each frame on the path, shape (T,), its transition included.
    """

    tids: NDArray[np.int32]
    log_like: float
    retried: bool
    frame_scores: NDArray[np.float32]


def scaled_transition_log_probs(
    transition_model: TransitionModel, scales: ScaleOptions
) -> NDArray[np.float32]:
    """Log-probability of every transition id as it counts in a graph (index 0 is none).

    Staying and leaving are scaled by ``self_loop_scale``, the choice among ways to leave by
    ``transition_scale`` (Kaldi: GetScaledTransitionLogProb).
    """
    log_probs = np.array(transition_model.log_probs)
    if scales.transition_scale == scales.self_loop_scale:
        return (log_probs * scales.transition_scale).astype(np.float32)
    states = np.array(transition_model.id2state)
    leaving = np.array(transition_model.non_self_loop_log_probs)[states]
    self_loops = np.array(
        [False, *map(transition_model.is_self_loop, range(1, len(log_probs)))], dtype=bool
    )
    scaled = np.where(
        self_loops,
        scales.self_loop_scale * log_probs,
        scales.self_loop_scale * leaving + scales.transition_scale * (log_probs - leaving),
    )
    return scaled.astype(np.float32)


def best_path(
    graph: TrainingGraph,
    scores: NDArray[np.float32],
    *,
    acoustic_scale: float,
    beams: BeamOptions,
) -> AlignedPath | None:
    """Find the best path; None if even the retry beam lost it.

    Args:
        graph: The training graph; it carries no transition probabilities.
        scores: Shape (T, n): for each frame and each of the graph's n transition ids the
            acoustic log-likelihood times its scale, plus the scaled log-probability of the
            transition. (Every arc that takes a frame names its transition, so adding both here
            equals Kaldi's adding the latter to the graph.)
        acoustic_scale: The scale in ``scores``, only to report the likelihood without it.
        beams: Beam and retry beam, on the scale of ``scores``.
    """
    if not len(scores):
        return None
    decodable = kaldi_hmm_gmm.DecodableCtc(np.ascontiguousarray(scores, dtype=np.float32))
    retried = False
    options = kaldi_hmm_gmm.FasterDecoderOptions(beam=beams.beam)
    decoder = kaldi_hmm_gmm.FasterDecoder(graph.fst, options)
    decoder.decode(decodable)
    if not decoder.reached_final() and beams.retry_beam:
        retried = True
        decoder.set_options(kaldi_hmm_gmm.FasterDecoderOptions(beam=beams.retry_beam))
        decoder.decode(decodable)
    if not decoder.reached_final():
        return None
    found, lattice = decoder.get_best_path()
    if not found:
        return None
    _, labels, _, weight = kaldifst.get_linear_symbol_sequence(lattice)
    columns = np.asarray(labels) - 1
    return AlignedPath(
        tids=graph.tids[columns],
        log_like=-(weight.value1 + weight.value2) / acoustic_scale,
        retried=retried,
        frame_scores=scores[np.arange(len(columns)), columns] / np.float32(acoustic_scale),
    )
