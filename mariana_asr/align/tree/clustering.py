"""Clustering of Gaussian statistics by the likelihood that they lose when summed.

Statistics are rows of sums, (n, 1 + 2 D): the count of frames, sums of features, sums of squares.
Kaldi computes objectives in double precision and keeps and compares them in single precision. So
do we: which of two equally good clusterings is taken then depends on their order alone, as there.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.gmm.gaussians import LOG_2PI

Sums = NDArray[np.float64]
Objectives = NDArray[np.float32]

VAR_FLOOR = 0.01
"""Least variance in likelihoods (Kaldi: AccumulateTreeStatsOptions)."""

_BLOCK = 1024
"""Rows of statistics handled at a time: their arrays stay in the processor's cache."""

_LOG_GROUP = 13
"""Variances multiplied before the logarithm is taken: one call instead of many."""


def objective(sums: Sums, var_floor: float = VAR_FLOOR) -> Objectives:
    """Log-likelihood of frames under the Gaussian of their own mean and variance.

    Args:
        sums: Statistics, shape (n, 1 + 2 D); a row of no frames has likelihood 0.
        var_floor: Least variance.

    Returns:
        Shape (n,) (Kaldi: GaussClusterable::Objf).
    """
    result = np.empty(len(sums), dtype=np.float32)
    for start in range(0, len(sums), _BLOCK):
        block = sums[start : start + _BLOCK]
        result[start : start + _BLOCK] = _objective(block, var_floor)
    return result


def _objective(sums: Sums, var_floor: float) -> NDArray[np.float64]:
    dim = (sums.shape[1] - 1) // 2
    counts = sums[:, 0]
    frames = np.where(counts > 0, counts, 1.0)[:, None]
    means = sums[:, 1 : 1 + dim] / frames
    variances = sums[:, 1 + dim :] / frames
    variances -= np.square(means, out=means)
    # A variance over its floored self is 1 but where it is below the floor.
    ratios = np.full(len(sums), float(dim))
    if variances.size and variances.min() < var_floor:
        ratios = np.minimum(variances, var_floor, out=means).sum(axis=1) / var_floor
        np.maximum(variances, var_floor, out=variances)
    logs = np.log(np.multiply.reduceat(variances, range(0, dim, _LOG_GROUP), axis=1)).sum(axis=1)
    return np.where(counts > 0, -0.5 * (ratios + logs + LOG_2PI * dim) * counts, 0.0)


class _Clusters:
    """Points and what they were merged into, with all distances between those still there."""

    def __init__(self, points: Sums, var_floor: float) -> None:
        self.sums = points.copy()
        self.alive = np.ones(len(points), dtype=np.bool_)
        self.merged_into = np.arange(len(points))
        self._var_floor = var_floor
        self._objectives = objective(points, var_floor)
        higher, lower = np.tril_indices(len(points), -1)
        self.between = np.full((len(points), len(points)), np.inf, dtype=np.float32)
        together = np.empty(len(higher), dtype=np.float32)
        for start in range(0, len(higher), _BLOCK):
            some = slice(start, start + _BLOCK)
            together[some] = objective(points[higher[some]] + points[lower[some]], var_floor)
        self.between[higher, lower] = self._lost(higher, lower, together)

    def merge(self, one: int, other: int) -> NDArray[np.int64]:
        """Merge ``other`` into ``one``; the clusters whose distance to ``one`` is new."""
        self.sums[one] += self.sums[other]
        self.alive[other] = False
        self.merged_into[other] = one
        self._objectives[one] = objective(self.sums[one : one + 1], self._var_floor)[0]
        rest = np.flatnonzero(self.alive)
        rest = rest[rest != one]
        together = objective(self.sums[rest] + self.sums[one], self._var_floor)
        higher, lower = np.maximum(rest, one), np.minimum(rest, one)
        self.between[higher, lower] = self._lost(higher, lower, together)
        return rest

    def _lost(
        self, higher: NDArray[np.integer], lower: NDArray[np.integer], together: Objectives
    ) -> Objectives:
        lost = self._objectives[higher] + self._objectives[lower] - together
        return np.maximum(lost, np.float32(0))

    def assignments(self) -> NDArray[np.int64]:
        """The number of each point's cluster, shape (n,); clusters count from 0 in their order."""
        roots = self.merged_into.copy()
        while (roots[roots] != roots).any():
            roots = roots[roots]
        return (np.cumsum(self.alive) - 1)[roots]


def cluster_bottom_up(
    points: Sums, max_loss: float, var_floor: float = VAR_FLOOR
) -> NDArray[np.int64]:
    """Merge the two nearest clusters while the likelihood lost is at most ``max_loss``.

    Returns:
        The number of each point's cluster, from 0, shape (n,) (Kaldi: ClusterBottomUp).
    """
    clusters = _Clusters(points, var_floor)
    limit = np.float32(max_loss)
    near = np.argwhere(clusters.between <= limit)
    queue = [(float(clusters.between[i, j]), i, j) for i, j in near.tolist()]
    heapq.heapify(queue)
    while queue:
        lost, one, other = heapq.heappop(queue)
        if not (clusters.alive[one] and clusters.alive[other]):
            continue
        if abs(clusters.between[one, other] - lost) > 1e-5 * lost:
            continue  # the distance was another one when this entry was made
        for rest in clusters.merge(one, other).tolist():
            pair = (rest, one) if rest > one else (one, rest)
            if clusters.between[pair] < limit:
                heapq.heappush(queue, (float(clusters.between[pair]), *pair))
    return clusters.assignments()


def cluster_to_number(
    compartments: list[Sums], number: int, var_floor: float = VAR_FLOOR
) -> list[NDArray[np.int64]]:
    """Merge the two nearest clusters of any one compartment until ``number`` are left in all.

    Meant for a few merges: each looks through all compartments.

    Returns:
        For each compartment the number of each point's cluster, from 0
        (Kaldi: ClusterBottomUpCompartmentalized).
    """
    clusters = [_Clusters(points, var_floor) for points in compartments]
    nearest = [_nearest(each) for each in clusters]
    for _ in range(sum(map(len, compartments)) - number):
        chosen = min(range(len(clusters)), key=lambda index: nearest[index])
        lost, one, other = nearest[chosen]
        if np.isinf(lost):
            break
        clusters[chosen].merge(one, other)
        nearest[chosen] = _nearest(clusters[chosen])
    return [each.assignments() for each in clusters]


def _nearest(clusters: _Clusters) -> tuple[float, int, int]:
    """The two nearest clusters: likelihood lost, the higher and the lower index."""
    rows = np.flatnonzero(clusters.alive)
    if len(rows) < 2:
        return np.inf, 0, 0
    between = clusters.between[np.ix_(rows, rows)]
    place = int(between.argmin())
    return float(between.flat[place]), int(rows[place // len(rows)]), int(rows[place % len(rows)])
