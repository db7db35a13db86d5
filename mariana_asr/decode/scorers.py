"""Acoustic models as a decoder sees them: scores of pdfs for the frames of an utterance."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.gmm import DiagGmms
from mariana_asr.align.model_io import (
    TransitionModel,
    read_gmm_model,
    read_transition_model,
    transition_id_to_pdf,
)
from mariana_asr.errors import FormatError
from mariana_asr.features.front_end import FrontEnd


class Scorer(Protocol):
    """What decoding needs of an acoustic model."""

    @property
    def front_end(self) -> FrontEnd:
        """The features that the model was trained on."""

    @property
    def pdf_of_transition_id(self) -> NDArray[np.int32]:
        """The pdf of each transition id; the first entry is that of transition id 1."""

    def log_likelihoods(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score frames: features (T, D) in, log-likelihoods of pdfs (T, P) out."""


class GmmScorer:
    """A diagonal GMM model (``final.mdl``)."""

    def __init__(
        self, front_end: FrontEnd, gmms: DiagGmms, pdf_of_transition_id: NDArray[np.int32]
    ) -> None:
        self.front_end = front_end
        self.pdf_of_transition_id = pdf_of_transition_id
        self._gmms = gmms

    @classmethod
    def load(cls, model_dir: Path) -> "GmmScorer":
        """Load ``final.mdl`` and ``front_end.json``.

        Raises:
            FormatError: A file is missing or damaged, or the two do not fit.
        """
        model = read_gmm_model(model_dir / "final.mdl")
        front_end = FrontEnd.load(model_dir)
        if front_end.dim != model.gmm.dim:
            raise FormatError(
                f"the GMMs have {model.gmm.dim} dimensions, front_end.json gives {front_end.dim}",
                where=model_dir,
                remedy="One of the two files is of another model",
            )
        return cls(front_end, model.gmm, _pdfs(model.transition_model))

    def log_likelihoods(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score frames (T, D); returns (T, P)."""
        return self._gmms.log_likelihoods(features)


class DnnScorer:
    """A network (``nnet.pt``) beside the transition model that its pdfs belong to (``final.mdl``).

    Scores are log-posteriors minus log-priors: log-likelihoods up to a constant a frame.
    """

    def __init__(self, model_dir: Path, prior_scale: float = 1.0) -> None:
        """Load the model; ``prior_scale`` multiplies its log-priors.

        Raises:
            FormatError: A file is missing or damaged.
        """
        # Only here, so that decoding with a GMM needs no torch.
        from mariana_asr.nnet.acoustic_model import AcousticModel

        self._model = AcousticModel.load(model_dir / "nnet.pt")
        self._prior_scale = prior_scale
        self.front_end = self._model.front_end
        self.pdf_of_transition_id = _pdfs(read_transition_model(model_dir / "final.mdl"))

    def log_likelihoods(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score frames (T, D); returns (T, P)."""
        return self._model.log_likelihoods(features, self._prior_scale)


def load_scorer(model_dir: str | Path, *, prior_scale: float = 1.0) -> Scorer:
    """Load the acoustic model of a folder: the network if there is one, else the GMM.

    ``prior_scale`` multiplies a network's log-priors; a GMM has none.

    Raises:
        FormatError: There is none, or it is damaged.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "final.mdl").exists():
        raise FormatError(
            "no final.mdl, so this is no folder of a trained model",
            where=model_dir,
            remedy="Train a model first, or name another folder",
        )
    if (model_dir / "nnet.pt").exists():
        return DnnScorer(model_dir, prior_scale)
    return GmmScorer.load(model_dir)


def _pdfs(transition_model: TransitionModel) -> NDArray[np.int32]:
    return transition_id_to_pdf(transition_model)[1:]
