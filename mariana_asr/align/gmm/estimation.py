"""Maximum likelihood estimation of GMMs: EM statistics, update, and splitting of Gaussians."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mariana_asr.align.gmm.device import DeviceName, find_gpu, on_device
from mariana_asr.align.gmm.gaussians import DiagGmms, offsets_of, ranges
from mariana_asr.options import Options


class MleOptions(Options):
    """Options of Kaldi's MleDiagGmmOptions, with its defaults."""

    min_gaussian_weight: float = Field(default=1e-5, ge=0)
    """A Gaussian with a smaller weight is removed, or not updated."""
    min_gaussian_occupancy: float = Field(default=10.0, ge=0)
    """A Gaussian with a smaller count of frames is removed, or not updated."""
    min_variance: float = Field(default=0.001, gt=0)
    """Floor of the variances."""
    remove_low_count_gaussians: bool = True
    """Remove Gaussians below the floors, but never the last one of a pdf."""


@dataclass
class GmmStats:
    """Sums over frames that the M step needs, in double precision (Kaldi: AccumAmDiagGmm).

    Attributes:
        sums: Sums of [1, x, x squared], weighted by the Gaussians' posteriors, shape
            (G, 1 + 2 D).
        log_like: Log-likelihood of all frames under the pdfs they are aligned to.
        frames: Number of frames.
    """

    sums: NDArray[np.float64]
    log_like: float = 0.0
    frames: int = 0

    @classmethod
    def empty(cls, gmms: DiagGmms) -> "GmmStats":
        """Statistics of no frames."""
        return cls(np.zeros((gmms.num_gaussians, 1 + 2 * gmms.dim)))

    @property
    def occupancy(self) -> NDArray[np.float64]:
        """Expected count of frames of each Gaussian, shape (G,)."""
        return self.sums[:, 0]

    @property
    def moments(self) -> NDArray[np.float64]:
        """Weighted sums of features and of their squares, shape (G, 2 D)."""
        return self.sums[:, 1:]

    def add(self, other: "GmmStats") -> None:
        """Add the statistics of other frames under the same model."""
        self.sums += other.sums
        self.log_like += other.log_like
        self.frames += other.frames

    def accumulate(
        self,
        gmms: DiagGmms,
        feats: NDArray[np.float32],
        pdfs: NDArray[np.integer],
        *,
        summed: NDArray[np.float32] | None = None,
        device: DeviceName = "cpu",
    ) -> None:
        """E step: add frames of features (T, D), each aligned to one pdf (T,).

        Frames of the same pdf are taken together, so that likelihoods and sums are matrix
        products: the more frames in one call, the faster. Products are in single precision over
        at most ``BLOCK_FRAMES`` frames of a pdf, whose sums are added in double.

        Args:
            gmms: The model that the statistics are for.
            feats: Features that posteriors and likelihoods are taken from.
            pdfs: The pdf of each frame.
            summed: Features of the same frames to sum up instead, shape (T, D)
                (Kaldi: gmm-acc-stats-twofeats).
            device: Where to compute: ``auto`` takes a GPU if there is one.

        Raises:
            StageError: A GPU is asked for and there is none.
            ValueError: The shapes do not fit one another or the model, or there is no such pdf.
        """
        if pdfs.shape != feats.shape[:1] or (summed is not None and summed.shape != feats.shape):
            raise ValueError(f"features {feats.shape} with pdfs {pdfs.shape}")
        if len(pdfs) and not 0 <= pdfs.min() <= pdfs.max() < gmms.num_pdfs:
            raise ValueError(
                f"pdfs from {pdfs.min()} to {pdfs.max()} for a model of {gmms.num_pdfs} pdfs"
            )
        gpu = find_gpu(device)
        if gpu is not None:
            on_device(gmms, gpu).accumulate(self, feats, pdfs, summed=summed)
            return
        coefficients = gmms.coefficients
        for rows, frames, gaussians in _batches(gmms, pdfs):
            expanded = gmms.expand(feats.take(rows, axis=0))
            pairs = list(zip(frames, gaussians, strict=True))
            scores = np.concatenate(
                [coefficients[own].dot(expanded[span].T) for span, own in pairs], axis=1
            )
            highest = scores.max(axis=0)
            scores -= highest
            posteriors = np.exp(scores, out=scores)
            totals = posteriors.sum(axis=0)
            posteriors /= totals
            self.log_like += float((highest + np.log(totals)).sum(dtype=np.float64))
            if summed is not None:
                expanded = gmms.expand(summed.take(rows, axis=0))
            for span, own in pairs:
                self.sums[own] += posteriors[:, span].dot(expanded[span])
        self.frames += len(feats)

    def pdf_occupancy(self, gmms: DiagGmms) -> NDArray[np.float64]:
        """Count of frames of each pdf, shape (P,)."""
        return np.add.reduceat(self.occupancy, gmms.offsets[:-1])


