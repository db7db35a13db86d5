"""The iterations that all GMM systems share: realign, sum up, re-estimate, split Gaussians."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from mariana_asr.align.formats.model_io import GmmModel, write_gmm_model
from mariana_asr.align.formats.tree_io import ContextDependency, write_tree
from mariana_asr.align.gmm.device import DeviceName
from mariana_asr.align.gmm.estimation import MleOptions, mle_update, split_by_count
from mariana_asr.align.training.corpus import TrainingCorpus
from mariana_asr.align.training.passes import PassModel, PassResult, Realignment, gmm_pass, realign
from mariana_asr.align.utterances import TransitionScores
from mariana_asr.align.viterbi import BeamOptions, ScaleOptions
from mariana_asr.archives import write_int_vectors
from mariana_asr.features.front_end import FRONT_END_FILE, FrontEnd
from mariana_asr.features.kaldi_front_end import write_kaldi_front_end
from mariana_asr.files import atomic_file, write_text
from mariana_asr.kaldi import kaldi_hmm_gmm
from mariana_asr.lang.langdir import Lang
from mariana_asr.skipped import Skipped

logger = logging.getLogger(__name__)

_OUTPUTS = ("final.*", "trans.*", "unadapted.txt", "ali.*.gz", "*_opts", FRONT_END_FILE)
"""Files of a system, of any kind."""


class GmmTrainingOptions(ScaleOptions):
    """What the trainings of all GMM systems have in common, with the names of Kaldi's scripts."""

    num_iters: int = Field(ge=1)
    """Number of iterations."""
    max_iter_inc: int = Field(ge=1)
    """Last iteration in which the number of Gaussians grows."""
    totgauss: int = Field(ge=1)
    """Number of Gaussians at the end."""
    realign_iters: tuple[int, ...]
    """Iterations that begin with an alignment."""
    retry_beam: float = Field(default=40.0, ge=0)
    """Beam for a second try; 0 for none."""
    boost_silence: float = Field(default=1.0, gt=0)
    """Factor on the likelihoods of silence in alignments."""
    power: float = Field(default=0.25, ge=0)
    """Exponent that shares out Gaussians by the pdfs' counts."""
    seed: int = 0
    """Seed of the noise that moves the halves of a split Gaussian apart."""
    device: DeviceName = "auto"
    """Where likelihoods and statistics are computed; `auto` takes a GPU if there is one."""

    @field_validator("realign_iters")
    @classmethod
    def _begin_with_one(cls, iterations: tuple[int, ...]) -> tuple[int, ...]:
        if any(iteration < 1 for iteration in iterations):
            raise ValueError("iterations are counted from 1: there is no model to realign with yet")
        return iterations


