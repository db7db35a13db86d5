"""Kaldi's clustering and tree building as plain slow loops, for tests to compare with."""

import math
from itertools import combinations

import numpy as np

F = np.float32


def plain_objective(row, var_floor=0.01) -> np.float32:
    """Log-likelihood of one row of statistics, dimension by dimension."""
    count, dim = row[0], (len(row) - 1) // 2
    if count <= 0:
        return F(0)
    per_frame = 0.0
    for d in range(dim):
        mean = row[1 + d] / count
        variance = row[1 + dim + d] / count - mean * mean
        floored = max(variance, var_floor)
        per_frame -= 0.5 * (variance / floored + math.log(floored) + math.log(2 * math.pi))
    return F(per_frame * count)


def plain_refine(points, assignments, num_iters):
    """RefineClusters for two clusters: remembered objectives with the time they were computed."""
    clusters = [sum((p for p, a in zip(points, assignments, strict=True) if a == c),
                    np.zeros(len(points[0]))) for c in (0, 1)]  # fmt: skip
    objectives = [plain_objective(cluster) for cluster in clusters]
    changed_at, now, gained = [0, 0], 0, F(0)
    remembered = []
    for point, own in zip(points, assignments, strict=True):
        distance = objectives[1 - own] - plain_objective(clusters[1 - own] + point)
        remembered.append({
            own: (plain_objective(clusters[own] - point), 0),
            1 - own: (-(distance - objectives[1 - own]), 0),
        })  # fmt: skip
    for _ in range(num_iters):
        before = now
        for index, point in enumerate(points):
            own = assignments[index]
            for cluster, sign in ((own, -1), (1 - own, 1)):
                if remembered[index][cluster][1] < changed_at[cluster]:
                    value = plain_objective(clusters[cluster] + sign * point)
                    remembered[index][cluster] = (value, now)
            without, with_other = remembered[index][own][0], remembered[index][1 - own][0]
            gain = with_other + without - objectives[1 - own] - objectives[own]
            if gain > 0:
                gained += gain
                now += 1
                assignments[index] = 1 - own
                clusters[own] = clusters[own] - point
                clusters[1 - own] = clusters[1 - own] + point
                for cluster in (0, 1):
                    objectives[cluster] = plain_objective(clusters[cluster])
                    changed_at[cluster] = now
        if now == before:
            break
    return gained


def plain_two_means(points, rand, num_tries=10):
    """ClusterKMeans with two clusters."""
    best = None
    for _ in range(num_tries):
        count = len(points)
        skip = 1 + rand() % (count - 1)
        while math.gcd(skip, count) != 1:
            if skip == count - 1:
                skip = 0
            skip += 1
        assignments, clusters = [0] * count, [np.zeros(len(points[0])) for _ in range(2)]
        place = 0
        for number in range(count):
            assignments[place] = number % 2
            clusters[number % 2] = clusters[number % 2] + points[place]
            place = (place + skip) % count
        gained = plain_objective(clusters[0]) + plain_objective(clusters[1])
        gained -= plain_objective(clusters[0] + clusters[1])
        for _ in range(20):
            improvement = plain_refine(points, assignments, 100)
            gained += improvement
            if improvement == 0:
                break
        if best is None or gained > best[0]:
            best = gained, assignments
    return best


def plain_cluster_phones(points, sets, rand):
    """AutomaticallyObtainQuestions from the statistics of each set of phones."""
    leaves, inner, queue = [list(range(len(sets)))], [], []

    def consider(leaf):
        own = leaves[leaf]
        if len(own) > 1:
            gain, assignments = plain_two_means([points[i] for i in own], rand)
            if gain > 0:
                queue.append((gain, leaf, assignments))

    consider(0)
    while queue:
        chosen = max(queue, key=lambda entry: entry[0])
        queue.remove(chosen)
        _, leaf, assignments = chosen
        own = leaves[leaf]
        inner.append(own)
        yes, no = ([i for i, a in zip(own, assignments, strict=True) if a == c] for c in (0, 1))
        leaves[leaf] = yes
        leaves.append(no)
        consider(leaf)
        consider(len(leaves) - 1)
    found = {tuple(sorted(p for i in own for p in sets[i])) for own in [*inner[1:], *leaves]}
    return found | {tuple(sorted(phones)) for phones in sets}


