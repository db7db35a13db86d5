"""Maximum likelihood linear transform: one matrix that makes diagonal covariances fit best."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.gmm.posteriors import gaussian_posteriors
from mariana_asr.align.transforms.second_moments import (
    packed_size,
    unpack_symmetric,
    weighted_second_moments,
)
from mariana_asr.errors import StageError

logger = logging.getLogger(__name__)

NUM_ITERS = 200
"""Passes over the rows of the matrix (Kaldi: MlltAccs::Update)."""


@dataclass
class MlltStats:
    """Sums over frames that MLLT needs, in double precision (Kaldi: MlltAccs).

    Attributes:
        count: Number of frames.
        scatter: For each dimension d, the covariances of frames around the Gaussians' means,
            weighted by posteriors and by inverse variances in dimension d: upper triangles, shape
            (D, D (D + 1) / 2).
    """

    count: float
    scatter: NDArray[np.float64]

    @classmethod
    def empty(cls, dim: int) -> "MlltStats":
        """Statistics of no frames of ``dim`` values."""
        return cls(0.0, np.zeros((dim, packed_size(dim))))

    @property
    def dim(self) -> int:
        """Dimension of the features, D."""
        return len(self.scatter)

    def add(self, other: "MlltStats") -> None:
        """Add the statistics of other frames."""
        self.count += other.count
        self.scatter += other.scatter

    def accumulate(
        self, gmms: DiagGmms, feats: NDArray[np.floating], pdfs: NDArray[np.integer]
    ) -> None:
        """Add frames of features (T, D), each aligned to one pdf (T,) (Kaldi: gmm-acc-mllt).

        Kaldi prunes posteriors at random; these are the sums that it has in expectation. The
        scatter of a Gaussian's n frames around its mean m is the sum of x x' over its frames, less
        n c c', plus n (c - m) (c - m)', where c is the frames' own mean: the first depends on the
        frame alone, the others on the Gaussian alone.

        Raises:
            ValueError: The shapes do not fit, or there is no such pdf.
        """
        if not len(feats):
            return
        frame_weights = np.empty(feats.shape, dtype=np.float32)
        occupancy = np.zeros(gmms.num_gaussians)
        sums = np.zeros((gmms.num_gaussians, gmms.dim))
        for rows, own, posteriors in gaussian_posteriors(gmms, feats, pdfs):
            frame_weights[rows] = posteriors @ gmms.inv_vars[own]
            occupancy[own] = posteriors.sum(axis=0, dtype=np.float64)
            sums[own] = posteriors.T.astype(np.float64) @ feats[rows].astype(np.float64)
        used = occupancy > 0
        centres = sums[used] / occupancy[used, None]
        gaussian_weights = gmms.inv_vars[used] * occupancy[used, None]
        self.scatter += weighted_second_moments(frame_weights, feats)
        self.scatter += weighted_second_moments(
            np.concatenate([-gaussian_weights, gaussian_weights]),
            np.concatenate([centres, centres - gmms.means[used]]),
        )
        self.count += float(occupancy.sum())


def estimate_mllt(stats: MlltStats) -> tuple[NDArray[np.float32], float]:
    """Estimate the transform of greatest likelihood, row by row (Kaldi: est-mllt).

    The update of a row is equation (22) of Gales, "Semi-tied covariance matrices for hidden
    Markov models" (1999).

    Returns:
        The matrix, shape (D, D), that multiplies features from the left; and the gain in the
        objective, the log-likelihood a frame at fixed posteriors.

    Raises:
        StageError: There are too few frames for an estimate.
    """
    dim, count = stats.dim, stats.count
    if count < 10 * dim:
        logger.warning("MLLT of %d dimensions from %.0f frames only", dim, count)
    scatter = unpack_symmetric(stats.scatter, dim)
    try:
        np.linalg.cholesky(scatter)
        inverse = np.linalg.inv(scatter)
    except np.linalg.LinAlgError:
        raise StageError(
            f"the statistics of MLLT over {count:.0f} frames are singular",
            remedy="There are too few frames, or some features never vary",
        ) from None
    matrix, gain = np.eye(dim), 0.0
    for iteration in range(NUM_ITERS):
        cofactors = np.linalg.inv(matrix)  # the columns; times a determinant that cancels out
        for d in range(dim):
            row, cofactor = matrix[d].copy(), cofactors[:, d].copy()
            direction = inverse[d] @ cofactor
            updated = direction * np.sqrt(count / (cofactor @ direction))
            determinant = updated @ cofactor  # by how much it grows: row @ cofactor is 1
            gain += count * np.log(abs(determinant))
            gain -= 0.5 * (updated @ scatter[d] @ updated - row @ scatter[d] @ row)
            matrix[d] = updated
            cofactors -= np.outer(cofactor, (updated - row) @ cofactors / determinant)
        if iteration < 10 or iteration % 10 == 0:
            logger.debug("MLLT iteration %d: gain %.6f a frame", iteration, gain / count)
    return matrix.astype(np.float32), float(gain / count)


def transform_means(gmms: DiagGmms, matrix: NDArray[np.floating]) -> DiagGmms:
    """Apply a linear (D, D) or affine (D, D + 1) transform to all means.

    Variances and weights stay as they are (Kaldi: gmm-transform-means).

    Raises:
        ValueError: The matrix does not fit the model.
    """
    dim = gmms.dim
    if matrix.shape not in ((dim, dim), (dim, dim + 1)):
        raise ValueError(f"a matrix of shape {matrix.shape} for a model of dim {dim}")
    matrix = matrix.astype(np.float64)
    means = gmms.means @ matrix[:, :dim].T
    if matrix.shape[1] > dim:
        means += matrix[:, dim]
    return DiagGmms(
        gmms.weights, means.astype(np.float32) * gmms.inv_vars, gmms.inv_vars, gmms.offsets
    )
