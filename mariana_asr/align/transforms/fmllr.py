"""Feature-space MLLR: an affine transform of a speaker's features that fits them to the model."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.gmm.posteriors import gaussian_posteriors
from mariana_asr.align.transforms.second_moments import (
    packed_size,
    unpack_symmetric,
    weighted_second_moments,
)
from mariana_asr.options import Options

logger = logging.getLogger(__name__)

Doubles = NDArray[np.float64]

BATCH = 64
"""Speakers whose transforms are estimated together: their statistics take some megabytes each."""

REFRESH = 10
"""Iterations after which the inverse that is kept by rank-one updates is computed anew."""
CONVERGED = 1e-9
"""Change in a pass over all rows, far below what single precision can hold, that ends them."""
SINGULAR = 1e-10
"""Least eigenvalue, relative to the diagonal, of statistics that can be inverted."""


class FmllrOptions(Options):
    """Options of Kaldi's FmllrOptions (there, each begins with ``fmllr-``), with its defaults."""

    update_type: Literal["full", "diag", "offset", "none"] = "full"
    """What is estimated: a whole matrix, scales and offsets, offsets only, or nothing."""
    min_count: float = Field(default=500.0, ge=0)
    """A speaker with no more frames than this is not adapted."""
    num_iters: int = Field(default=40, ge=1)
    """Passes over the rows of the matrix."""
    silence_weight: float = Field(default=0.0, ge=0, le=1)
    """Weight of frames in silence (steps/train_sat.sh; steps/decode_fmllr.sh has 0.01)."""


@dataclass
class FmllrStats:
    """Sums over the frames of a speaker that fMLLR needs, in double precision.

    A frame x is extended by a 1 for the offset (Kaldi: AffineXformStats).

    Attributes:
        count: Number of frames, weighted.
        linear: Sum of the Gaussians' means over their variances, times the extended frame; shape
            (D, D + 1).
        quadratic: For each dimension d, the sum of inverse variances in d times the outer product
            of the extended frame: upper triangles, shape (D, (D + 1) (D + 2) / 2).
    """

    count: float
    linear: Doubles
    quadratic: Doubles

    @classmethod
    def empty(cls, dim: int) -> "FmllrStats":
        """Statistics of no frames of ``dim`` values."""
        return cls(0.0, np.zeros((dim, dim + 1)), np.zeros((dim, packed_size(dim + 1))))

    @property
    def dim(self) -> int:
        """Dimension of the features, D."""
        return len(self.linear)

    def add(self, other: "FmllrStats") -> None:
        """Add the statistics of other frames."""
        self.count += other.count
        self.linear += other.linear
        self.quadratic += other.quadratic

    def accumulate(
        self,
        gmms: DiagGmms,
        feats: NDArray[np.floating],
        pdfs: NDArray[np.integer],
        weights: NDArray[np.floating] | None = None,
        *,
        posterior_gmms: DiagGmms | None = None,
        posterior_feats: NDArray[np.floating] | None = None,
    ) -> None:
        """Add frames of one speaker; see ``accumulate_speakers``."""
        accumulate_speakers(
            [self],
            np.zeros(len(feats), dtype=np.int64),
            gmms,
            feats,
            pdfs,
            weights,
            posterior_gmms=posterior_gmms,
            posterior_feats=posterior_feats,
        )


