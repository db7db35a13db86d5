"""What a model sees of an utterance: its features, normalised and with deltas.

The front end travels with a model, so that decoding cannot use other features than training.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.corpus.datadir import FEATURES_FILE, DataDir, read_data_dir
from mariana_asr.errors import DataError, FormatError, RecipeError
from mariana_asr.features.linear import apply_linear, read_matrix_file, write_matrix_file
from mariana_asr.features.options import feature_options
from mariana_asr.features.reading import (
    check_tables,
    iterate_features,
    read_feature_dim,
    read_raw_features,
    read_utterance_features,
)
from mariana_asr.features.transform import TransformOptions, transform_features
from mariana_asr.files import read_json, write_json
from mariana_asr.options import validated
from mariana_asr.skipped import Skipped

__all__ = [
    "FRONT_END_FILE",
    "FrontEnd",
    "TransformOptions",
    "compare_settings",
    "iterate_features",
    "read_feature_dim",
    "read_feature_settings",
    "read_raw_features",
    "read_utterance_features",
    "transform_features",
]

logger = logging.getLogger(__name__)

FRONT_END_FILE = "front_end.json"
"""The file of a model directory that holds its front end."""

MATRIX_FILE = "final.mat"
"""Beside it, the matrix that ends the front end, where there is one (Kaldi's name)."""

_HARMLESS_KEYS = frozenset({"allow_downsample", "allow_upsample"})
"""Options that say which audio is accepted, not what the features of accepted audio are."""


def read_feature_settings(data_dir: str | Path) -> dict[str, Any] | None:
    """Options that a data directory's features were computed with; None if Kaldi made them.

    Raises:
        FormatError: ``features.json`` is damaged.
    """
    path = Path(data_dir) / FEATURES_FILE
    if not path.exists():
        return None
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise FormatError("expected the options of the features", where=path)
    return settings


@dataclass(frozen=True, eq=False)
class FrontEnd:
    """What a model must be given: kind of features, their dimension, and what is done to them.

    Attributes:
        features: The features' options, or None where they came from Kaldi and are not known.
        feature_dim: Dimension of the stored features.
        transform: What is done to them as they are read.
        matrix: The LDA or LDA+MLLT transform that comes last, shape (E, D) or, with an offset,
            (E, D + 1); None where there is none.
    """

    features: dict[str, Any] | None
    feature_dim: int
    transform: TransformOptions
    matrix: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Check that the matrix fits.

        Raises:
            FormatError: It takes another dimension.
        """
        # With other defaults it is the same transform.
        plain = TransformOptions(**self.transform.model_dump())
        object.__setattr__(self, "transform", plain)
        given = self.transform.dim(self.feature_dim)
        if self.matrix is not None and self.matrix.shape[1] not in (given, given + 1):
            raise FormatError(
                f"a transform of shape {self.matrix.shape} does not fit features of {given} "
                "values a frame",
                remedy="Is it the matrix of another model, or was the splicing another?",
            )

    def __eq__(self, other: object) -> bool:
        """Whether both give a model the same."""
        return (
            isinstance(other, FrontEnd)
            and (self.features, self.feature_dim, self.transform)
            == (other.features, other.feature_dim, other.transform)
            and (self.matrix is None) == (other.matrix is None)
            and (self.matrix is None or np.array_equal(self.matrix, other.matrix))  # type: ignore[arg-type]
        )

    @classmethod
    def of(cls, data: DataDir, transform: TransformOptions) -> "FrontEnd":
        """The front end of a model that is trained on a data directory.

        Raises:
            DataError: The directory has no usable features, or lacks CMVN statistics.
            FormatError: Its ``features.json`` is damaged.
        """
        check_tables(data, transform)
        return cls(read_feature_settings(data.path), read_feature_dim(data), transform)

    def with_matrix(self, matrix: NDArray[np.float32]) -> "FrontEnd":
        """The same with another matrix at its end."""
        return replace(self, matrix=matrix)

    @property
    def dim(self) -> int:
        """Values a frame that the model is given, deltas among them."""
        if self.matrix is not None:
            return len(self.matrix)
        return self.transform.dim(self.feature_dim)

    def read(
        self,
        data: DataDir,
        utterance: str,
        speakers: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> NDArray[np.float32]:
        """Read one utterance as the model sees it.

        Args:
            data: A data directory with features, and CMVN statistics where they are needed.
            utterance: Its id.
            speakers: Each speaker's fMLLR transform, (dim, dim + 1); None for none at all.

        Returns:
            Shape (T, dim).

        Raises:
            DataError: Features, CMVN statistics or the speaker's transform are missing or damaged.
        """
        feats = read_utterance_features(
            data, utterance, self.transform, feature_dim=self.feature_dim
        )
        return self._finish(data, utterance, feats, speakers)

    def iterate(
        self,
        data: DataDir,
        *,
        skipped: Skipped | None = None,
        speakers: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield (utterance, features as the model sees them), in the order of the utterances.

        Utterances that cannot be read go to ``skipped``; without it the first one raises.

        Raises:
            DataError: There are no features or no CMVN statistics at all; or, unless ``skipped``
                is given, one utterance cannot be used.
        """
        for utterance, feats in iterate_features(
            data, self.transform, feature_dim=self.feature_dim, skipped=skipped
        ):
            try:
                finished = self._finish(data, utterance, feats, speakers)
            except DataError as error:
                if skipped is None:
                    raise
                skipped.add(utterance, error.what)
                continue
            yield utterance, finished

    def _finish(
        self,
        data: DataDir,
        utterance: str,
        feats: NDArray[np.float32],
        speakers: Mapping[str, NDArray[np.float32]] | None,
    ) -> NDArray[np.float32]:
        if self.matrix is not None:
            feats = apply_linear(feats, self.matrix)
        if speakers is not None:
            speaker = data.utt2spk.get(utterance, utterance)
            if speaker not in speakers:
                raise DataError(f"no fMLLR transform of its speaker {speaker}", where=utterance)
            feats = apply_linear(feats, speakers[speaker])
        return feats

    def describe(self) -> str:
        """One line for people: ``13 mfcc at 16000 Hz, CMN by speaker, 2 orders of deltas: 39``."""
        settings = self.features or {}
        kind = settings.get("type", "features from Kaldi")
        text = f"{self.feature_dim} {kind}"
        if "sample_frequency" in settings:
            text += f" at {settings['sample_frequency']:g} Hz"
        transform = self.transform
        if transform.normalises:
            over = {
                "speaker": "by speaker",
                "utterance": "by utterance",
                "sliding": f"over {transform.cmn_window} sliding frames",
            }
            text += f", {'CMVN' if transform.norm_vars else 'CMN'} {over[transform.cmvn]}"
        if transform.delta_order:
            text += f", deltas to order {transform.delta_order}"
        if transform.splices:
            text += f", spliced -{transform.splice_left}+{transform.splice_right}"
        if self.matrix is not None:
            text += f", {MATRIX_FILE}"
        return f"{text}: {self.dim} values a frame"

    def save(self, model_dir: str | Path) -> None:
        """Write ``front_end.json``, and ``final.mat`` if there is a matrix, for a model."""
        tree = {
            "features": self.features,
            "feature_dim": self.feature_dim,
            "transform": self.transform.model_dump(),
            "matrix": None if self.matrix is None else MATRIX_FILE,
        }
        if self.matrix is not None:
            write_matrix_file(Path(model_dir) / MATRIX_FILE, self.matrix)
        write_json(Path(model_dir) / FRONT_END_FILE, tree)

    @classmethod
    def load(cls, model_dir: str | Path) -> "FrontEnd":
        """Read ``front_end.json`` of a model directory, and the matrix that it names.

        Raises:
            FormatError: One is missing or damaged, or they do not fit.
            RecipeError: Its transform has an option that this version does not know.
        """
        path = Path(model_dir) / FRONT_END_FILE
        tree = read_json(path)
        try:
            features, dim, transform = tree["features"], tree["feature_dim"], tree["transform"]
        except (KeyError, TypeError) as error:
            raise FormatError(f"not a front end: no {error}", where=path) from error
        if not (isinstance(dim, int) and dim > 0 and isinstance(features, dict | None)):
            raise FormatError("not a front end: bad features or feature_dim", where=path)
        if not isinstance(transform, dict):
            raise FormatError("not a front end: transform holds no options", where=path)
        options = validated(TransformOptions, transform, str(path))
        matrix = read_matrix_file(path.parent / MATRIX_FILE) if tree.get("matrix") else None
        return cls(features, dim, options, matrix)

    def check(self, data_dir: str | Path) -> None:
        """Check that a data directory has the features that the model was trained on.

        Where either side's options are not known, only the dimension is compared.

        Raises:
            FormatError: They differ; the message names each option with both values.
            DataError: The directory has no usable features, or lacks CMVN statistics.
        """
        data = read_data_dir(data_dir)
        check_tables(data, self.transform)
        given = read_feature_settings(data_dir)
        if given is not None and self.features is not None:
            self._check_settings(given, Path(data_dir))
        dim = read_feature_dim(data)
        if dim != self.feature_dim:
            raise FormatError(
                f"its features have {dim} dimensions, the model was trained on {self.feature_dim}",
                where=data_dir,
                remedy="Compute features with the model's options",
            )

    def _check_settings(self, given: dict[str, Any], data_dir: Path) -> None:
        differences = compare_settings(self.features or {}, given)
        if dither := differences.pop("dither", None):
            logger.warning(
                "%s: features have dither %s, those that the model was trained on %s",
                data_dir,
                dither[1],
                dither[0],
            )
        if differences:
            listed = ", ".join(
                f"{key} (model: {trained}, data: {there})"
                for key, (trained, there) in differences.items()
            )
            raise FormatError(
                f"computed with other options than the model's features: {listed}",
                where=data_dir / FEATURES_FILE,
                remedy="Compute features with the model's options",
            )


def compare_settings(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options that differ between two ``features.json``, with both values.

    Options that only say which audio is accepted do not count.
    """
    one, other = _with_defaults(one), _with_defaults(other)
    return {
        key: (one.get(key), other.get(key))
        for key in sorted((one.keys() | other.keys()) - _HARMLESS_KEYS)
        if one.get(key) != other.get(key)
    }


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Add options that came into being after the settings were written, where that can be told."""
    try:
        return feature_options(settings).model_dump()
    except RecipeError:
        return settings
