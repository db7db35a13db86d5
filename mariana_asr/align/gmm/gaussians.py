"""Gaussian mixture models of all pdfs in one set of arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DiagGmms:
    """The diagonal-covariance Gaussians of all pdfs, one below the other (Kaldi: AmDiagGmm).

    As in Kaldi a Gaussian is kept in its natural parameters, so that reading and writing a model
    changes no bit of it.

    Attributes:
        weights: Mixture weights, shape (G,); those of one pdf sum to 1.
        means_inv_vars: Means divided by variances, shape (G, D).
        inv_vars: Inverse variances, shape (G, D).
        offsets: Pdf p owns the Gaussians from ``offsets[p]`` to ``offsets[p + 1]``; shape (P + 1,).
    """

    weights: Floats
    means_inv_vars: Floats
    inv_vars: Floats
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that the shapes agree."""
        gaussians, dim = self.inv_vars.shape
        if (
            self.weights.shape != (gaussians,)
            or self.means_inv_vars.shape != (gaussians, dim)
            or self.offsets[0] != 0
            or self.offsets[-1] != gaussians
            or (np.diff(self.offsets) < 1).any()
        ):
            raise ValueError(
                f"weights {self.weights.shape}, means {self.means_inv_vars.shape} and inverse "
                f"variances {self.inv_vars.shape} do not fit pdf offsets {self.offsets}"
            )

    @classmethod
    def from_moments(
        cls,
        weights: NDArray[np.floating],
        means: NDArray[np.floating],
        variances: NDArray[np.floating],
        offsets: NDArray[np.integer],
    ) -> "DiagGmms":
        """Make the model from means and variances, each of shape (G, D).

        Inverted and multiplied in single precision as Kaldi does (DiagGmmNormal::CopyToDiagGmm).
        """
        inv_vars = np.float32(1.0) / np.asarray(variances, dtype=np.float32)
        return cls(
            np.asarray(weights, dtype=np.float32),
            np.asarray(means, dtype=np.float32) * inv_vars,
            inv_vars,
            np.asarray(offsets, dtype=np.int64),
        )

    @property
    def num_pdfs(self) -> int:
        """Number of pdfs, P."""
        return len(self.offsets) - 1

    @property
    def num_gaussians(self) -> int:
        """Number of Gaussians of all pdfs together, G."""
        return len(self.weights)

    @property
    def dim(self) -> int:
        """Dimension of the features, D."""
        return self.inv_vars.shape[1]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of Gaussians of each pdf, shape (P,)."""
        return np.diff(self.offsets)

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """Means, shape (G, D)."""
        return self.means_inv_vars.astype(np.float64) / self.inv_vars

    @cached_property
    def variances(self) -> NDArray[np.float64]:
        """Variances, shape (G, D)."""
        return 1.0 / self.inv_vars.astype(np.float64)

    @cached_property
    def gconsts(self) -> Floats:
        """Log-likelihood of each weighted Gaussian at the origin, shape (G,).

        Summed in Kaldi's order and precision (DiagGmm::ComputeGconsts), so that they equal
        Kaldi's but for the last bit, in which logarithms of different libraries can differ.
        """
        means_inv_vars = self.means_inv_vars.astype(np.float64)
        inv_vars = self.inv_vars.astype(np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            gconsts = np.log(self.weights.astype(np.float64)).astype(np.float32)
            gconsts = (gconsts + np.float32(-0.5 * LOG_2PI * self.dim)).astype(np.float32)
            logs = np.log(inv_vars).astype(np.float32).astype(np.float64)
            terms = 0.5 * logs - 0.5 * means_inv_vars * means_inv_vars / inv_vars
            for column in terms.T:
                gconsts = (gconsts.astype(np.float64) + column).astype(np.float32)
        return gconsts

    def with_gconsts(self, gconsts: Floats) -> "DiagGmms":
        """Take over the gconsts of a model file where they equal ours but for rounding.

        So a model that is read and written back stays the same file. Kaldi trusts those in the
        file no more than we do (DiagGmm::Read).
        """
        if gconsts.shape != self.gconsts.shape:
            return self
        same = np.isclose(gconsts, self.gconsts, rtol=1e-6, atol=1e-4)
        taken = replace(self)
        taken.__dict__["gconsts"] = np.where(same, gconsts, self.gconsts)
        return taken

    @cached_property
    def coefficients(self) -> Floats:
        """Rows whose products with [1, x, x squared] are log-likelihoods, (G, 1 + 2 D)."""
        return np.concatenate(
            [self.gconsts[:, None], self.means_inv_vars, np.float32(-0.5) * self.inv_vars], axis=1
        )

    @property
    def projection(self) -> Floats:
        """Matrix that takes [x, x squared] to log-likelihoods without gconsts, (2 D, G)."""
        return self.coefficients[:, 1:].T

    def expand(self, feats: NDArray[np.floating]) -> Floats:
        """Make [1, x, x squared] of every frame; (T, D) to (T, 1 + 2 D)."""
        feats = np.asarray(feats, dtype=np.float32)
        if feats.ndim != 2 or feats.shape[1] != self.dim:
            raise ValueError(f"features of shape {feats.shape} for a model of dim {self.dim}")
        ones = np.ones((len(feats), 1), dtype=np.float32)
        return np.concatenate([ones, feats, feats * feats], axis=1)

    def log_likelihoods(
        self,
        feats: NDArray[np.floating],
        pdfs: Sequence[int] | NDArray[np.integer] | None = None,
    ) -> Floats:
        """Log-likelihood of every frame under every pdf, or those given; (T, D) to (T, P)."""
        pdfs = np.arange(self.num_pdfs) if pdfs is None else np.asarray(pdfs, dtype=np.int64)
        frames = np.ascontiguousarray(self.expand(feats).T)
        log_likes = np.empty((len(pdfs), len(feats)), dtype=np.float32)
        for places, count in _groups_by_count(self.counts[pdfs]):
            rows = self.offsets[pdfs[places], None] + np.arange(count)
            scores = self.coefficients.take(rows.ravel(), axis=0).dot(frames)
            log_likes[places] = _log_sum_exp(scores.reshape(len(places), count, len(feats)))
        return np.ascontiguousarray(log_likes.T)

    def select(self, pdfs: Sequence[int] | NDArray[np.integer]) -> "DiagGmms":
        """The model of some pdfs only, in the order given."""
        pdfs = np.asarray(pdfs)
        counts = self.counts[pdfs]
        rows = ranges(self.offsets[pdfs], counts)
        return self._rows(rows, counts)

    def _rows(self, rows: NDArray[np.integer], counts: NDArray[np.integer]) -> "DiagGmms":
        selected = DiagGmms(
            self.weights[rows],
            self.means_inv_vars[rows],
            self.inv_vars[rows],
            offsets_of(counts),
        )
        if "gconsts" in self.__dict__:
            selected.__dict__["gconsts"] = self.gconsts[rows]
        return selected


LOG_2PI = 1.8378770664093454835606594728112
"""Kaldi's M_LOG_2PI."""


def offsets_of(counts: NDArray[np.integer] | Sequence[int]) -> NDArray[np.int64]:
    """Where each of a row of groups of these sizes starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _groups_by_count(counts: NDArray[np.integer]) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Indices of equal counts, and the count; the arrays of such pdfs stack without padding."""
    order = np.argsort(counts, kind="stable")
    cuts = np.flatnonzero(np.diff(counts[order], prepend=0)).tolist()
    for start, end in pairwise([*cuts, len(order)]):
        yield order[start:end], int(counts[order[start]])


def _log_sum_exp(scores: Floats) -> Floats:
    """Sum along the middle axis as probabilities; ``scores`` is overwritten."""
    if scores.shape[1] == 1:
        return scores[:, 0]
    highest = scores.max(axis=1)
    scores -= highest[:, None]
    np.exp(scores, out=scores)
    sums = scores.sum(axis=1)
    return np.log(sums, out=sums) + highest


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Concatenation of ``range(start, start + count)``."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)