def accumulate_speakers(
    stats: Sequence[FmllrStats],
    speakers: NDArray[np.integer],
    gmms: DiagGmms,
    feats: NDArray[np.floating],
    pdfs: NDArray[np.integer],
    weights: NDArray[np.floating] | None = None,
    *,
    posterior_gmms: DiagGmms | None = None,
    posterior_feats: NDArray[np.floating] | None = None,
) -> None:
    """Add frames of several speakers to their statistics (Kaldi: gmm-est-fmllr's first half).

    Frames of the same pdf are taken together, whoever speaks: a call for many speakers is much
    faster than a call for each.

    Args:
        stats: Statistics of each speaker; they are added to.
        speakers: Whose frame a row is, as a place in ``stats``; shape (N,).
        gmms: The model to which features are to be fitted.
        feats: Features to transform, shape (N, D). A frame may come in several rows, with several
            pdfs; if they follow one another, the repetition costs little.
        pdfs: The pdf of each row, shape (N,).
        weights: The weight of each row, such as the pdf's posterior, shape (N,); 1 if not given.
        posterior_gmms: A model of as many Gaussians in each pdf, whose posteriors to take in
            place of those of ``gmms`` (Kaldi: gmm-post-to-gpost, gmm-est-fmllr-gpost).
        posterior_feats: Features for these posteriors, shape (N, D), in place of ``feats``.

    Raises:
        ValueError: The shapes or the models do not fit each other, or there is no such pdf.
    """
    chooser = gmms if posterior_gmms is None else posterior_gmms
    if not np.array_equal(chooser.offsets, gmms.offsets):
        raise ValueError("the model for posteriors has other numbers of Gaussians in its pdfs")
    chosen_by = feats if posterior_feats is None else posterior_feats
    if not len(feats) == len(chosen_by) == len(pdfs) == len(speakers):
        raise ValueError(
            f"{len(feats)} rows of features, {len(chosen_by)} for posteriors, {len(pdfs)} pdfs "
            f"and {len(speakers)} speakers"
        )
    if weights is None:
        weights = np.ones(len(feats), dtype=np.float32)
    dim = gmms.dim
    kept = np.flatnonzero(weights)
    kept = kept[np.argsort(speakers[kept], kind="stable")]
    if not len(kept):
        return
    feats, speakers, weights = feats[kept], speakers[kept], weights[kept].astype(np.float32)
    parameters = np.concatenate([gmms.means_inv_vars, gmms.inv_vars], axis=1)
    terms = np.empty((len(kept), 2 * dim), dtype=np.float32)
    for rows, own, posteriors in gaussian_posteriors(chooser, chosen_by[kept], pdfs[kept]):
        posteriors *= weights[rows, None]
        terms[rows] = posteriors @ parameters[own]

    extended = np.concatenate([feats, np.ones((len(feats), 1), feats.dtype)], axis=1)
    new_speaker = speakers[1:] != speakers[:-1]
    new_frame = new_speaker | (feats[1:] != feats[:-1]).any(axis=1)
    frames = np.append(0, np.flatnonzero(new_frame) + 1)
    if len(frames) < len(feats):
        terms = np.add.reduceat(terms, frames, axis=0)
        weights = np.add.reduceat(weights.astype(np.float64), frames)
        extended, speakers = extended[frames], speakers[frames]
    present, starts = np.unique(speakers, return_index=True)
    ends = np.append(starts[1:], len(speakers))
    for speaker, start, end in zip(present.tolist(), starts, ends, strict=True):
        own_stats, span = stats[speaker], slice(start, end)
        doubled = extended[span].astype(np.float64)
        own_stats.count += float(weights[span].sum(dtype=np.float64))
        own_stats.linear += terms[span, :dim].T.astype(np.float64) @ doubled
        own_stats.quadratic += weighted_second_moments(terms[span, dim:], doubled)


@dataclass(frozen=True)
class FmllrResult:
    """The transform of a speaker.

    Attributes:
        matrix: Affine transform, shape (D, D + 1), the offset in the last column.
        count: Number of frames it was estimated from, weighted.
        improvement: Gain in the log-likelihood a frame at fixed posteriors, with the logarithm of
            the determinant in it.
        adapted: Whether there were enough data; otherwise the matrix is the unit transform.
        reason: Why not adapted; empty if it is.
    """

    matrix: NDArray[np.float32]
    count: float
    improvement: float
    adapted: bool
    reason: str = ""


def estimate_fmllr(stats: Sequence[FmllrStats], options: FmllrOptions) -> list[FmllrResult]:
    """Estimate the transforms of all speakers together (Kaldi: FmllrDiagGmmAccs::Update).

    A full matrix is estimated row by row as in Gales, "Maximum likelihood linear transformations
    for HMM-based speech recognition" (1998), from the unit transform on. A speaker without enough
    frames, with statistics that are singular, or whose transform would not help gets the unit
    transform and a reason.
    """
    results: dict[int, FmllrResult] = {}
    usable = []
    for index, speaker in enumerate(stats):
        if options.update_type == "none":
            results[index] = _unit(speaker, "update_type is none")
        elif speaker.count <= options.min_count:
            results[index] = _unit(
                speaker, f"{speaker.count:.0f} frames, of more than {options.min_count:g} wanted"
            )
        else:
            usable.append(index)
    for first in range(0, len(usable), BATCH):
        batch = usable[first : first + BATCH]
        results.update(zip(batch, _estimate([stats[i] for i in batch], options), strict=True))
    return [results[index] for index in range(len(stats))]


