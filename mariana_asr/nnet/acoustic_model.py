"""A trained acoustic model in one file: network, its options, front end and priors."""

import hashlib
import io
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from mariana_asr.errors import DataError, FormatError, RecipeError
from mariana_asr.features.front_end import FrontEnd
from mariana_asr.files import atomic_file
from mariana_asr.nnet.build import build_network
from mariana_asr.nnet.network import FrameNetwork
from mariana_asr.nnet.options import ModelOptions
from mariana_asr.nnet.utterance_logits import utterance_logits

logger = logging.getLogger(__name__)

_MODEL_OPTIONS: TypeAdapter[ModelOptions] = TypeAdapter(ModelOptions)

FORMAT = "mariana-asr acoustic model"
VERSION = 2

UNSEEN_LOG_PRIOR = math.sqrt(float(np.finfo(np.float32).max))
"""Log-prior of a pdf without training frames: about 1.8e19, as in Kaldi's nnet1."""


def log_priors_from_counts(
    class_counts: NDArray[np.integer], prior_floor: float = 1e-10
) -> NDArray[np.float32]:
    """Log of each pdf's share of the training frames.

    A pdf whose share is below ``prior_floor`` gets a log-prior of sqrt(FLT_MAX), as in Kaldi's
    nnet-pdf-prior.cc: the network was never taught its output, and dividing the small posterior
    by a tiny prior would make it win. Its log-likelihood becomes about -1.8e19, which no beam
    keeps; infinity would turn into NaN in a decoder's sums.

    Args:
        class_counts: (P,) number of training frames of each pdf.
        prior_floor: Smallest share that counts as seen.

    Raises:
        DataError: There are no counts at all.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    if counts.sum() <= 0:
        raise DataError("there are no training frames to count pdfs on")
    share = counts / counts.sum()
    unseen = share < prior_floor
    if unseen.any():
        logger.warning(
            "%d of %d pdfs have no training frames and will never be recognised",
            unseen.sum(),
            len(counts),
        )
    log_priors = np.log(np.where(unseen, 1.0, share))
    return np.where(unseen, UNSEEN_LOG_PRIOR, log_priors).astype(np.float32)


class AcousticModel:
    """A network that scores the pdfs of an HMM.

    Attributes:
        network: The network, in evaluation mode.
        options: What it was built from.
        front_end: What its input has to be.
        log_priors: (P,) float32.
    """

    def __init__(
        self,
        network: FrameNetwork,
        options: ModelOptions,
        front_end: FrontEnd,
        log_priors: NDArray[np.float32],
    ) -> None:
        """Bundle the parts.

        Raises:
            FormatError: They do not fit together.
        """
        if network.frame_dim != front_end.dim or network.num_outputs != len(log_priors):
            raise FormatError(
                f"a network of {network.frame_dim} inputs a frame and {network.num_outputs} "
                f"outputs does not fit a front end of {front_end.dim} values a frame and "
                f"{len(log_priors)} priors"
            )
        self.network = network.eval()
        self.options = options
        self.front_end = front_end
        self.log_priors = np.asarray(log_priors, dtype=np.float32)

    @property
    def num_pdfs(self) -> int:
        """Number of pdfs."""
        return self.network.num_outputs

    def log_likelihoods(
        self, features: NDArray[np.float32], prior_scale: float = 1.0
    ) -> NDArray[np.float32]:
        """Log-posterior minus log-prior of every pdf: log-likelihoods up to a constant a frame.

        Args:
            features: (T, D) what the front end gives of a whole utterance, unspliced.
            prior_scale: What the log-priors are multiplied by (nnet-forward's --prior-scale).

        Returns:
            (T, P) float32.

        Raises:
            DataError: The features have another dimension than the model's input.
        """
        if features.ndim != 2 or features.shape[1] != self.network.frame_dim:
            raise DataError(
                f"features of shape {features.shape} for a model of {self.network.frame_dim} "
                "values a frame",
                remedy=f"Give it {self.front_end.describe()}",
            )
        scores = np.empty((len(features), self.num_pdfs), dtype=np.float32)
        device = next(self.network.parameters()).device
        frames = torch.as_tensor(np.ascontiguousarray(features, dtype=np.float32), device=device)
        priors = prior_scale * torch.as_tensor(self.log_priors, device=device)
        begin = 0
        with torch.inference_mode():
            for logits in utterance_logits(self.network, frames):
                posteriors = torch.log_softmax(logits, dim=1)
                scores[begin : begin + len(logits)] = (posteriors - priors).cpu().numpy()
                begin += len(logits)
        return scores

    def save(self, path: str | Path) -> None:
        """Write the model to one file, atomically.

        Raises:
            MarianaError: The file cannot be written.
        """
        description = {
            "network": self.options.model_dump(mode="json"),
            "frame_dim": self.network.frame_dim,
            "num_outputs": self.network.num_outputs,
            "front_end": self.front_end.to_tree(),
        }
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "description": json.dumps(description),
            "log_priors": torch.from_numpy(self.log_priors.copy()),
            "state": {name: tensor.cpu() for name, tensor in self.network.state_dict().items()},
        }
        if self.front_end.matrix is not None:
            content["matrix"] = torch.from_numpy(self.front_end.matrix.copy())
        content["sha256"] = _digest(content)
        file = io.BytesIO()
        torch.save(content, file)
        # Not by torch, whose error on a full disk does not say so.
        with atomic_file(path) as temporary:
            temporary.write_bytes(file.getbuffer())

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "AcousticModel":
        """Read a model that :meth:`save` wrote. Only data is read: no code in the file is run.

        Of a network of the user's own the file has the name of the class, which is imported from
        this machine, where it must be.

        Raises:
            FormatError: The file is missing, damaged, or something else, or the class of its
                network cannot be imported.
        """
        path = Path(path)
        content = _read(path)
        if content.get("version") != VERSION:
            raise FormatError(
                f"a model of version {content.get('version')!r}; this program reads {VERSION}",
                where=path,
            )
        try:
            if _digest(content) != content["sha256"]:
                raise ValueError("its checksum is wrong")
            description = json.loads(content["description"])
            options = _MODEL_OPTIONS.validate_python(description["network"])
            network = build_network(options, description["frame_dim"], description["num_outputs"])
            network.load_state_dict(content["state"])
            matrix = content["matrix"].numpy() if "matrix" in content else None
            front_end = FrontEnd.from_tree(description["front_end"], path, matrix)
            model = cls(network.to(device), options, front_end, content["log_priors"].numpy())
        except RecipeError as error:
            raise FormatError(
                f"its network cannot be made: {error.what}", where=path, remedy=error.remedy
            ) from error
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise FormatError(f"damaged acoustic model: {error}", where=path) from error
        return model


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 of a model's content: torch's files have checksums, but torch does not check them."""
    digest = hashlib.sha256(content["description"].encode())
    tensors = {"log_priors": content["log_priors"], **content["state"]}
    if "matrix" in content:
        tensors["front_end.matrix"] = content["matrix"]
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FormatError("no such file", where=path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        summary = str(error).partition("\n")[0]
        raise FormatError(f"not a readable acoustic model: {summary}", where=path) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError("not an acoustic model of this program", where=path)
    return content
