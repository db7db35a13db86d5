"""Aligning one utterance after the other: what all forms of forced alignment share."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import TransitionModel, read_gmm_model, transition_id_to_pdf
from mariana_asr.align.gmm.device import DeviceName, find_gpu, on_device
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.graphs import TrainingGraph
from mariana_asr.align.viterbi import (
    AlignedPath,
    BeamOptions,
    ScaleOptions,
    best_path,
    scaled_transition_log_probs,
)
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError, FormatError, summarise
from mariana_asr.features.front_end import FRONT_END_FILE, FrontEnd
from mariana_asr.features.kaldi_front_end import read_kaldi_front_end
from mariana_asr.features.transform import TransformOptions
from mariana_asr.kaldi import kaldi_hmm_gmm
from mariana_asr.lang.langdir import Lang
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

MOST_IN_CHUNK, FEWEST_IN_CHUNK, CHUNKS = 128, 16, 16
"""How many utterances a process takes at once: the more, the faster the statistics, but even a
small corpus is to keep some processes at work."""


class HasLogLikelihoods(Protocol):
    """An acoustic model, Gaussian or neural, that alignment can use."""

    @property
    def front_end(self) -> FrontEnd:
        """The features that it takes."""
        ...

    def log_likelihoods(self, feats: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-likelihood of every frame under every pdf, (T, D) to (T, P)."""
        ...


@dataclass(frozen=True)
class GmmAcousticModel:
    """GMMs with the front end of their features."""

    gmm: DiagGmms
    front_end: FrontEnd

    @classmethod
    def load(cls, model_dir: Path) -> "GmmAcousticModel":
        """Read ``final.mdl`` and its front end: ``front_end.json``, or what Kaldi leaves.

        Raises:
            FormatError: One is missing or damaged, or their dimensions differ.
        """
        gmm = read_gmm_model(model_dir / "final.mdl").gmm
        if (model_dir / FRONT_END_FILE).exists():
            front_end = FrontEnd.load(model_dir)
        else:
            front_end = read_kaldi_front_end(model_dir, gmm.dim)
            logger.info("%s is taken for a model by Kaldi: %s", model_dir, front_end.describe())
        if gmm.dim != front_end.dim:
            raise FormatError(
                f"the GMMs have {gmm.dim} dimensions, their front end gives {front_end.dim}",
                where=model_dir,
                remedy="One of the two files is of another model",
            )
        return cls(gmm, front_end)

    def log_likelihoods(self, feats: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-likelihood of every frame under every pdf, (T, D) to (T, P)."""
        return self.gmm.log_likelihoods(feats)


@dataclass(frozen=True)
class TransitionScores:
    """What transitions and silence add to the acoustic scores of an alignment.

    Attributes:
        pdfs: Pdf id of every transition id; index 0 is none.
        log_probs: Scaled log-probability of every transition id, the boost of silence included.
        acoustic_scale: Scale of the acoustic log-likelihoods.
        device: Where GMMs are scored.
    """

    pdfs: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    acoustic_scale: float
    device: DeviceName = "cpu"

    @classmethod
    def of(
        cls,
        transition_model: TransitionModel,
        scales: ScaleOptions,
        *,
        silence_phone: int,
        boost_silence: float = 1.0,
        device: DeviceName = "cpu",
    ) -> "TransitionScores":
        """Take them from a transition model.

        ``boost_silence`` multiplies the likelihoods of the optional silence's pdfs, which is what
        scaling their mixture weights does (Kaldi: gmm-boost-silence).
        """
        pdfs = transition_id_to_pdf(transition_model)
        log_probs = scaled_transition_log_probs(transition_model, scales)
        if boost_silence != 1.0:
            _, silence = kaldi_hmm_gmm.get_pdfs_for_phones(transition_model, [silence_phone])
            log_probs[np.isin(pdfs, silence)] += scales.acoustic_scale * np.log(boost_silence)
        return cls(pdfs, log_probs, scales.acoustic_scale, device)

    def align(
        self,
        graph: TrainingGraph,
        feats: NDArray[np.float32],
        model: DiagGmms | HasLogLikelihoods,
        beams: BeamOptions,
    ) -> AlignedPath:
        """Align an utterance's features, shape (T, D), to its graph.

        Raises:
            DataError: It cannot be aligned; the error says why.
        """
        pdfs = self.pdfs[graph.tids]
        if isinstance(model, DiagGmms):
            # Most pdfs do not occur in a transcript, and GMMs are scored one by one.
            own, columns = np.unique(pdfs, return_inverse=True)
            gpu = find_gpu(self.device)
            scorer = model if gpu is None else on_device(model, gpu)
            log_likes = scorer.log_likelihoods(feats, own)[:, columns]
        else:
            log_likes = model.log_likelihoods(feats)[:, pdfs]
        scores = np.float32(self.acoustic_scale) * log_likes + self.log_probs[graph.tids]
        path = best_path(graph, scores, acoustic_scale=self.acoustic_scale, beams=beams)
        if path is None:
            needed = graph.min_frames()
            if needed > len(feats):
                raise DataError(
                    f"too few frames: {len(feats)}, but its transcript needs {needed} or more"
                )
            widest = max(beams.beam, beams.retry_beam)
            raise DataError(f"no path to the end of its transcript within beam {widest:g}")
        return path


def usable_utterances(data: DataDir, transform: TransformOptions, skipped: Skipped) -> list[str]:
    """Utterances with features and a transcript, sorted; the others go to ``skipped``."""
    usable = []
    for utterance in data.utterances:
        if not data.text.get(utterance):
            has_line = utterance in data.text
            skipped.add(utterance, "empty transcript" if has_line else "no transcript")
        elif utterance not in (data.feats or {}):
            skipped.add(utterance, "no features")
        elif transform.needs_stats and data.utt2spk[utterance] not in (data.cmvn or {}):
            skipped.add(utterance, f"no CMVN statistics of {data.utt2spk[utterance]}")
        else:
            usable.append(utterance)
    return usable


def split_in_chunks(data: DataDir, utterances: Sequence[str]) -> Iterator[DataDir]:
    """Cut a data directory into parts that are small enough to send around.

    Sums are formed part by part, so the cuts must not depend on the number of processes.
    """
    size = min(MOST_IN_CHUNK, max(FEWEST_IN_CHUNK, -(-len(utterances) // CHUNKS)))
    for start in range(0, len(utterances), size):
        chunk = utterances[start : start + size]
        utt2spk = {utterance: data.utt2spk[utterance] for utterance in chunk}
        speakers = set(utt2spk.values())
        yield replace(
            data,
            utt2spk=utt2spk,
            text={utterance: data.text[utterance] for utterance in chunk},
            wav={},
            segments=None,
            feats={utterance: (data.feats or {})[utterance] for utterance in chunk},
            cmvn={s: data.cmvn[s] for s in speakers if s in data.cmvn} if data.cmvn else None,
            spk2gender={},
            speeds={},
        )


def report_oov_words(data: DataDir, lang: Lang) -> None:
    """Warn of words in the transcripts that the lexicon lacks; they are aligned as unknown."""
    counts = Counter(word for text in data.text.values() for word in lang.oov_words(text))
    if counts:
        listed = [f"{word} ({count})" for word, count in counts.most_common()]
        logger.warning(
            "%d words of the transcripts are not in the lexicon and are taken for %s: %s",
            counts.total(),
            lang.oov_word,
            summarise(listed, 20),
        )
