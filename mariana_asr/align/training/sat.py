"""Speaker-adapted training: triphones on fMLLR features (Kaldi: steps/train_sat.sh)."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mariana_asr.align.formats.model_io import GmmModel, read_gmm_model, write_gmm_model
from mariana_asr.align.gmm.estimation import MleOptions, mle_update
from mariana_asr.align.phone_tables import speech_transition_ids
from mariana_asr.align.training.passes import PassModel, fmllr_pass, unadapted_pass
from mariana_asr.align.training.triphone import TriphoneOptions, TriphoneTraining, run_training
from mariana_asr.align.transforms.fmllr import FmllrOptions, FmllrResult
from mariana_asr.align.utterances import GmmAcousticModel, TransitionScores
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import FormatError, summarise
from mariana_asr.features.linear import (
    compose_affine,
    read_speaker_transforms,
    write_speaker_transforms,
)
from mariana_asr.files import write_text
from mariana_asr.lang.langdir import Lang

logger = logging.getLogger(__name__)

UNADAPTED_MODEL = "final.alimdl"
"""The model for speaker-independent features that matches the adapted one Gaussian for Gaussian:
its alignments are what a new speaker's first transform is estimated from (Kaldi's name)."""
UNADAPTED_FILE = "unadapted.txt"


class SatOptions(TriphoneOptions):
    """Options of speaker-adapted training, as in steps/train_sat.sh."""

    power: float = Field(default=0.2, ge=0)
    """Exponent that shares out Gaussians by the pdfs' counts."""
    fmllr_iters: tuple[int, ...] = (2, 4, 6, 12)
    """Iterations that estimate the speakers' transforms anew."""
    fmllr: FmllrOptions = FmllrOptions()
    """Estimation of the speakers' transforms."""


class _SatTraining(TriphoneTraining):
    """The features of the source's front end, transformed speaker by speaker."""

    name = "SAT"
    options: SatOptions

    def prepare_features(self) -> None:
        """Adapt the features by the source's transforms; estimate those that it lacks.

        Raises:
            FormatError: One of the source's does not fit its features.
        """
        self.adapt_iters = self.options.fmllr_iters
        taken = read_speaker_transforms(self.source) or {}
        speakers = sorted(set().union(*self.corpus.speakers_of_chunks()))
        self._results = {s: self._taken_over(taken[s]) for s in speakers if s in taken}
        if self._results:
            logger.info(
                "%s: transforms of %d of %d speakers from %s",
                self.name,
                len(self._results),
                len(speakers),
                self.source,
            )
        if missing := [speaker for speaker in speakers if speaker not in taken]:
            source = read_gmm_model(self.source / "final.mdl")
            scores = TransitionScores.of(
                source.transition_model,
                self.options,
                silence_phone=self.lang.optional_silence,
            )
            speech = speech_transition_ids(source.transition_model, self.lang)
            results = fmllr_pass(
                self.corpus, PassModel(source.gmm, scores), speech, self.options.fmllr
            )
            self._results |= {speaker: results[speaker] for speaker in missing}
        self._transforms = {speaker: result.matrix for speaker, result in self._results.items()}
        self.corpus.adapt(self._transforms)

    def _taken_over(self, matrix: NDArray[np.float32]) -> FmllrResult:
        dim = self.front_end.dim
        if matrix.shape != (dim, dim + 1):
            raise FormatError(
                f"a speaker's transform of shape {matrix.shape} for features of {dim} dimensions",
                where=self.source / "trans.*",
                remedy="They are of another system; without trans.* new ones are estimated",
            )
        adapted = not np.array_equal(matrix, np.eye(*matrix.shape))
        return FmllrResult(matrix, 0.0, 0.0, adapted, f"the unit transform in {self.source}")

    def adapt(self) -> dict[str, Any]:
        """Estimate transforms of the adapted features; the speakers' are composed of both."""
        results = fmllr_pass(self.corpus, self.pass_model(), self.speech, self.options.fmllr)
        # Who was adapted once stays so, even if there is too little data for it now.
        self._results |= {
            speaker: result
            for speaker, result in results.items()
            if result.adapted or not self._results[speaker].adapted
        }
        self._transforms = {
            speaker: compose_affine(result.matrix, self._transforms[speaker])
            for speaker, result in results.items()
        }
        self.corpus.adapt(self._transforms)
        frames = sum(result.count for result in results.values())
        gain = sum(result.count * result.improvement for result in results.values())
        return {
            "fmllr_improvement_per_frame": round(gain / max(frames, 1.0), 4),
            "adapted_speakers": sum(result.adapted for result in results.values()),
        }

    def finish(self) -> None:
        """Write the transforms and the model for features without them."""
        stats = unadapted_pass(self.corpus, self.pass_model())
        # Removing Gaussians would break the match with the adapted model.
        gmm, _ = mle_update(self.model.gmm, stats, MleOptions(remove_low_count_gaussians=False))
        unadapted = GmmModel(self.model.transition_model, gmm)
        write_gmm_model(self.out_dir / UNADAPTED_MODEL, unadapted)
        write_speaker_transforms(self.out_dir, self._transforms)
        report_unadapted(self.out_dir, self._results)


def report_unadapted(out_dir: Path, results: Mapping[str, FmllrResult]) -> None:
    """List the speakers that keep the unit transform in ``unadapted.txt``, and warn of them."""
    reasons = {s: result.reason for s, result in sorted(results.items()) if not result.adapted}
    lines = [f"{speaker} {reason}\n" for speaker, reason in reasons.items()]
    write_text(out_dir / UNADAPTED_FILE, "".join(lines))
    if reasons:
        logger.warning(
            "%d of %d speakers are not adapted (%s); reasons in %s",
            len(reasons),
            len(results),
            summarise(list(reasons)),
            out_dir / UNADAPTED_FILE,
        )


def train_sat(
    data: DataDir,
    lang: Lang,
    ali_dir: str | Path,
    options: SatOptions,
    out_dir: str | Path,
    *,
    jobs: int = 1,
) -> None:
    """Train a speaker-adapted system on top of another one's features (Kaldi: steps/train_sat.sh).

    Writes what ``train_mono`` writes, and ``trans.1`` (the speakers' transforms),
    ``final.alimdl`` (the model for features without them), ``unadapted.txt`` (speakers with too
    little data, with the reason) and ``final.mat`` if the features have one. Arguments and errors
    are those of ``train_deltas``; the features are those that ``ali_dir`` was trained on.
    """
    front_end = GmmAcousticModel.load(Path(ali_dir)).front_end
    front_end.check(data.path)
    run_training(_SatTraining, data, lang, ali_dir, options, out_dir, front_end, jobs=jobs)
