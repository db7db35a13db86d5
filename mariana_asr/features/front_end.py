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
from mariana_asr.errors import DataError, FormatError
from mariana_asr.features.cmvn import stats_of_columns
from mariana_asr.features.linear import apply_linear, read_matrix_file, write_matrix_file
from mariana_asr.features.reading import FeatureReader, check_tables, read_feature_dim
from mariana_asr.features.settings import (
    Settings,
    compare_settings,
    joined_settings,
    read_feature_settings,
)
from mariana_asr.features.transform import TransformOptions, transform_features
from mariana_asr.files import read_json, write_json
from mariana_asr.options import validated
from mariana_asr.skipped import Skipped

__all__ = ["FRONT_END_FILE", "MATRIX_FILE", "FrontEnd", "SpeakerTransforms", "TransformOptions"]

logger = logging.getLogger(__name__)

FRONT_END_FILE = "front_end.json"
"""The file of a model directory that holds its front end."""

MATRIX_FILE = "final.mat"
"""Beside it, the matrix that ends the front end, where there is one (Kaldi's name)."""

SpeakerTransforms = Mapping[str, NDArray[np.float32]]
"""Each speaker's fMLLR transform, (D, D + 1)."""


@dataclass(frozen=True, eq=False)
class FrontEnd:
    """What a model must be given: kind of features, their dimension, and what is done to them.

    Attributes:
        features: The features' options, or None where they came from Kaldi and are not known.
        feature_dim: Dimension of the stored features; of their first columns, if there are
            others ``beside`` them.
        transform: What is done to them as they are read.
        matrix: The LDA or LDA+MLLT transform that comes next, shape (E, D) or, with an offset,
            (E, D + 1); None where there is none.
        adapted: Whether the model knows only features that each speaker's fMLLR transform has
            adapted, which comes last. A speaker-adapted GMM has a way to do without: it is not.
        beside: The front end of the stored features' other columns, which nothing is adapted in;
            what it gives stands after the rest. None where there are none.
    """

    features: Settings | None
    feature_dim: int
    transform: TransformOptions
    matrix: NDArray[np.float32] | None = None
    adapted: bool = False
    beside: "FrontEnd | None" = None

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
            and (self.features, self.feature_dim, self.transform, self.adapted, self.beside)
            == (other.features, other.feature_dim, other.transform, other.adapted, other.beside)
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
        check_tables(data, needs_stats=transform.needs_stats)
        return cls(read_feature_settings(data.path), read_feature_dim(data), transform)

    def with_matrix(self, matrix: NDArray[np.float32]) -> "FrontEnd":
        """The same with another matrix at its end."""
        return replace(self, matrix=matrix)

    @property
    def stored_dim(self) -> int:
        """Values a frame that are stored."""
        return self.feature_dim + (self.beside.stored_dim if self.beside else 0)

    @property
    def adapted_dim(self) -> int:
        """Values a frame that a speaker's transform is applied to."""
        if self.matrix is not None:
            return len(self.matrix)
        return self.transform.dim(self.feature_dim)

    @property
    def dim(self) -> int:
        """Values a frame that the model is given, deltas among them."""
        return self.adapted_dim + (self.beside.dim if self.beside else 0)

    @property
    def needs_stats(self) -> bool:
        """Whether the data directory must have ``cmvn.scp``."""
        return self.transform.needs_stats or (self.beside is not None and self.beside.needs_stats)

    def read(
        self, data: DataDir, utterance: str, speakers: SpeakerTransforms | None = None
    ) -> NDArray[np.float32]:
        """Read one utterance as the model sees it.

        Args:
            data: A data directory with features, and CMVN statistics where they are needed.
            utterance: Its id.
            speakers: Each speaker's fMLLR transform, (D, D + 1); None for none at all.

        Returns:
            Shape (T, dim).

        Raises:
            DataError: Features, CMVN statistics or the speaker's transform are missing or damaged.
        """
        self._require_speakers(speakers)
        reader = FeatureReader(data, self.stored_dim, needs_stats=self.needs_stats)
        return self._finished(data, utterance, reader, speakers)

    def iterate(
        self,
        data: DataDir,
        *,
        skipped: Skipped | None = None,
        speakers: SpeakerTransforms | None = None,
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield (utterance, features as the model sees them), in the order of the utterances.

        Utterances that cannot be read go to ``skipped``; without it the first one raises.

        Raises:
            DataError: There are no features or no CMVN statistics at all, or no transforms where
                the model needs them; or, unless ``skipped`` is given, one utterance cannot be
                used.
        """
        self._require_speakers(speakers)
        reader = FeatureReader(data, self.stored_dim, needs_stats=self.needs_stats)
        for utterance in data.utterances:
            try:
                finished = self._finished(data, utterance, reader, speakers)
            except DataError as error:
                if skipped is None:
                    raise
                # The utterance's id stands beside the reason anyway.
                skipped.add(utterance, str(error).removeprefix(f"{utterance}: "))
                continue
            yield utterance, finished

    def check_speakers(
        self, speakers: SpeakerTransforms | None, where: str | Path | None = None
    ) -> None:
        """Check that there are speakers' transforms if the model needs them, and that they fit.

        Args:
            speakers: Each speaker's transform; None for none at all.
            where: What to name in an error.

        Raises:
            DataError: There are none, and the model knows adapted features only.
            FormatError: One has another dimension.
        """
        self._require_speakers(speakers, where)
        dim = self.adapted_dim
        for speaker, matrix in (speakers or {}).items():
            if matrix.ndim != 2 or matrix.shape[0] != dim or matrix.shape[1] not in (dim, dim + 1):
                raise FormatError(
                    f"the transform of speaker {speaker} has shape {matrix.shape}, the features "
                    f"that it is for have {dim} values a frame",
                    where=where,
                    remedy="Take transforms of the speaker-adapted GMMs of the same training",
                )

    def _require_speakers(
        self, speakers: SpeakerTransforms | None, where: str | Path | None = None
    ) -> None:
        if self.adapted and speakers is None:
            raise DataError(
                "the model takes features that are adapted to each speaker, and there are no "
                "transforms of the speakers",
                where=where,
                remedy="Decode (or align) the same data with the speaker-adapted GMMs first, and "
                "name the folder of the result: --transform-dir (--transforms of align)",
            )

    def _finished(
        self,
        data: DataDir,
        utterance: str,
        reader: FeatureReader,
        speakers: SpeakerTransforms | None,
    ) -> NDArray[np.float32]:
        feats, stats = reader.read(utterance)
        speaker = data.utt2spk.get(utterance, utterance)
        if speakers is not None and speaker not in speakers:
            raise DataError(f"no fMLLR transform of its speaker {speaker}", where=utterance)
        own = None if speakers is None else speakers[speaker]
        try:
            return self._transformed(feats, stats, own)
        except DataError as error:
            raise DataError(error.what, where=utterance, remedy=error.remedy) from error

    def _transformed(
        self,
        stored: NDArray[np.float32],
        stats: NDArray[np.float64] | None,
        speaker: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """What the model sees of stored features, with the speaker's CMVN statistics and fMLLR."""
        own = slice(0, self.feature_dim)
        feats = transform_features(stored[:, own], self.transform, stats_of_columns(stats, own))
        if self.matrix is not None:
            feats = apply_linear(feats, self.matrix)
        if speaker is not None:
            feats = apply_linear(feats, speaker)
        if self.beside is not None:
            others = slice(self.feature_dim, self.stored_dim)
            columns = stats_of_columns(stats, others)
            feats = np.hstack([feats, self.beside._transformed(stored[:, others], columns, None)])
        return feats

    def describe(self) -> str:
        """One line for people: ``13 mfcc at 16000 Hz, CMN by speaker, 2 orders of deltas: 39``."""
        text = self._description()
        if self.adapted:
            text += ", fMLLR by speaker"
        if self.beside is not None:
            text += f"; beside {self.beside._description()}"
        return f"{text}: {self.dim} values a frame"

    def _description(self) -> str:
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
        return text

    def to_tree(self) -> dict[str, Any]:
        """Everything but the matrix, as plain values."""
        tree: dict[str, Any] = {
            "features": self.features,
            "feature_dim": self.feature_dim,
            "transform": self.transform.model_dump(mode="json"),
            "adapted": self.adapted,
        }
        return tree if self.beside is None else tree | {"beside": self.beside.to_tree()}

    @classmethod
    def from_tree(
        cls, tree: Any, where: str | Path, matrix: NDArray[np.float32] | None = None
    ) -> "FrontEnd":
        """Make it of what ``to_tree`` gave, and the matrix; ``where`` names the place in errors.

        Raises:
            FormatError: It is no such thing, or the matrix does not fit.
            RecipeError: Its transform has an option that this version does not know.
        """
        try:
            features, dim, transform = tree["features"], tree["feature_dim"], tree["transform"]
            adapted, beside = tree.get("adapted", False), tree.get("beside")
        except (KeyError, TypeError) as error:
            raise FormatError(f"not a front end: no {error}", where=where) from error
        if not (isinstance(dim, int) and dim > 0 and isinstance(features, dict | None)):
            raise FormatError("not a front end: bad features or feature_dim", where=where)
        if not isinstance(transform, dict):
            raise FormatError("not a front end: transform holds no options", where=where)
        if not isinstance(adapted, bool):
            raise FormatError("not a front end: adapted is neither true nor false", where=where)
        options = validated(TransformOptions, transform, str(where))
        others = None if beside is None else cls.from_tree(beside, where)
        return cls(features, dim, options, matrix, adapted, others)

    def save(self, model_dir: str | Path) -> None:
        """Write ``front_end.json``, and ``final.mat`` if there is a matrix, for a model."""
        if self.matrix is not None:
            write_matrix_file(Path(model_dir) / MATRIX_FILE, self.matrix)
        named = {"matrix": None if self.matrix is None else MATRIX_FILE}
        write_json(Path(model_dir) / FRONT_END_FILE, self.to_tree() | named)

    @classmethod
    def load(cls, model_dir: str | Path) -> "FrontEnd":
        """Read ``front_end.json`` of a model directory, and the matrix that it names.

        Raises:
            FormatError: One is missing or damaged, or they do not fit.
            RecipeError: Its transform has an option that this version does not know.
        """
        path = Path(model_dir) / FRONT_END_FILE
        tree = read_json(path)
        named = isinstance(tree, dict) and tree.get("matrix")
        matrix = read_matrix_file(path.parent / MATRIX_FILE) if named else None
        return cls.from_tree(tree, path, matrix)

    def check(self, data_dir: str | Path) -> None:
        """Check that a data directory has the features that the model was trained on.

        Where either side's options are not known, only the dimension is compared.

        Raises:
            FormatError: They differ; the message names each option with both values.
            DataError: The directory has no usable features, or lacks CMVN statistics.
        """
        data = read_data_dir(data_dir)
        check_tables(data, needs_stats=self.needs_stats)
        own = self.features
        if self.beside is not None:
            own = joined_settings(own, self.beside.features)
        given = read_feature_settings(data_dir)
        if given is not None and own is not None:
            _check_settings(own, given, Path(data_dir))
        dim = read_feature_dim(data)
        if dim != self.stored_dim:
            raise FormatError(
                f"its features have {dim} dimensions, the model was trained on {self.stored_dim}",
                where=data_dir,
                remedy="Compute features with the model's options",
            )


def _check_settings(own: Settings, given: Settings, data_dir: Path) -> None:
    differences = compare_settings(own, given)
    for name in [name for name in differences if name.split(".")[-1] == "dither"]:
        trained, there = differences.pop(name)
        logger.warning(
            "%s: features have %s %s, those that the model was trained on %s",
            data_dir,
            name,
            there,
            trained,
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