def estimate_speakers(
    parts: Iterable[Mapping[str, FmllrStats]],
    speakers_of_parts: Sequence[Collection[str]],
    options: FmllrOptions,
) -> dict[str, FmllrResult]:
    """Estimate the transforms of speakers whose statistics come in parts.

    A speaker is done as soon as all parts with utterances of theirs have come, so that the
    statistics of few speakers are in memory at a time.

    Args:
        parts: Statistics of the speakers in each part of the data.
        speakers_of_parts: The speakers in each part, known beforehand.
        options: How to estimate.

    Returns:
        Speaker to transform.
    """
    waiting = Counter(speaker for part in speakers_of_parts for speaker in part)
    summed: dict[str, FmllrStats] = {}
    whole: dict[str, FmllrStats] = {}
    results: dict[str, FmllrResult] = {}

    def estimate() -> None:
        results.update(zip(whole, estimate_fmllr(list(whole.values()), options), strict=True))
        whole.clear()

    for part in parts:
        for speaker, stats in part.items():
            if speaker in summed:
                summed[speaker].add(stats)
            else:
                summed[speaker] = stats
            waiting[speaker] -= 1
            if not waiting[speaker]:
                whole[speaker] = summed.pop(speaker)
        if len(whole) >= BATCH:
            estimate()
    estimate()
    return results


def _unit(stats: FmllrStats, reason: str) -> FmllrResult:
    matrix = np.eye(stats.dim, stats.dim + 1, dtype=np.float32)
    return FmllrResult(matrix, stats.count, 0.0, False, reason)


@dataclass(frozen=True)
class _Batch:
    """Statistics of S speakers: counts (S,), linear terms (S, D, D + 1), packed quadratic ones."""

    counts: Doubles
    linear: Doubles
    packed: Doubles

    @property
    def dim(self) -> int:
        return self.linear.shape[1]

    def quadratic(self, d: int) -> Doubles:
        """Quadratic terms of dimension d, shape (S, D + 1, D + 1)."""
        return unpack_symmetric(self.packed[:, d], self.dim + 1)

    def objective(self, transforms: Doubles) -> Doubles:
        """Log-likelihood of all frames but for a constant, shape (S,) (FmllrAuxFuncDiagGmm)."""
        value = self.counts * np.linalg.slogdet(transforms[:, :, :-1])[1]
        value += (transforms * self.linear).sum(axis=(1, 2))
        for d in range(self.dim):
            row = transforms[:, d]
            value -= 0.5 * (np.matmul(self.quadratic(d), row[:, :, None])[:, :, 0] * row).sum(1)
        return value


def _estimate(stats: Sequence[FmllrStats], options: FmllrOptions) -> list[FmllrResult]:
    batch = _Batch(
        np.array([speaker.count for speaker in stats]),
        np.stack([speaker.linear for speaker in stats]),
        np.stack([speaker.quadratic for speaker in stats]),
    )
    unit = np.tile(np.eye(batch.dim, batch.dim + 1), (len(stats), 1, 1))
    if options.update_type == "full":
        transforms, sound = _full(batch, options.num_iters)
    elif options.update_type == "diag":
        transforms, sound = _diagonal(batch)
    else:
        transforms, sound = _offsets(batch)
    transforms[~sound] = unit[~sound]
    gains = (batch.objective(transforms) - batch.objective(unit)) / batch.counts
    results = []
    for speaker, matrix, gain, is_sound in zip(stats, transforms, gains, sound, strict=True):
        if not is_sound:
            results.append(_unit(speaker, "the features vary in too few directions"))
        elif not gain > -1e-6:
            results.append(_unit(speaker, f"the transform would lose {-gain:g} a frame"))
        else:
            single = matrix.astype(np.float32)
            results.append(FmllrResult(single, speaker.count, float(gain), True))
    return results


