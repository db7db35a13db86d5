"""Context-dependent GMM-HMMs: what the systems on deltas, LDA+MLLT and fMLLR have in common."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.phone_tables import check_phones, speech_transition_ids
from mariana_asr.align.training.corpus import TrainingCorpus
from mariana_asr.align.training.iterations import GmmTraining, GmmTrainingOptions, write_system
from mariana_asr.align.training.passes import convert_pass, tree_pass
from mariana_asr.align.tree.building import TreeOptions, build_tree
from mariana_asr.align.tree.initial_model import initial_gmms
from mariana_asr.align.tree.phones import PhoneTable
from mariana_asr.align.tree.questions import cluster_phones, read_questions
from mariana_asr.align.tree.statistics import TreeStats
from mariana_asr.align.utterances import report_oov_words
from mariana_asr.align.viterbi import BeamOptions
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import RecipeError, summarise
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.transform import DeltaTransformOptions
from mariana_asr.lang.langdir import Lang
from mariana_asr.parallel import WorkerPool
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)


class TriphoneOptions(GmmTrainingOptions, TreeOptions):
    """What trainings of triphone systems have in common, with Kaldi's names and defaults."""

    num_leaves: int = Field(default=2000, ge=1)
    """Leaves of the decision tree at most: pdfs."""
    totgauss: int = Field(default=10000, ge=1)
    """Number of Gaussians at the end."""
    num_iters: int = Field(default=35, ge=1)
    """Number of iterations, counted from 1, the last one left out as in Kaldi's scripts."""
    max_iter_inc: int = Field(default=25, ge=1)
    """Last iteration in which the number of Gaussians grows."""
    beam: float = Field(default=10.0, gt=0)
    """Beam of alignments."""
    realign_iters: tuple[int, ...] = (10, 20, 30)
    """Iterations that begin with an alignment."""
    questions: Path | None = None
    """A file of questions for the tree (lines of phone ids, Kaldi's questions.int); by default
    they are found by clustering the phones. Those of the lang directory always come on top."""

    @model_validator(mode="after")
    def _check(self) -> "TriphoneOptions":
        self.beams()
        return self

    def beams(self, iteration: int = 0) -> BeamOptions:
        """Beams of alignments, the same in all iterations."""
        return BeamOptions(beam=self.beam, retry_beam=self.retry_beam)


class DeltasOptions(TriphoneOptions):
    """Options of triphones on features with deltas, as in steps/train_deltas.sh."""

    transform: DeltaTransformOptions = DeltaTransformOptions()
    """Normalisation and deltas of the features."""