class GmmTraining:
    """Viterbi training of a GMM system, from a first model on.

    Attributes:
        model: The current model.
        tree: Its tree.
        occupancy: Frames of each pdf in the last iteration, (P,).
        failed: Utterances that the last alignment could not align, with the reason.
    """

    def __init__(
        self,
        name: str,
        corpus: TrainingCorpus,
        lang: Lang,
        options: GmmTrainingOptions,
        out_dir: Path,
    ) -> None:
        """``name`` names the system in messages; ``out_dir`` gets ``log.jsonl``.

        A system that is there already is removed, so that its files are never taken for those of
        this one.
        """
        self.model: GmmModel
        self.tree: ContextDependency
        self.occupancy: NDArray[np.float64]
        self.failed: dict[str, str] = {}
        self.corpus = corpus
        self._name = name
        self.lang = lang
        self.options = options
        self._log_file = out_dir / "log.jsonl"
        self._random = np.random.default_rng(options.seed)
        remove_system(out_dir)
        write_text(self._log_file, "")

    def pass_model(self) -> PassModel:
        """The current model as passes over the corpus want it."""
        transitions = TransitionScores.of(
            self.model.transition_model,
            self.options,
            silence_phone=self.lang.optional_silence,
            boost_silence=self.options.boost_silence,
            device=self.options.device,
        )
        return PassModel(self.model.gmm, transitions)

    def run(
        self,
        iterations: Iterable[int],
        gaussians: int,
        *,
        beams: Callable[[int], BeamOptions],
        mle: Callable[[int], MleOptions] = lambda _: MleOptions(),
        adapt: Callable[[], dict[str, Any]] = dict,
        adapt_iters: Container[int] = (),
    ) -> bool:
        """Train, then align with the final model; False if at some point nothing was aligned.

        Args:
            iterations: The iterations' numbers.
            gaussians: How many Gaussians there are to be after the first.
            beams: The beams of an iteration's realignment.
            mle: Options of an iteration's estimate.
            adapt: What to do in some iterations between realignment and statistics; it may change
                the features and the model, and gives back what to note in the log.
            adapt_iters: These iterations.
        """
        options = self.options
        increment = max(0, options.totgauss - gaussians) // options.max_iter_inc
        last = 0
        for last in iterations:
            started = time.monotonic()
            again = beams(last) if last in options.realign_iters else None
            if last in adapt_iters:
                first = realign(self.corpus, self.pass_model(), again) if again else Realignment()
                noted = adapt()
                result = gmm_pass(self.corpus, self.pass_model(), None)
                result.realigned = first
            else:
                noted = {}
                result = gmm_pass(self.corpus, self.pass_model(), again)
            if again is not None:
                self.failed = result.realigned.failed
            if not result.stats.frames:
                return False
            self._update(result, gaussians, mle(last))
            self._log({"iteration": last, "realigned": again is not None} | noted, result, started)
            if 1 <= last <= options.max_iter_inc:
                gaussians += increment
        final = realign(self.corpus, self.pass_model(), beams(last + 1))
        self.failed = final.failed
        return final.aligned > 0

    def _update(self, result: PassResult, gaussians: int, mle: MleOptions) -> None:
        """Re-estimate transitions and Gaussians, then split up to a number of Gaussians."""
        self.model.transition_model.mle_update(
            result.transition_counts, kaldi_hmm_gmm.MleTransitionUpdateConfig()
        )
        self.occupancy = result.stats.pdf_occupancy(self.model.gmm)
        gmm, summary = mle_update(self.model.gmm, result.stats, mle)
        logger.debug("removed %d Gaussians, floored %d", summary.removed, summary.floored)
        self.model = GmmModel(self.model.transition_model, gmm)
        self.split(gaussians, power=self.options.power)

    def split(self, gaussians: int, *, power: float) -> None:
        """Split Gaussians until there are so many, shared out by the pdfs' frames."""
        gmm = split_by_count(
            self.model.gmm, self.occupancy, gaussians, power=power, random=self._random
        )
        self.model = GmmModel(self.model.transition_model, gmm)

    def _log(self, noted: dict[str, Any], result: PassResult, started: float) -> None:
        stats = result.stats
        entry = {
            **noted,
            "log_likelihood_per_frame": round(stats.log_like / stats.frames, 4),
            "frames": stats.frames,
            "gaussians": self.model.gmm.num_gaussians,
            "retried": result.realigned.retried,
            "failed": len(self.failed),
            "seconds": round(time.monotonic() - started, 3),
        }
        with open(self._log_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        logger.info(
            "%s iteration %d of %d: log-likelihood %.3f a frame, %d Gaussians",
            self._name,
            entry["iteration"],
            self.options.num_iters - 1,
            entry["log_likelihood_per_frame"],
            entry["gaussians"],
        )


def remove_system(folder: Path) -> None:
    """Remove a system of GMMs, so that its files are never taken for those of the next one."""
    for old in [path for pattern in _OUTPUTS for path in folder.glob(pattern)]:
        old.unlink()


def write_system(
    out_dir: Path, training: GmmTraining, lang: Lang, front_end: FrontEnd, skipped: Skipped
) -> None:
    """Write a trained system in the form of Kaldi's directories, its alignments among them.

    Raises:
        StageError: Nothing could be aligned.
    """
    for utterance, reason in training.failed.items():
        skipped.add(utterance, reason)
    done = write_int_vectors(out_dir / "ali.1.gz", training.corpus.alignments())
    if not done:
        (out_dir / "ali.1.gz").unlink()
    skipped.finish(out_dir / "skipped.txt", done)
    write_text(out_dir / "num_jobs", "1\n")
    with atomic_file(out_dir / "phones.txt") as temporary:
        shutil.copyfile(lang.path / "phones.txt", temporary)
    front_end.save(out_dir)
    write_kaldi_front_end(out_dir, front_end)
    write_tree(out_dir / "tree", training.tree)
    occupancy = " ".join(f"{count:g}" for count in training.occupancy)
    write_text(out_dir / "final.occs", f" [ {occupancy} ]\n")
    # The model comes last: where it is, everything is.
    write_gmm_model(out_dir / "final.mdl", training.model)