BLOCK_FRAMES = 2048
"""Frames that are expanded and scored at once: few enough to stay in a processor's cache."""


def _batches(
    gmms: DiagGmms, pdfs: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.int64], list[slice], list[slice]]]:
    """Batches of frames of pdfs with equally many Gaussians, which softmaxes take together.

    Yields the indices of the frames, those of one pdf side by side; then for each run of frames
    of one pdf, its place in the batch and the pdf's Gaussians.
    """
    by_count = np.argsort(gmms.counts, kind="stable")
    # Small integers are sorted by radix, several times faster than others.
    rank = np.empty(gmms.num_pdfs, dtype=np.min_scalar_type(gmms.num_pdfs))
    rank[by_count] = np.arange(gmms.num_pdfs)
    keys = rank[pdfs]
    order = np.argsort(keys, kind="stable")
    frames = np.bincount(keys, minlength=gmms.num_pdfs)
    firsts = np.cumsum(frames) - frames
    starts = np.union1d(firsts[frames > 0], np.arange(0, len(pdfs), BLOCK_FRAMES))
    pdf_of_run = by_count[keys[order[starts]]]
    counts = gmms.counts[pdf_of_run]
    begins_batch = (np.diff(counts, prepend=0) != 0) | (starts % BLOCK_FRAMES == 0)
    bounds = np.append(starts, len(pdfs))
    for first, end in pairwise([*np.flatnonzero(begins_batch).tolist(), len(starts)]):
        places = (bounds[first : end + 1] - bounds[first]).tolist()
        count = int(counts[first])
        yield (
            order[bounds[first] : bounds[end]],
            [slice(a, b) for a, b in pairwise(places)],
            [slice(a, a + count) for a in gmms.offsets[pdf_of_run[first:end]].tolist()],
        )


@dataclass(frozen=True)
class UpdateSummary:
    """What an M step did: Gaussians removed, and Gaussians with a floored variance."""

    removed: int
    floored: int


def mle_update(
    gmms: DiagGmms, stats: GmmStats, options: MleOptions
) -> tuple[DiagGmms, UpdateSummary]:
    """M step: the model of maximum likelihood (Kaldi: MleDiagGmmUpdate)."""
    dim = gmms.dim
    starts = gmms.offsets[:-1]
    owner = np.repeat(np.arange(gmms.num_pdfs), gmms.counts)
    occupancy = stats.occupancy
    totals = np.add.reduceat(occupancy, starts)[owner]
    share = np.where(
        totals > 0, occupancy / np.where(totals > 0, totals, 1), 1 / gmms.counts[owner]
    )
    enough = (occupancy > options.min_gaussian_occupancy) & (share > options.min_gaussian_weight)

    keep = enough.copy()
    if options.remove_low_count_gaussians:
        # A pdf that would lose all its Gaussians keeps the last one as it is.
        none_left = np.add.reduceat(enough.astype(np.int64), starts) == 0
        keep[gmms.offsets[1:][none_left] - 1] = True
    else:
        keep[:] = True

    weights = np.where(enough, share, np.maximum(share, options.min_gaussian_weight))
    moments = stats.moments / np.where(enough, occupancy, 1)[:, None]
    means, variances = moments[:, :dim], moments[:, dim:]
    variances -= np.square(means)
    floored = int((variances[enough] < options.min_variance).any(axis=1).sum())
    np.maximum(variances, options.min_variance, out=variances)
    old_inv_vars = gmms.inv_vars[~enough].astype(np.float64)
    means[~enough] = gmms.means_inv_vars[~enough] / old_inv_vars
    variances[~enough] = 1 / old_inv_vars
    updated = DiagGmms.from_moments(weights, means, variances, gmms.offsets)
    if not keep.all():
        updated = _without(updated, keep, owner)
    return updated, UpdateSummary(removed=int((~keep).sum()), floored=floored)