def plain_bottom_up(points, thresh, least=0):
    """ClusterBottomUp, looking at all pairs again after each merge; clusters of indices."""
    clusters = {index: ([index], point) for index, point in enumerate(points)}
    while len(clusters) > least:
        pairs = []
        for j, i in combinations(sorted(clusters), 2):
            one, other = clusters[i][1], clusters[j][1]
            loss = plain_objective(one) + plain_objective(other) - plain_objective(one + other)
            pairs.append((max(loss, F(0)), i, j))
        if not pairs or min(pairs)[0] > thresh:
            break
        _, i, j = min(pairs)
        clusters[i] = (clusters[i][0] + clusters[j][0], clusters[i][1] + clusters[j][1])
        del clusters[j]
    return [sorted(members) for _, (members, _) in sorted(clusters.items())]


class PlainLeaf:
    """A leaf of a tree being split: which contexts it has, and its best question."""

    def __init__(self, number, contexts, sums, questions, num_iters_refine=0):
        self.number, self.contexts, self.sums = number, contexts, sums
        self.gain, self.key, self.members = F(0), None, ()
        for key, sets in questions:
            values = [context[1 + key] for context in contexts]
            if len(contexts) < 2 or min(values) < 0:
                continue
            gain, members = self._best(values, sets, num_iters_refine)
            if gain > self.gain:
                self.gain, self.key, self.members = gain, key, members

    def _best(self, values, sets, num_iters_refine):
        total = plain_objective(sum(self.sums))
        best, members = F(0), ()
        for question in sets:
            sides = [np.zeros_like(self.sums[0]), np.zeros_like(self.sums[0])]
            for value, row in zip(values, self.sums, strict=True):
                sides[value in question] = sides[value in question] + row
            if sides[0][0] and sides[1][0]:
                gain = plain_objective(sides[0]) + plain_objective(sides[1]) - total
                if gain > best:
                    best, members = gain, question
        if num_iters_refine:
            points = [np.zeros_like(self.sums[0]) for _ in range(max(values) + 1)]
            for value, row in zip(values, self.sums, strict=True):
                points[value] = points[value] + row
            assignments = [int(value in members) for value in range(len(points))]
            best += plain_refine(points, assignments, num_iters_refine)
            members = tuple(value for value, side in enumerate(assignments) if side)
        return best, members


def plain_split(stub_of, contexts, sums, questions, *, thresh, max_leaves, num_iters_refine=0):
    """SplitDecisionTree: the leaf of each context, and what the splits gained."""
    leaves = [
        PlainLeaf(
            stub,
            [c for c, s in zip(contexts, stub_of, strict=True) if s == stub],
            [row for row, s in zip(sums, stub_of, strict=True) if s == stub],
            questions,
            num_iters_refine,
        )
        for stub in sorted(set(stub_of))
    ]
    count, gains = max(stub_of) + 1, []
    while count < max_leaves:
        leaf = max(leaves, key=lambda leaf: leaf.gain)
        if not leaf.gain > thresh:
            break
        gains.append(leaf.gain)
        sides = [[], []]
        for context, row in zip(leaf.contexts, leaf.sums, strict=True):
            sides[context[1 + leaf.key] not in leaf.members].append((context, row))
        leaves.remove(leaf)
        for number, side in zip((leaf.number, count), sides, strict=True):
            leaves.append(
                PlainLeaf(number, *map(list, zip(*side, strict=True)), questions, num_iters_refine)
            )
        count += 1
    leaf_of = {context: leaf.number for leaf in leaves for context in leaf.contexts}
    return [leaf_of[context] for context in contexts], count, gains