def _full(batch: _Batch, num_iters: int) -> tuple[Doubles, NDArray[np.bool_]]:
    """Whole matrices, row by row (Kaldi: FmllrInnerUpdate); and whose statistics allow one.

    A row becomes inv(G) (alpha c + k), where c are its cofactors; inv(G) k never changes.
    """
    dim, speakers = batch.dim, len(batch.counts)
    sound = _invertible(batch.quadratic(0))
    eye = np.eye(dim + 1)
    inverses, constants = [], []
    for d in range(dim):
        inverse = np.linalg.inv(np.where(sound[:, None, None], batch.quadratic(d), eye))
        inverses.append(np.ascontiguousarray(inverse[:, :, :dim]))
        constants.append(np.matmul(inverse, batch.linear[:, d, :, None])[:, :, 0])
    transforms = np.tile(np.eye(dim, dim + 1), (speakers, 1, 1))
    counts, outer = batch.counts, np.empty((speakers, dim, dim))
    for iteration in range(num_iters):
        before = transforms.copy()
        if iteration % REFRESH == 0:
            cofactors = np.linalg.inv(transforms[:, :, :dim])
        for d in range(dim):
            # Columns of the inverse are the cofactors of rows, but for a factor that cancels out.
            cofactor = cofactors[:, :, d].copy()
            step = np.matmul(inverses[d], cofactor[:, :, None])[:, :, 0]
            square = np.einsum("sd,sd->s", step[:, :dim], cofactor)
            cross = np.einsum("sd,sd->s", constants[d][:, :dim], cofactor)
            # Of the quadratic equation's two roots, the one that FmllrInnerUpdate finds better.
            root = np.sqrt(np.square(cross) + 4 * square * counts)
            growth = 0.5 * (cross + np.copysign(root, cross))
            updated = (counts / growth)[:, None] * step + constants[d]
            change = updated[:, None, :dim] - transforms[:, None, d, :dim]
            transforms[:, d] = updated
            cofactor /= growth[:, None]
            np.multiply(cofactor[:, :, None], np.matmul(change, cofactors), out=outer)
            cofactors -= outer
        if np.abs(transforms - before).max() < CONVERGED:
            break
    return transforms, sound


def _invertible(quadratic: Doubles) -> NDArray[np.bool_]:
    """Whether features vary in all directions; (S, D + 1, D + 1) to (S,)."""
    diagonal = np.diagonal(quadratic, axis1=1, axis2=2)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    scaled = quadratic * scale[:, :, None] * scale[:, None, :]
    return np.asarray(np.linalg.eigvalsh(scaled)[:, 0] > SINGULAR)


def _diagonal(batch: _Batch) -> tuple[Doubles, NDArray[np.bool_]]:
    """Scales and offsets (Kaldi: ComputeFmllrMatrixDiagGmmDiagonal); and who has data for them.

    Without the offset, which follows from the scale s, the objective is a s^2 / 2 + b s + n log s.
    """
    dim, each = batch.dim, np.arange(batch.dim)
    transforms = np.tile(np.eye(dim, dim + 1), (len(batch.counts), 1, 1))
    square, first, count = _diagonal_terms(batch)
    varies = (count > 0) & (square * count * (1 - SINGULAR) > first**2)
    sound: NDArray[np.bool_] = np.logical_and.reduce(varies, axis=1)
    count = np.where(sound[:, None], count, 1)
    a = np.where(sound[:, None], first**2 / count - square, -1)
    b = batch.linear[:, each, each] - first * batch.linear[:, :, dim] / count
    scale = (-b - np.sqrt(b**2 - 4 * a * batch.counts[:, None])) / (2 * a)
    transforms[:, each, each] = scale
    transforms[:, :, dim] = (batch.linear[:, :, dim] - scale * first) / count
    return transforms, sound


def _offsets(batch: _Batch) -> tuple[Doubles, NDArray[np.bool_]]:
    """Offsets alone (Kaldi: ComputeFmllrMatrixDiagGmmOffset); and who has data for them."""
    dim = batch.dim
    transforms = np.tile(np.eye(dim, dim + 1), (len(batch.counts), 1, 1))
    _, first, count = _diagonal_terms(batch)
    sound: NDArray[np.bool_] = np.logical_and.reduce(count > 0, axis=1)
    count = np.where(sound[:, None], count, 1)
    transforms[:, :, dim] = (batch.linear[:, :, dim] - first) / count
    return transforms, sound


def _diagonal_terms(batch: _Batch) -> tuple[Doubles, Doubles, Doubles]:
    """Quadratic terms that tie a dimension's scale and offset; each of shape (S, D)."""
    dim, each = batch.dim, np.arange(batch.dim)
    rows, columns = np.triu_indices(dim + 1)
    square, first = np.flatnonzero(rows == columns)[:dim], np.flatnonzero(columns == dim)[:dim]
    return batch.packed[:, each, square], batch.packed[:, each, first], batch.packed[:, :, -1]
