"""Building a phonetic decision tree from statistics."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mariana_asr.align.formats.tree_io import ContextDependency
from mariana_asr.align.tree.clustering import VAR_FLOOR, cluster_bottom_up, cluster_to_number
from mariana_asr.align.tree.event_map import EventNode
from mariana_asr.align.tree.questions import Questions
from mariana_asr.align.tree.splitting import SplitFinder, split_leaves
from mariana_asr.align.tree.statistics import PDF_CLASS, TreeStats
from mariana_asr.errors import DataError, FormatError, summarise
from mariana_asr.lang.langdir import Root
from mariana_asr.options import Options

logger = logging.getLogger(__name__)

_MULTIPLE = 8
"""What the number of leaves is rounded down to a multiple of."""


class TreeOptions(Options):
    """Options of the decision tree, with the names and defaults of Kaldi's programs."""

    num_leaves: int = Field(ge=1)
    """Most leaves that splitting may make."""
    thresh: float = Field(default=300.0, ge=0)
    """A split that gains no more log-likelihood than this is not made."""
    cluster_thresh: float = Field(default=-1.0)
    """Leaves are merged while that loses no more log-likelihood than this; 0 for never, a
    negative number for what the least split gained."""
    round_num_leaves: bool = True
    """Merge a few more leaves until their number is a multiple of 8."""
    context_width: int = Field(default=3, ge=1)
    """Phones in a context window."""
    central_position: int = Field(default=1, ge=0)
    """Where in the window the phone itself stands, from 0."""
    num_iters_refine: int = Field(default=0, ge=0)
    """Times around in which a question is fitted to the leaf it is asked at."""
    pdf_class_list: tuple[int, ...] = Field(default=(1,), min_length=1)
    """Pdf classes by which phones are clustered into questions."""
    var_floor: float = Field(default=VAR_FLOOR, gt=0)
    """Least variance in log-likelihoods of statistics."""

    @model_validator(mode="after")
    def _check_window(self) -> "TreeOptions":
        if self.central_position >= self.context_width:
            raise ValueError(
                f"central_position {self.central_position} lies outside of a window of "
                f"{self.context_width} phones"
            )
        return self


def build_tree(
    stats: TreeStats,
    roots: Sequence[Root],
    questions: Sequence[Sequence[int]],
    topology: Any,
    options: TreeOptions,
) -> ContextDependency:
    """Build a decision tree (Kaldi: compile-questions, build-tree).

    From the roots, the leaf whose best question gains most log-likelihood is split, again and
    again; then leaves under one root that are alike are merged.

    Args:
        stats: Statistics of the phones in context.
        roots: Roots of the tree (``roots.int``).
        questions: Sets of phones to ask about, at every position of the window.
        topology: kaldi_hmm_gmm.HmmTopology.
        options: Its window is that of the statistics.

    Returns:
        kaldi_hmm_gmm.ContextDependency.

    Raises:
        FormatError: A question or a root has an unknown phone, a phone is under two roots, or one
            of the topology is under none.
        DataError: The statistics are empty.
    """
    if (options.context_width, options.central_position) != (
        stats.context_width,
        stats.central_position,
    ):
        raise ValueError("the statistics have another window than the options")
    if not len(stats):
        raise DataError("no statistics to build a decision tree from")
    compiled = Questions.compile(questions, topology, stats.context_width)
    _check_roots(roots, stats, topology)
    root = build_event_map(stats, roots, compiled, topology, options)
    return root.to_context_dependency(options.context_width, options.central_position)


def build_event_map(
    stats: TreeStats,
    roots: Sequence[Root],
    questions: Questions,
    topology: Any,
    options: TreeOptions,
) -> EventNode:
    """Build the nodes of a tree from checked roots and questions (Kaldi: BuildTree)."""
    root, num_stubs = stub_map(roots, topology, options.central_position)
    stub_of_row = root.map(stats.contexts)
    splittable = np.isin(
        stats.phones, [phone for line in roots if line.split for phone in line.phones]
    )
    finder = SplitFinder(
        stats,
        questions,
        num_iters_refine=options.num_iters_refine,
        var_floor=options.var_floor,
    )
    splits = split_leaves(
        root,
        stub_of_row,
        finder,
        splittable=splittable,
        num_leaves=num_stubs,
        max_leaves=options.num_leaves,
        thresh=options.thresh,
    )
    logger.info(
        "decision tree: %d leaves under %d roots, log-likelihood gained %.3f a frame",
        splits.num_leaves,
        num_stubs,
        splits.gain / stats.frames,
    )
    thresh = splits.smallest if options.cluster_thresh < 0 else options.cluster_thresh
    leaf_of_row = splits.leaf_of_row
    numbers = np.arange(splits.num_leaves)
    if 0 < thresh < np.inf:
        numbers = _cluster(stats, stub_of_row, leaf_of_row, numbers, thresh, options.var_floor)
    if options.round_num_leaves:
        numbers = _round(stats, stub_of_row, leaf_of_row, numbers, options.var_floor)
    _, contiguous = np.unique(numbers, return_inverse=True)
    root.renumber(contiguous)
    logger.info("decision tree: %d leaves after clustering", contiguous.max() + 1)
    return root


