"""Reading the features of a data directory; nothing here imports torch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mariana_asr.archives import read_matrix
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError
from mariana_asr.features.transform import TransformOptions, transform_features
from mariana_asr.skipped import Skipped


def read_raw_features(data: DataDir, utterance: str) -> NDArray[np.float32]:
    """Read one utterance's features as they are stored: (T, D), finite, at least one frame.

    Raises:
        DataError: There are none, they cannot be read, or are empty, NaN or infinite.
    """
    location = (data.feats or {}).get(utterance)
    if location is None:
        raise DataError("no features", where=f"{data.path / 'feats.scp'}: {utterance}")
    feats = read_matrix(location, where=utterance)
    if not feats.size:
        raise DataError("the feature matrix is empty", where=utterance)
    if not np.isfinite(feats).all():
        bad = np.flatnonzero(~np.isfinite(feats).all(axis=1))
        raise DataError(
            f"NaN or infinite features in {len(bad)} of {len(feats)} frames, first in frame "
            f"{bad[0]}",
            where=utterance,
        )
    return feats.astype(np.float32, copy=False)


def read_utterance_features(
    data: DataDir, utterance: str, transform: TransformOptions, *, feature_dim: int | None = None
) -> NDArray[np.float32]:
    """Read one utterance's features, transformed.

    Args:
        data: A data directory with ``feats.scp``, and ``cmvn.scp`` for ``cmvn: speaker``.
        utterance: Its id.
        transform: Normalisation, deltas, splicing.
        feature_dim: The dimension that the stored features must have; None takes any.

    Returns:
        Shape (T, transform.dim(D)), in single precision.

    Raises:
        DataError: Features or CMVN statistics are missing, damaged, NaN or of a wrong dimension.
    """
    return _read(data, utterance, transform, feature_dim, {})


def iterate_features(
    data: DataDir,
    transform: TransformOptions,
    *,
    feature_dim: int | None = None,
    skipped: Skipped | None = None,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (utterance, features) over a data directory, in the order of its utterances.

    Args:
        data: A data directory with ``feats.scp``, and ``cmvn.scp`` for ``cmvn: speaker``.
        transform: Normalisation, deltas, splicing.
        feature_dim: The dimension that the stored features must have; None takes that of the
            first utterance that can be read.
        skipped: Takes the utterances that cannot be used. Without it, the first one raises.

    Raises:
        DataError: There are no features or no CMVN statistics at all; or, unless ``skipped`` is
            given, one utterance cannot be used.
    """
    check_tables(data, transform)
    speaker_stats: dict[str, NDArray[np.float64]] = {}
    for utterance in data.utterances:
        try:
            feats = _read(data, utterance, transform, feature_dim, speaker_stats)
        except DataError as error:
            if skipped is None:
                raise
            skipped.add(utterance, _reason(error, utterance))
            continue
        if feature_dim is None:
            feature_dim = feats.shape[1] // transform.copies
        yield utterance, feats


def _reason(error: DataError, utterance: str) -> str:
    """The error's text without the utterance's id, which stands beside it in ``skipped.txt``."""
    return str(error).removeprefix(f"{utterance}: ")


def _read(
    data: DataDir,
    utterance: str,
    transform: TransformOptions,
    feature_dim: int | None,
    speaker_stats: dict[str, NDArray[np.float64]],
) -> NDArray[np.float32]:
    feats = read_raw_features(data, utterance)
    if feature_dim is not None and feats.shape[1] != feature_dim:
        raise DataError(
            f"features of {feats.shape[1]} dimensions, expected {feature_dim}", where=utterance
        )
    stats = None
    if transform.needs_stats:
        speaker = data.utt2spk.get(utterance, utterance)
        if speaker not in speaker_stats:
            speaker_stats[speaker] = _read_stats(data, utterance, speaker)
        stats = speaker_stats[speaker]
    try:
        return transform_features(feats, transform, stats)
    except DataError as error:
        raise DataError(error.what, where=utterance, remedy=error.remedy) from error


def _read_stats(data: DataDir, utterance: str, speaker: str) -> NDArray[np.float64]:
    location = (data.cmvn or {}).get(speaker)
    if location is None:
        raise DataError(
            f"no CMVN statistics of its speaker {speaker} in {data.path / 'cmvn.scp'}",
            where=utterance,
            remedy="Compute features again, or choose cmvn: utterance",
        )
    stats = read_matrix(location, where=utterance).astype(np.float64)
    if not np.isfinite(stats).all():
        raise DataError(
            f"NaN or infinite CMVN statistics of its speaker {speaker}", where=utterance
        )
    return stats


def check_tables(data: DataDir, transform: TransformOptions) -> None:
    """Check that a data directory has the tables that reading its features needs.

    Raises:
        DataError: No ``feats.scp``; or no ``cmvn.scp``, and the transform needs it.
    """
    if not data.feats:
        raise DataError(
            "no feats.scp, so there are no features",
            where=data.path,
            remedy="Compute them with 'mariana-asr features'",
        )
    if transform.needs_stats and not data.cmvn:
        raise DataError(
            "no cmvn.scp, so there are no CMVN statistics of speakers",
            where=data.path,
            remedy="Compute them with 'mariana-asr features', or choose cmvn: utterance",
        )


def read_feature_dim(data: DataDir) -> int:
    """Dimension of the stored features, by the first utterance that can be read.

    Raises:
        DataError: No utterance has features that can be read.
    """
    check_tables(data, TransformOptions(cmvn="none"))
    first: DataError | None = None
    for utterance in data.utterances:
        try:
            return read_raw_features(data, utterance).shape[1]
        except DataError as error:
            first = first or error
    raise DataError(f"no utterance has features that can be read ({first})", where=data.path)
