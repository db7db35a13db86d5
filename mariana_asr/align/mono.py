"""Monophone GMM-HMM training by flat start and Viterbi training (Kaldi: steps/train_mono.sh)."""

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.align.gmm import DiagGmms
from mariana_asr.align.gmm_estimation import MleOptions, mle_update, split_by_count
from mariana_asr.align.model_io import GmmModel, write_gmm_model
from mariana_asr.align.training_corpus import (
    FeatureMoments,
    PassModel,
    PassResult,
    TrainingCorpus,
)
from mariana_asr.align.tree_io import ContextDependency, write_tree
from mariana_asr.align.utterances import TransitionScores, report_oov_words
from mariana_asr.align.viterbi import BeamOptions, ScaleOptions
from mariana_asr.archives import write_int_vectors
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import FormatError, StageError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.transform import TransformOptions
from mariana_asr.files import atomic_file, write_text
from mariana_asr.kaldi import kaldi_hmm_gmm
from mariana_asr.lang.langdir import Lang
from mariana_asr.parallel import WorkerPool
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)


class MonoOptions(ScaleOptions):
    """Options of monophone training, with the names and defaults of steps/train_mono.sh."""

    num_iters: int = Field(default=40, ge=1)
    """Number of iterations, the one on the flat start among them."""
    max_iter_inc: int = Field(default=30, ge=1)
    """Last iteration in which the number of Gaussians grows."""
    totgauss: int = Field(default=1000, ge=1)
    """Number of Gaussians at the end."""
    initial_beam: float = Field(default=6.0, gt=0)
    """Beam of the first alignment."""
    regular_beam: float = Field(default=10.0, gt=0)
    """Beam of the later alignments."""
    retry_beam: float = Field(default=40.0, ge=0)
    """Beam for a second try; 0 for none."""
    boost_silence: float = Field(default=1.0, gt=0)
    """Factor on the likelihoods of silence in alignments."""
    # fmt: off
    realign_iters: tuple[int, ...] = (
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 23, 26, 29, 32, 35, 38,
    )
    # fmt: on
    """Iterations that begin with an alignment."""
    power: float = Field(default=0.25, ge=0)
    """Exponent that shares out Gaussians by the pdfs' counts."""
    seed: int = 0
    """Seed of the noise that moves the halves of a split Gaussian apart."""
    transform: TransformOptions = TransformOptions(delta_order=2)
    """Normalisation and deltas of the features."""

    @model_validator(mode="after")
    def _check(self) -> "MonoOptions":
        if 0 in self.realign_iters:
            raise ValueError("iteration 0 is the flat start: there is no model to realign with")
        for iteration in (1, 2):
            self.beams(iteration)
        return self

    def beams(self, iteration: int) -> BeamOptions:
        """Beams of an iteration: the first model is so bad that a wide beam is wasted on it."""
        beam = self.initial_beam if iteration == 1 else self.regular_beam
        return BeamOptions(beam=beam, retry_beam=self.retry_beam)


