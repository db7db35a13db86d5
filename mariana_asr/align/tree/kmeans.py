"""Splitting of Gaussian statistics in two by k-means, and top-down clustering by such splits."""

import heapq
from dataclasses import dataclass, field
from math import gcd

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.tree.clustering import VAR_FLOOR, Sums, objective


class CRandom:
    """The numbers that rand() of the GNU C library gives in a process that set no seed.

    Kaldi draws from it, so that with the same statistics both find the same clusters.
    """

    def __init__(self) -> None:
        state = [1]
        for _ in range(30):
            state.append(state[-1] * 16807 % 2147483647)
        state += state[:3]
        self._state = state[-31:]
        for _ in range(310):
            self()

    def __call__(self) -> int:
        """The next number, from 0 to 2**31 - 1."""
        value = (self._state[0] + self._state[-3]) & 0xFFFFFFFF
        self._state = [*self._state[1:], value]
        return value >> 1


def refine_split(
    points: Sums,
    assignments: NDArray[np.integer],
    num_iters: int,
    var_floor: float = VAR_FLOOR,
) -> np.float32:
    """Move points between two clusters while that gains likelihood (Kaldi: RefineClusters).

    Points are taken in turn, each moved at once if it gains, up to ``num_iters`` times around.

    Args:
        points: Statistics, shape (n, 1 + 2 D).
        assignments: Cluster of each point, 0 or 1, shape (n,); changed in place.
        num_iters: Most times around.
        var_floor: Least variance.

    Returns:
        The likelihood gained.
    """
    totals = np.stack([_total(points[assignments == cluster]) for cluster in (0, 1)])
    filled = points[:, 0] != 0
    gained = np.float32(0)
    gains: NDArray[np.float32] | None = None
    untouched = True
    for _ in range(num_iters):
        moved = False
        start = 0
        while start < len(points):
            if gains is None:
                gains, gains_of_empty = _gains(points, assignments, totals, untouched, var_floor)
            better = (np.flatnonzero(gains[start:] > 0) + start).tolist()
            for point in better:
                own = int(assignments[point])
                assignments[point] = 1 - own
                gained += gains[point]
                moved = True
                start = point + 1
                if filled[point] or untouched:
                    totals[own] -= points[point]
                    totals[1 - own] += points[point]
                    gains, untouched = None, False
                    break
                # Moved by rounding alone; the others' gains stay as they are.
                gains[point] = gains_of_empty[1 - own]
            else:
                break
        if not moved:
            break
    return gained


def _gains(
    points: Sums,
    assignments: NDArray[np.integer],
    totals: Sums,
    untouched: bool,
    var_floor: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Likelihood gained by moving each point, in Kaldi's precision and order of adding up.

    Returns:
        Shape (n,); and what a point without frames gains in cluster 0 and in cluster 1, shape
        (2,), which rounding can make more than 0.
    """
    filled = np.flatnonzero(points[:, 0])
    to = 1 - assignments[filled]
    sums = np.concatenate([totals, totals[to] + points[filled], totals[1 - to] - points[filled]])
    values = objective(sums, var_floor)
    clusters, (joined, left) = values[:2], np.split(values[2:], 2)
    other, own = clusters[1 - assignments], clusters[assignments]
    with_other, without_own = other.copy(), own.copy()
    with_other[filled], without_own[filled] = joined, left
    if untouched:
        # Until a point has moved, Kaldi has this value as a distance, and takes it back from that.
        with_other = -((other - with_other) - other)
    of_empty = clusters[::-1] + clusters - clusters[::-1] - clusters
    return with_other + without_own - other - own, of_empty


def split_in_two(
    points: Sums, random: CRandom, *, num_tries: int, var_floor: float = VAR_FLOOR
) -> tuple[np.float32, NDArray[np.int64]]:
    """Split points into two clusters, the best of some tries (Kaldi: ClusterKMeans).

    Returns:
        The likelihood gained over one cluster; and the cluster of each point, 0 or 1, shape (n,).
    """
    best, best_assignments = np.float32(0), np.zeros(len(points), dtype=np.int64)
    for attempt in range(num_tries):
        assignments = _deal(len(points), random)
        parts = [_total(points[assignments == cluster]) for cluster in (0, 1)]
        values = objective(np.stack([*parts, parts[0] + parts[1]]), var_floor)
        gained = values[0] + values[1] - values[2]
        for _ in range(_NUM_ITERS):
            improvement = refine_split(points, assignments, _REFINE_ITERS, var_floor)
            gained += improvement
            if improvement == 0:
                break
        if attempt == 0 or gained > best:
            best, best_assignments = gained, assignments
    return best, best_assignments


# Kaldi's ClusterKMeansOptions and RefineClustersOptions.
_NUM_ITERS = 20
_REFINE_ITERS = 100


def _deal(count: int, random: CRandom) -> NDArray[np.int64]:
    """Deal points out to two clusters in an order that strides through them."""
    stride = 1
    if count > 1:
        stride += random() % (count - 1)
        while gcd(stride, count) != 1:
            stride = 1 if stride == count - 1 else stride + 1
    assignments = np.empty(count, dtype=np.int64)
    assignments[np.arange(count) * stride % count] = np.arange(count) % 2
    return assignments


def _total(points: Sums) -> NDArray[np.float64]:
    return points.sum(axis=0)


@dataclass
class ClusterNode:
    """A cluster of a top-down clustering.

    Attributes:
        points: Indices of its points, in rising order.
        children: The two clusters that it is split into, or none.
    """

    points: NDArray[np.int64]
    children: list["ClusterNode"] = field(default_factory=list)


def cluster_top_down(
    points: Sums, *, num_tries: int, var_floor: float = VAR_FLOOR
) -> tuple[list[ClusterNode], list[ClusterNode]]:
    """Split again and again, best split first, until none gains (Kaldi: TreeCluster).

    Returns:
        The leaves in Kaldi's numbering; and the split clusters in the order of their splits,
        the root first.
    """
    random = CRandom()
    leaves = [ClusterNode(np.arange(len(points)))]
    split: list[ClusterNode] = []
    queue: list[tuple[float, int, NDArray[np.int64]]] = []

    def consider(leaf: int) -> None:
        own = leaves[leaf].points
        if len(own) > 1:
            gain, assignments = split_in_two(
                points[own], random, num_tries=num_tries, var_floor=var_floor
            )
            if gain > 0:
                heapq.heappush(queue, (-float(gain), leaf, assignments))

    consider(0)
    while queue:
        _, leaf, assignments = heapq.heappop(queue)
        node = leaves[leaf]
        node.children = [ClusterNode(node.points[assignments == cluster]) for cluster in (0, 1)]
        split.append(node)
        leaves[leaf] = node.children[0]
        leaves.append(node.children[1])
        consider(leaf)
        consider(len(leaves) - 1)
    return leaves, split
