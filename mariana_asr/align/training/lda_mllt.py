"""Triphones on spliced features projected by LDA, with MLLT (Kaldi: steps/train_lda_mllt.sh)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from mariana_asr.align.formats.model_io import GmmModel, transition_id_to_pdf
from mariana_asr.align.phone_tables import speech_transition_ids
from mariana_asr.align.training.passes import lda_pass, mllt_pass
from mariana_asr.align.training.triphone import TriphoneOptions, TriphoneTraining, run_training
from mariana_asr.align.transforms.lda import estimate_lda
from mariana_asr.align.transforms.mllt import estimate_mllt, transform_means
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.features.linear import compose_affine
from mariana_asr.features.transform import SpliceTransformOptions
from mariana_asr.lang.langdir import Lang


class LdaMlltOptions(TriphoneOptions):
    """Options of triphones on LDA+MLLT features, as in steps/train_lda_mllt.sh."""

    dim: int = Field(default=40, ge=1)
    """Values a frame that LDA keeps."""
    mllt_iters: tuple[int, ...] = (2, 4, 6, 12)
    """Iterations that estimate MLLT."""
    transform: SpliceTransformOptions = SpliceTransformOptions()
    """Normalisation and splicing of the features, before LDA."""

    @model_validator(mode="after")
    def _check_transform(self) -> "LdaMlltOptions":
        if self.transform.delta_order:
            raise ValueError("LDA takes spliced features, not deltas: set transform.delta_order: 0")
        return self


class _LdaMlltTraining(TriphoneTraining):
    """LDA from the source's alignments, then MLLT in some iterations."""

    name = "LDA+MLLT"
    options: LdaMlltOptions

    def prepare_features(self) -> None:
        """Project the features, packed without their neighbours, by LDA."""
        transform = self.options.transform
        classes = transition_id_to_pdf(self.source_transitions)
        classes[~speech_transition_ids(self.source_transitions, self.lang)] = -1
        context = {"left": transform.splice_left, "right": transform.splice_right}
        stats = lda_pass(self.corpus, classes, **context)
        matrix, _ = estimate_lda(stats, self.options.dim)
        self.corpus.splice_and_project(matrix, **context)
        self.front_end = replace(self.front_end, transform=transform, matrix=matrix)
        self.adapt_iters = self.options.mllt_iters

    def adapt(self) -> dict[str, Any]:
        """Estimate MLLT; features and means follow it."""
        model = self.model
        stats = mllt_pass(self.corpus, self.pass_model(), self.speech)
        matrix, improvement = estimate_mllt(stats)
        self.corpus.transform(matrix)
        self.model = GmmModel(model.transition_model, transform_means(model.gmm, matrix))
        assert self.front_end.matrix is not None, "prepare_features has run"
        self.front_end = self.front_end.with_matrix(compose_affine(matrix, self.front_end.matrix))
        return {"mllt_improvement_per_frame": round(improvement, 4)}


def train_lda_mllt(
    data: DataDir,
    lang: Lang,
    ali_dir: str | Path,
    options: LdaMlltOptions,
    out_dir: str | Path,
    *,
    jobs: int = 1,
) -> None:
    """Train triphones on LDA+MLLT features (Kaldi: steps/train_lda_mllt.sh).

    Writes what ``train_mono`` writes, and ``final.mat``, the transform of spliced features.
    Arguments and errors are those of ``train_deltas``.
    """
    unspliced = options.transform.model_copy(update={"splice_left": 0, "splice_right": 0})
    front_end = FrontEnd.of(data, unspliced)
    run_training(_LdaMlltTraining, data, lang, ali_dir, options, out_dir, front_end, jobs=jobs)