def train_mono(
    data: DataDir, lang: Lang, options: MonoOptions, out_dir: str | Path, *, jobs: int = 1
) -> None:
    """Train a monophone GMM-HMM on features and transcripts.

    Writes ``final.mdl``, ``tree``, ``final.occs``, ``ali.1.gz`` (transition ids), ``num_jobs``,
    ``phones.txt``, ``front_end.json``, ``log.jsonl`` (a line an iteration) and ``skipped.txt``
    to ``out_dir``. The result does not depend on ``jobs``.

    Raises:
        DataError: The data directory has no features, or no CMVN statistics where they are wanted.
        FormatError: The lang directory is malformed.
        StageError: No utterance could be aligned.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    front_end = FrontEnd.of(data, options.transform)
    skipped = Skipped("monophone training")
    report_oov_words(data, lang)
    with WorkerPool(jobs) as pool, TrainingCorpus(out_dir, pool) as corpus:
        training = _Training(corpus, lang, options, out_dir / "log.jsonl")
        done = 0
        if training.prepare(data, front_end, skipped) and training.run(skipped):
            done = write_int_vectors(out_dir / "ali.1.gz", corpus.alignments())
    skipped.finish(out_dir / "skipped.txt", done)
    write_text(out_dir / "num_jobs", "1\n")
    with atomic_file(out_dir / "phones.txt") as temporary:
        shutil.copyfile(lang.path / "phones.txt", temporary)
    front_end.save(out_dir)
    write_tree(out_dir / "tree", training.tree)
    occupancy = " ".join(f"{count:g}" for count in training.occupancy)
    write_text(out_dir / "final.occs", f" [ {occupancy} ]\n")
    # The model comes last: where it is, everything is.
    write_gmm_model(out_dir / "final.mdl", training.model)


def _initial_model(lang: Lang, moments: FeatureMoments) -> tuple[GmmModel, ContextDependency]:
    """One Gaussian a pdf, all with the same mean and variance (Kaldi: gmm-init-mono)."""
    mean = moments.total / moments.frames
    variance = moments.squares / moments.frames - np.square(mean)
    if not (variance > 0).all():
        constant = np.flatnonzero(~(variance > 0)).tolist()
        raise StageError(
            f"feature dimensions {constant} never vary",
            remedy="Check the audio and the features' options",
        )
    topology = lang.topology()
    try:
        tree = kaldi_hmm_gmm.monophone_context_dependency_shared(
            [sorted(phones) for phones in lang.phone_sets], topology.get_phone_to_num_pdf_classes()
        )
        transition_model = kaldi_hmm_gmm.TransitionModel(tree, topology)
    except RuntimeError as error:
        raise FormatError(
            f"phones/sets.int and topo do not fit each other: {error}", where=lang.path
        ) from error
    pdfs = tree.num_pdfs
    gmm = DiagGmms.from_moments(
        np.ones(pdfs), np.tile(mean, (pdfs, 1)), np.tile(variance, (pdfs, 1)), np.arange(pdfs + 1)
    )
    return GmmModel(transition_model, gmm), tree


class _Training:
    """The iterations of train_mono.sh, and their log."""

    model: GmmModel
    tree: ContextDependency
    occupancy: NDArray[np.float64]

    def __init__(
        self, corpus: TrainingCorpus, lang: Lang, options: MonoOptions, log_file: Path
    ) -> None:
        self._corpus = corpus
        self._lang = lang
        self._options = options
        self._log_file = log_file
        self._random = np.random.default_rng(options.seed)

    def prepare(self, data: DataDir, front_end: FrontEnd, skipped: Skipped) -> bool:
        """Pack the features, make the first model and the graphs; False if nothing is usable."""
        moments = self._corpus.pack(data, front_end, skipped)
        if moments is None:
            return False
        self.model, self.tree = _initial_model(self._lang, moments)
        self._corpus.compile_graphs(self.model.transition_model, self.tree, self._lang, skipped)
        return True

    def run(self, skipped: Skipped) -> bool:
        """Train; False if at some point no utterance could be aligned.

        Utterances that the last alignment left out go to ``skipped``.
        """
        options = self._options
        write_text(self._log_file, "")
        gaussians = self.model.gmm.num_gaussians
        increment = max(0, options.totgauss - gaussians) // options.max_iter_inc
        started = time.monotonic()
        failed = self._corpus.align_equally()
        for iteration in range(options.num_iters):
            beams = options.beams(iteration) if iteration in options.realign_iters else None
            result = self._corpus.run_pass(self._pass_model(), beams)
            if beams is not None:
                failed = result.failed
            if not result.stats.frames:
                break
            # Few frames are enough at first: a phone that got no Gaussian of its own in the first
            # estimate would never get frames in the later ones (train_mono.sh).
            self._update(
                result, gaussians, MleOptions(min_gaussian_occupancy=10 if iteration else 3)
            )
            self._log(iteration, result, beams, failed, started)
            if 1 <= iteration <= options.max_iter_inc:
                gaussians += increment
            started = time.monotonic()
        for utterance, reason in failed.items():
            skipped.add(utterance, reason)
        return result.stats.frames > 0

    def _pass_model(self) -> PassModel:
        transitions = TransitionScores.of(
            self.model.transition_model,
            self._options,
            silence_phone=self._lang.optional_silence,
            boost_silence=self._options.boost_silence,
        )
        return PassModel(self.model.gmm, transitions)

    def _update(self, result: PassResult, gaussians: int, mle: MleOptions) -> None:
        """Re-estimate transitions and Gaussians, then split up to a number of Gaussians."""
        self.model.transition_model.mle_update(
            result.transition_counts, kaldi_hmm_gmm.MleTransitionUpdateConfig()
        )
        self.occupancy = result.stats.pdf_occupancy(self.model.gmm)
        gmm, summary = mle_update(self.model.gmm, result.stats, mle)
        logger.debug("removed %d Gaussians, floored %d", summary.removed, summary.floored)
        gmm = split_by_count(
            gmm, self.occupancy, gaussians, power=self._options.power, random=self._random
        )
        self.model = GmmModel(self.model.transition_model, gmm)

    def _log(
        self,
        iteration: int,
        result: PassResult,
        beams: BeamOptions | None,
        failed: dict[str, str],
        started: float,
    ) -> None:
        stats = result.stats
        entry: dict[str, Any] = {
            "iteration": iteration,
            "log_likelihood_per_frame": round(stats.log_like / stats.frames, 4),
            "frames": stats.frames,
            "gaussians": self.model.gmm.num_gaussians,
            "realigned": beams is not None,
            "retried": result.retried,
            "failed": len(failed),
            "seconds": round(time.monotonic() - started, 3),
        }
        with open(self._log_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        logger.info(
            "monophone iteration %d of %d: log-likelihood %.3f a frame, %d Gaussians",
            iteration,
            self._options.num_iters - 1,
            entry["log_likelihood_per_frame"],
            entry["gaussians"],
        )