def stub_map(roots: Sequence[Root], topology: Any, central: int) -> tuple[EventNode, int]:
    """The tree before any split, and its number of leaves (Kaldi: GetStubMap)."""
    count = 0

    def leaf() -> EventNode:
        nonlocal count
        count += 1
        return EventNode(count - 1)

    def one(root: Root) -> EventNode:
        if root.shared:
            return leaf()
        states = max(topology.num_pdf_classes(phone) for phone in root.phones)
        return EventNode(key=PDF_CLASS, children=[leaf() for _ in range(states)])

    def several(roots: Sequence[Root]) -> EventNode:
        if len(roots) == 1:
            return one(roots[0])
        highest = max(max(root.phones) for root in roots)
        if all(len(root.phones) == 1 for root in roots) and len(roots) <= 2 * highest:
            table: list[EventNode | None] = [None] * (highest + 1)
            for root in roots:
                table[root.phones[0]] = one(root)
            return EventNode(key=central, children=table)
        half = len(roots) // 2
        members = tuple(sorted(phone for root in roots[:half] for phone in root.phones))
        yes = several(roots[:half])
        return EventNode.question(central, members, yes, several(roots[half:]))

    return several(roots), count


def _check_roots(roots: Sequence[Root], stats: TreeStats, topology: Any) -> None:
    phones = [phone for root in roots for phone in root.phones]
    known = {int(phone) for phone in topology.phones}
    twice = {phone for phone in phones if phones.count(phone) > 1}
    problems = [
        (twice, "are under two roots"),
        (set(phones) - known, "have a root but no topology"),
        (known - set(phones), "have a topology but no root"),
        (set(stats.phones.tolist()) - set(phones), "were seen but have no root"),
    ]
    for wrong, what in problems:
        if wrong:
            names = summarise([str(phone) for phone in sorted(wrong)])
            raise FormatError(f"the phones {names} {what}", where="phones/roots.int")
    if not all(root.phones for root in roots):
        raise FormatError("a root without phones", where="phones/roots.int")
    # That a phone is never seen in some position of a word is usual; others share its root.
    seen = set(stats.phones.tolist())
    if unseen := [str(p) for root in roots if not seen & set(root.phones) for p in root.phones]:
        logger.warning("no statistics for the phones %s", summarise(unseen))


def _leaves_of_stubs(
    stats: TreeStats, stub_of_row: NDArray[np.int64], leaf_of_row: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each root with data its leaves, in rising order, and their statistics."""
    groups = []
    order = np.lexsort([leaf_of_row, stub_of_row])
    stubs, starts = np.unique(stub_of_row[order], return_index=True)
    for rows in np.split(order, starts[1:]) if len(stubs) else []:
        leaves, begins = np.unique(leaf_of_row[rows], return_index=True)
        groups.append((leaves, np.add.reduceat(stats.sums[rows], begins)))
    return groups


def _cluster(
    stats: TreeStats,
    stub_of_row: NDArray[np.int64],
    leaf_of_row: NDArray[np.int64],
    numbers: NDArray[np.int64],
    thresh: float,
    var_floor: float,
) -> NDArray[np.int64]:
    """New numbers for leaves, merged under each root (Kaldi: ClusterEventMapRestrictedByMap)."""
    numbers = numbers.copy()
    for leaves, sums in _leaves_of_stubs(stats, stub_of_row, numbers[leaf_of_row]):
        numbers[leaves] = leaves[cluster_bottom_up(sums, thresh, var_floor)]
    return numbers


def _round(
    stats: TreeStats,
    stub_of_row: NDArray[np.int64],
    leaf_of_row: NDArray[np.int64],
    numbers: NDArray[np.int64],
    var_floor: float,
) -> NDArray[np.int64]:
    """New numbers for leaves, so many of them that they are a multiple of 8.

    Kaldi: ClusterEventMapToNClustersRestrictedByMap.
    """
    wanted = len(np.unique(numbers)) // _MULTIPLE * _MULTIPLE
    groups = _leaves_of_stubs(stats, stub_of_row, numbers[leaf_of_row])
    stubs = int(stub_of_row.max()) + 1
    if wanted < stubs:
        logger.info("too few leaves to round their number to a multiple of %d", _MULTIPLE)
        return numbers
    # Leaves without data are never merged.
    with_data = wanted - (stubs - len(groups))
    merged = cluster_to_number([sums for _, sums in groups], with_data, var_floor)
    renumbered = np.arange(len(numbers))
    for (leaves, _), assignments in zip(groups, merged, strict=True):
        renumbered[leaves] = leaves[assignments]
    return renumbered[numbers]