def _without(gmms: DiagGmms, keep: NDArray[np.bool_], owner: NDArray[np.int64]) -> DiagGmms:
    """Remove Gaussians; the weights of the pdfs that lose some sum to 1 again."""
    weights = gmms.weights[keep].astype(np.float64)
    owner_kept = owner[keep]
    sums = np.bincount(owner_kept, weights, minlength=gmms.num_pdfs)
    loses = np.bincount(owner[~keep], minlength=gmms.num_pdfs) > 0
    weights = np.where(loses[owner_kept], weights / sums[owner_kept], weights)
    return DiagGmms(
        weights.astype(np.float32),
        gmms.means_inv_vars[keep],
        gmms.inv_vars[keep],
        offsets_of(np.bincount(owner_kept, minlength=gmms.num_pdfs)),
    )


def split_targets(
    pdf_occupancy: NDArray[np.floating], target: int, *, power: float, min_count: float
) -> NDArray[np.int64]:
    """How many Gaussians each pdf should have, shape (P,) (Kaldi: GetSplitTargets).

    Counts grow in proportion to occupancy to the ``power``, from one each up to ``target``
    together; no pdf gets more than its count of frames over ``min_count``.
    """
    scaled = (np.asarray(pdf_occupancy, dtype=np.float32) ** np.float32(power)).tolist()
    frames = np.asarray(pdf_occupancy).tolist()
    counts = [1] * len(frames)
    queue = [(-value, pdf) for pdf, value in enumerate(scaled) if value > 0]
    heapq.heapify(queue)
    left = target - len(counts)
    while left > 0 and queue:
        pdf = queue[0][1]
        if (counts[pdf] + 1) * min_count >= frames[pdf]:
            heapq.heappop(queue)
            continue
        counts[pdf] += 1
        left -= 1
        heapq.heapreplace(queue, (-scaled[pdf] / (counts[pdf] + 1e-10), pdf))
    return np.array(counts, dtype=np.int64)


def split_by_count(
    gmms: DiagGmms,
    pdf_occupancy: NDArray[np.floating],
    target: int,
    *,
    power: float,
    random: np.random.Generator,
    perturb_factor: float = 0.01,
    min_count: float = 20.0,
) -> DiagGmms:
    """Split Gaussians until there are ``target`` of them (Kaldi: AmDiagGmm::SplitByCount).

    In a pdf that gets more, the heaviest Gaussian is halved again and again; the two halves move
    apart by ``perturb_factor`` standard deviations times normal noise.
    """
    targets = split_targets(pdf_occupancy, target, power=power, min_count=min_count)
    targets = np.maximum(targets, gmms.counts)
    offsets = offsets_of(targets)
    old = ranges(offsets[:-1], gmms.counts)
    weights = np.empty(offsets[-1], dtype=np.float32)
    means_inv_vars, inv_vars = np.empty((2, offsets[-1], gmms.dim), dtype=np.float32)
    weights[old] = gmms.weights
    means_inv_vars[old], inv_vars[old] = gmms.means_inv_vars, gmms.inv_vars
    for pdf in np.flatnonzero(targets > gmms.counts).tolist():
        start, end = offsets[pdf : pdf + 2].tolist()
        for new in range(start + int(gmms.counts[pdf]), end):
            heaviest = start + int(weights[start:new].argmax())
            weights[[heaviest, new]] = weights[heaviest] / 2
            inv_vars[new] = inv_vars[heaviest]
            # Means over variances move by standard deviations over variances.
            noise = random.standard_normal(gmms.dim, dtype=np.float32)
            shift = np.float32(perturb_factor) * (noise * np.sqrt(inv_vars[new]))
            means_inv_vars[new] = means_inv_vars[heaviest] + shift
            means_inv_vars[heaviest] -= shift
    return DiagGmms(weights, means_inv_vars, inv_vars, offsets)