class TriphoneTraining(GmmTraining):
    """Training of a triphone system on another system's alignments.

    Subclasses say which features they want (``prepare_features``) and what they do to features or
    model in the course of the training (``adapt``).

    Attributes:
        front_end: What the corpus is packed with; in the end, what the model wants.
        source: Folder of the other system: its alignments and its model.
        source_transitions: Its transition model.
        splits_first: Whether Gaussians are split before the first iteration.
    """

    name = "triphone"
    options: TriphoneOptions
    splits_first = False
    adapt_iters: tuple[int, ...] = ()

    def __init__(
        self,
        corpus: TrainingCorpus,
        lang: Lang,
        options: TriphoneOptions,
        source: Path,
        out_dir: Path,
        front_end: FrontEnd,
    ) -> None:
        """Nothing is read of the corpus yet."""
        super().__init__(self.name, corpus, lang, options, out_dir)
        self.front_end = front_end
        self.source = source
        self.out_dir = out_dir
        self.source_transitions = read_transition_model(source / "final.mdl")

    def prepare_features(self) -> None:
        """Make of the packed features what the tree is built on."""

    def adapt(self) -> dict[str, Any]:
        """What ``adapt_iters`` do; gives back what to note in the log."""
        return {}

    def finish(self) -> None:
        """Write what goes beyond a plain system."""

    @property
    def speech(self) -> NDArray[np.bool_]:
        """For each transition id of the current model whether its phone is no silence."""
        return speech_transition_ids(self.model.transition_model, self.lang)

    def train(self, data: DataDir, skipped: Skipped) -> None:
        """Train and write the system.

        Raises:
            StageError: No utterance could be aligned.
        """
        options = self.options
        self.corpus.pack(data, self.front_end, skipped)
        self.failed = self.corpus.load_alignments(self.source, self.source_transitions)
        self._check_that_some_are_aligned(skipped)
        self.prepare_features()
        stats = self._tree_statistics()
        self._check_that_some_are_aligned(skipped)
        self._make_tree(stats)
        if self.splits_first:
            # With gmm-mixup's own power.
            self.split(options.num_leaves, power=0.2)
        self.corpus.set_model(self.model.transition_model, self.tree)
        self.failed |= convert_pass(self.corpus, self.source)
        self.corpus.compile_graphs(self.lang, skipped)
        trained = self.run(
            range(1, options.num_iters),
            options.num_leaves,
            beams=options.beams,
            adapt=self.adapt,
            adapt_iters=self.adapt_iters,
        )
        if trained:
            self.finish()
        write_system(self.out_dir, self, self.lang, self.front_end, skipped)

    def _check_that_some_are_aligned(self, skipped: Skipped) -> None:
        """Raise StageError if there is no utterance with an alignment."""
        if len(self.failed) == self.corpus.num_utterances:
            for utterance, reason in self.failed.items():
                skipped.add(utterance, reason)
            skipped.finish(self.out_dir / "skipped.txt", 0)

    def _tree_statistics(self) -> TreeStats:
        options = self.options
        table = PhoneTable.of(self.source_transitions, self.lang.context_indep_phones)
        stats, left_out = tree_pass(
            self.corpus, table, width=options.context_width, central=options.central_position
        )
        if left_out:
            logger.warning(
                "%s: alignments that are no whole phones are left out of the tree: %s",
                self.name,
                summarise(left_out),
            )
        self.failed |= dict.fromkeys(left_out, "its alignment is no sequence of whole phones")
        return stats

    def _make_tree(self, stats: TreeStats) -> None:
        options = self.options
        lang = self.lang
        if options.questions is not None:
            questions = read_questions(options.questions)
        else:
            questions = cluster_phones(
                stats,
                lang.phone_sets,
                pdf_class_list=options.pdf_class_list,
                var_floor=options.var_floor,
            )
        questions += read_questions(lang.path / "phones" / "extra_questions.int")
        topology = lang.topology()
        self.tree = build_tree(stats, lang.roots, questions, topology, options)
        self.model, self.occupancy = initial_gmms(
            stats, self.tree, topology, var_floor=options.var_floor
        )
        logger.info(
            "%s: %d leaves from %d contexts, %d questions",
            self.name,
            self.tree.num_pdfs,
            len(stats),
            len(questions),
        )


class _DeltasTraining(TriphoneTraining):
    """Features with deltas, packed as they are."""

    name = "triphone"
    splits_first = True


def train_deltas(
    data: DataDir,
    lang: Lang,
    ali_dir: str | Path,
    options: DeltasOptions,
    out_dir: str | Path,
    *,
    jobs: int = 1,
) -> None:
    """Train triphones on features with deltas (Kaldi: steps/train_deltas.sh).

    Writes what ``train_mono`` writes.

    Args:
        data: Features and transcripts.
        lang: Lexicon, phones and topology; the phones must be those of the alignments.
        ali_dir: Another system's alignments of the data, with its ``final.mdl``.
        options: Sizes and schedule.
        out_dir: Where the system goes.
        jobs: Number of processes; the result does not depend on it.

    Raises:
        DataError: The data directory has no features, or no CMVN statistics where they are wanted.
        FormatError: The lang directory, the alignments or their model are missing or damaged.
        RecipeError: ``out_dir`` is ``ali_dir``.
        StageError: No utterance could be aligned.
    """
    front_end = FrontEnd.of(data, options.transform)
    run_training(_DeltasTraining, data, lang, ali_dir, options, out_dir, front_end, jobs=jobs)


def run_training(
    kind: type[TriphoneTraining],
    data: DataDir,
    lang: Lang,
    ali_dir: str | Path,
    options: TriphoneOptions,
    out_dir: str | Path,
    front_end: FrontEnd,
    *,
    jobs: int,
) -> None:
    """Train a triphone system of some kind; see ``train_deltas`` for arguments and errors."""
    ali_dir, out_dir = Path(ali_dir), Path(out_dir)
    if out_dir.resolve() == ali_dir.resolve():
        raise RecipeError(
            "the alignments to train on are in the directory of the output",
            where=out_dir,
            remedy="Name another directory for the output",
        )
    check_phones(lang, ali_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    report_oov_words(data, lang)
    skipped = Skipped(f"{kind.name} training")
    with WorkerPool(jobs) as pool, TrainingCorpus(out_dir, pool) as corpus:
        kind(corpus, lang, options, ali_dir, out_dir, front_end).train(data, skipped)
