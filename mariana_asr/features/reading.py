"""Reading the features of a data directory; nothing here imports torch."""

import numpy as np
from numpy.typing import NDArray

from mariana_asr.archives import read_matrix
from mariana_asr.corpus.datadir import DataDir
from mariana_asr.errors import DataError


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


class FeatureReader:
    """Reads stored features with the CMVN statistics of their speakers, each of these once."""

    def __init__(self, data: DataDir, feature_dim: int, *, needs_stats: bool) -> None:
        """Look at the tables.

        Args:
            data: A data directory with ``feats.scp``, and ``cmvn.scp`` if statistics are needed.
            feature_dim: The dimension that the stored features must have.
            needs_stats: Whether to read statistics, too.

        Raises:
            DataError: There are no features or no CMVN statistics at all.
        """
        check_tables(data, needs_stats=needs_stats)
        self._data = data
        self._feature_dim = feature_dim
        self._needs_stats = needs_stats
        self._stats: dict[str, NDArray[np.float64]] = {}

    def read(self, utterance: str) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
        """Features of an utterance, (T, D), and its speaker's statistics, (2, D + 1), or None.

        Raises:
            DataError: They are missing, damaged, NaN or of a wrong dimension.
        """
        feats = read_raw_features(self._data, utterance)
        if feats.shape[1] != self._feature_dim:
            raise DataError(
                f"features of {feats.shape[1]} dimensions, expected {self._feature_dim}",
                where=utterance,
            )
        if not self._needs_stats:
            return feats, None
        speaker = self._data.utt2spk.get(utterance, utterance)
        if speaker not in self._stats:
            self._stats[speaker] = _read_stats(self._data, utterance, speaker)
        return feats, self._stats[speaker]


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


def check_tables(data: DataDir, *, needs_stats: bool) -> None:
    """Check that a data directory has the tables that reading its features needs.

    Raises:
        DataError: No ``feats.scp``; or no ``cmvn.scp``, and CMVN statistics are needed.
    """
    if not data.feats:
        raise DataError(
            "no feats.scp, so there are no features",
            where=data.path,
            remedy="Compute them with 'mariana-asr features'",
        )
    if needs_stats and not data.cmvn:
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
    check_tables(data, needs_stats=False)
    first: DataError | None = None
    for utterance in data.utterances:
        try:
            return read_raw_features(data, utterance).shape[1]
        except DataError as error:
            first = first or error
    raise DataError(f"no utterance has features that can be read ({first})", where=data.path)
