"""What a model sees of an utterance: its features, normalised and with deltas.

The front end travels with a model, so that decoding cannot use other features than training.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mariana_asr.corpus.datadir import FEATURES_FILE, DataDir, read_data_dir
from mariana_asr.errors import FormatError, RecipeError
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


@dataclass(frozen=True)
class FrontEnd:
    """What a model must be given: kind of features, their dimension and their transform.

    Attributes:
        features: The features' options, or None where they came from Kaldi and are not known.
        feature_dim: Dimension of the stored features.
        transform: What is done to them as they are read.
    """

    features: dict[str, Any] | None
    feature_dim: int
    transform: TransformOptions

    @classmethod
    def of(cls, data: DataDir, transform: TransformOptions) -> "FrontEnd":
        """The front end of a model that is trained on a data directory.

        Raises:
            DataError: The directory has no usable features, or lacks CMVN statistics.
            FormatError: Its ``features.json`` is damaged.
        """
        check_tables(data, transform)
        return cls(read_feature_settings(data.path), read_feature_dim(data), transform)

    @property
    def dim(self) -> int:
        """Values a frame that the model is given, deltas among them."""
        return self.transform.dim(self.feature_dim)

    def describe(self) -> str:
        """One line for people: ``13 mfcc at 16000 Hz, CMN by speaker, 2 orders of deltas: 39``."""
        settings = self.features or {}
        kind = settings.get("type", "features from Kaldi")
        text = f"{self.feature_dim} {kind}"
        if "sample_frequency" in settings:
            text += f" at {settings['sample_frequency']:g} Hz"
        if self.transform.normalises:
            over = {
                "speaker": "by speaker",
                "utterance": "by utterance",
                "sliding": f"over {self.transform.cmn_window} sliding frames",
            }
            text += f", {'CMVN' if self.transform.norm_vars else 'CMN'} {over[self.transform.cmvn]}"
        if self.transform.delta_order:
            text += f", deltas to order {self.transform.delta_order}"
        return f"{text}: {self.dim} values a frame"

    def save(self, model_dir: str | Path) -> None:
        """Write ``front_end.json`` into a model directory."""
        tree = {
            "features": self.features,
            "feature_dim": self.feature_dim,
            "transform": self.transform.model_dump(),
        }
        write_json(Path(model_dir) / FRONT_END_FILE, tree)

    @classmethod
    def load(cls, model_dir: str | Path) -> "FrontEnd":
        """Read ``front_end.json`` of a model directory.

        Raises:
            FormatError: It is missing or damaged.
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
        return cls(features, dim, validated(TransformOptions, transform, str(path)))

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
