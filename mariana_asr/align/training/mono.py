"""Monophone GMM-HMM training by flat start and Viterbi training (Kaldi: steps/train_mono.sh)."""

from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from mariana_asr.align.formats.model_io import GmmModel
from mariana_asr.align.formats.tree_io import ContextDependency
from mariana_asr.align.gmm.estimation import MleOptions
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.training.corpus import FeatureMoments, TrainingCorpus
from mariana_asr.align.training.iterations import GmmTraining, GmmTrainingOptions, write_system
from mariana_asr.align.utterances import report_oov_words
from mariana_asr.align.viterbi import BeamOptions
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import FormatError, StageError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.transform import DeltaTransformOptions
from mariana_asr.kaldi import kaldi_hmm_gmm
from mariana_asr.lang.langdir import Lang
from mariana_asr.parallel import WorkerPool
from mariana_asr.skipped import Skipped


class MonoOptions(GmmTrainingOptions):
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
    # fmt: off
    realign_iters: tuple[int, ...] = (
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 23, 26, 29, 32, 35, 38,
    )
    # fmt: on
    """Iterations that begin with an alignment; iteration 0 is the flat start."""
    transform: DeltaTransformOptions = DeltaTransformOptions()
    """Normalisation and deltas of the features."""

    @model_validator(mode="after")
    def _check(self) -> "MonoOptions":
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

    Writes ``final.mdl``, ``tree``, ``final.occs``, ``ali.1.gz`` (transition ids, by the final
    model), ``num_jobs``, ``phones.txt``, ``front_end.json``, ``cmvn_opts``, ``delta_opts``,
    ``log.jsonl`` (a line an iteration) and ``skipped.txt`` to ``out_dir``. The result does not
    depend on ``jobs``.

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
        moments = corpus.pack(data, front_end, skipped)
        if moments is None:
            skipped.finish(out_dir / "skipped.txt", 0)
            return
        training = GmmTraining("monophone", corpus, lang, options, out_dir)
        training.model, training.tree = _initial_model(lang, moments)
        corpus.set_model(training.model.transition_model, training.tree)
        corpus.compile_graphs(lang, skipped)
        training.failed = corpus.align_equally()
        training.run(
            range(options.num_iters),
            training.model.gmm.num_gaussians,
            beams=options.beams,
            # Few frames are enough at first: a phone that got no Gaussian of its own in the first
            # estimate would never get frames in the later ones (train_mono.sh).
            mle=lambda iteration: MleOptions(min_gaussian_occupancy=10 if iteration else 3),
        )
        write_system(out_dir, training, lang, front_end, skipped)


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
