"""Linear discriminant analysis: the projection that best tells classes of frames apart."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import StageError

logger = logging.getLogger(__name__)

BLOCK = 4096
"""Frames taken at a time: few enough to stay in the processor's cache."""


@dataclass
class LdaStats:
    """Sums over frames that LDA needs, in double precision (Kaldi: LdaEstimate).

    Attributes:
        counts: Number of frames of each class, shape (C,).
        sums: Sum of the frames of each class, shape (C, D).
        second: Sum of the outer products of all frames with themselves, shape (D, D).
    """

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def empty(cls, num_classes: int, dim: int) -> "LdaStats":
        """Statistics of no frames of ``dim`` values."""
        return cls(np.zeros(num_classes), np.zeros((num_classes, dim)), np.zeros((dim, dim)))

    def add(self, other: "LdaStats") -> None:
        """Add the statistics of other frames."""
        self.counts += other.counts
        self.sums += other.sums
        self.second += other.second

    def accumulate(self, feats: NDArray[np.floating], classes: NDArray[np.integer]) -> None:
        """Add frames of features (T, D), each of one class (T,) (Kaldi: acc-lda).

        Raises:
            ValueError: The shapes do not fit, or there is no such class.
        """
        num_classes, dim = self.sums.shape
        if feats.shape != (*classes.shape, dim):
            raise ValueError(f"features {feats.shape}, classes {classes.shape}, dimension {dim}")
        if not len(classes):
            return
        if classes.min() < 0 or classes.max() >= num_classes:
            raise ValueError(f"classes {classes.min()} to {classes.max()} of {num_classes}")
        for first in range(0, len(classes), BLOCK):
            block = classes[first : first + BLOCK]
            order = np.argsort(block, kind="stable")
            frames = feats[first : first + BLOCK][order].astype(np.float64)
            present, starts, counts = np.unique(block[order], return_index=True, return_counts=True)
            self.counts[present] += counts
            self.sums[present] += np.add.reduceat(frames, starts, axis=0)
            self.second += frames.T @ frames


def estimate_lda(stats: LdaStats, dim: int = 40) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Estimate the projection after which classes have unit covariance (Kaldi: est-lda).

    Args:
        stats: Statistics of frames of D values.
        dim: Number of dimensions to keep: those with the greatest variance between classes.

    Returns:
        The projection, shape (dim, D), and the whole matrix (D, D) whose first rows it is. The
        sign of a row is arbitrary.

    Raises:
        StageError: There are too few classes or frames for so many dimensions.
    """
    num_classes, full_dim = stats.sums.shape
    if not 0 < dim <= full_dim or dim >= num_classes:
        raise StageError(
            f"LDA to {dim} dimensions of features of {full_dim}, with {num_classes} classes",
            remedy="The dimension is at most that of the features, and less than the number of "
            "classes (tree leaves)",
        )
    count = stats.counts.sum()
    if not count:
        raise StageError("LDA without any frames", remedy="Check the alignments")
    seen = stats.counts > 0
    mean = stats.sums.sum(axis=0) / count
    # Root of the class's share times its mean: the products with themselves add up.
    class_means = stats.sums[seen] / np.sqrt(stats.counts[seen] * count)[:, None]
    between = class_means.T @ class_means - np.outer(mean, mean)
    total = stats.second / count - np.outer(mean, mean)
    whitening = np.linalg.inv(_cholesky(total - between))
    # The matrix is symmetric without negative eigenvalues: they are its singular values.
    variances, vectors = np.linalg.eigh(whitening @ between @ whitening.T)
    order = np.argsort(-np.abs(variances), kind="stable")
    variances = np.abs(variances[order])
    logger.info(
        "LDA over %d frames of %d classes: %.4g of %.4g of the variance between classes kept",
        count,
        seen.sum(),
        variances[:dim].sum(),
        variances.sum(),
    )
    full = (vectors[:, order].T @ whitening).astype(np.float32)
    return full[:dim].copy(), full


def _cholesky(within: NDArray[np.float64]) -> NDArray[np.floating]:
    """Lower factor of the covariance within classes, smoothed where it has none (as Kaldi does).

    Raises:
        StageError: It has none even so.
    """
    try:
        return np.linalg.cholesky(within)
    except np.linalg.LinAlgError:
        smooth = 1e-3 * np.trace(within) / len(within)
        logger.warning(
            "the covariance within classes is singular: %g is added to its diagonal", smooth
        )
    try:
        return np.linalg.cholesky(within + smooth * np.eye(len(within)))
    except np.linalg.LinAlgError:
        raise StageError(
            "the covariance within classes is singular",
            remedy="There are too few frames for LDA, or the features never vary",
        ) from None
