"""Acoustic models as a decoder sees them: scores of pdfs for the frames of an utterance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import (
    TransitionModel,
    read_gmm_model,
    read_transition_model,
    transition_id_to_pdf,
)
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.training.sat import UNADAPTED_MODEL
from mariana_asr.align.utterances import GmmAcousticModel
from mariana_asr.errors import FormatError
from mariana_asr.features.front_end import FrontEnd

NETWORK = "nnet.pt"


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
    """A diagonal GMM model."""

    def __init__(self, model: GmmAcousticModel, transition_model: TransitionModel) -> None:
        self.gmms = model.gmm
        self.front_end = model.front_end
        self.pdf_of_transition_id = _pdfs(transition_model)

    @classmethod
    def load(cls, model_dir: Path) -> "GmmScorer":
        """Load ``final.mdl`` and its front end.

        Raises:
            FormatError: A file is missing or damaged, or the two do not fit.
        """
        model = GmmAcousticModel.load(model_dir)
        return cls(model, read_transition_model(model_dir / "final.mdl"))

    def log_likelihoods(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score frames (T, D); returns (T, P)."""
        return self.gmms.log_likelihoods(features)


@dataclass(frozen=True)
class AdaptedModel:
    """GMMs that were trained on features adapted to each speaker (SAT).

    Attributes:
        first: The model of features that are not adapted, ``final.alimdl``.
        gmms: The GMMs of adapted features.
        phone_of_transition_id: The phone of each transition id; index 0 is none.
    """

    first: GmmScorer
    gmms: DiagGmms
    phone_of_transition_id: NDArray[np.int32]

    @classmethod
    def load(cls, model_dir: str | Path) -> "AdaptedModel":
        """Load ``final.mdl`` with its front end, and ``final.alimdl``.

        Raises:
            FormatError: A file is missing or damaged, or they do not belong together.
        """
        final = GmmScorer.load(Path(model_dir))
        path = Path(model_dir) / UNADAPTED_MODEL
        model = read_gmm_model(path)
        first = GmmScorer(GmmAcousticModel(model.gmm, final.front_end), model.transition_model)
        if (
            model.gmm.dim != final.gmms.dim
            or not np.array_equal(model.gmm.offsets, final.gmms.offsets)
            or not np.array_equal(first.pdf_of_transition_id, final.pdf_of_transition_id)
        ):
            raise FormatError(
                "it has other dimensions, pdfs or numbers of Gaussians than final.mdl",
                where=path,
                remedy="Take both models from the same training",
            )
        tids = range(1, len(first.pdf_of_transition_id) + 1)
        phones = [0, *map(model.transition_model.transition_id_to_phone, tids)]
        return cls(first, final.gmms, np.array(phones, dtype=np.int32))

    @property
    def front_end(self) -> FrontEnd:
        """What comes before the adaptation."""
        return self.first.front_end


def is_speaker_adapted(model_dir: str | Path) -> bool:
    """Whether a folder holds GMMs that were trained on features adapted to each speaker."""
    model_dir = Path(model_dir)
    return (model_dir / UNADAPTED_MODEL).exists() and not (model_dir / NETWORK).exists()


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

        self._model = AcousticModel.load(model_dir / NETWORK)
        self._prior_scale = prior_scale
        self.front_end = self._model.front_end
        self.pdf_of_transition_id = _pdfs(read_transition_model(model_dir / "final.mdl"))

    def log_likelihoods(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score frames (T, D); returns (T, P)."""
        return self._model.log_likelihoods(features, self._prior_scale)


def load_network(model_dir: str | Path, *, prior_scale: float = 1.0) -> DnnScorer | None:
    """Load the network of a folder; None if it holds GMMs.

    Raises:
        FormatError: A file is missing or damaged.
    """
    model_dir = Path(model_dir)
    return DnnScorer(model_dir, prior_scale) if (model_dir / NETWORK).exists() else None


def load_scorer(model_dir: str | Path, *, prior_scale: float = 1.0) -> Scorer:
    """Load the acoustic model of a folder: the network if there is one, else the GMMs.

    Of a speaker-adapted model those for features that are not adapted are taken. ``prior_scale``
    multiplies a network's log-priors; GMMs have none.

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
    network = load_network(model_dir, prior_scale=prior_scale)
    if network is not None:
        return network
    if is_speaker_adapted(model_dir):
        return AdaptedModel.load(model_dir).first
    return GmmScorer.load(model_dir)


def _pdfs(transition_model: TransitionModel) -> NDArray[np.int32]:
    return transition_id_to_pdf(transition_model)[1:]
