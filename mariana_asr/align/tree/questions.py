"""Questions about phones in context: clustered from data, read from files, asked of contexts."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.tree.clustering import VAR_FLOOR
from mariana_asr.align.tree.kmeans import ClusterNode, cluster_top_down
from mariana_asr.align.tree.statistics import PDF_CLASS, TreeStats
from mariana_asr.errors import FormatError, summarise
from mariana_asr.lang.langdir import read_rows

logger = logging.getLogger(__name__)


def cluster_phones(
    stats: TreeStats,
    phone_sets: Sequence[Sequence[int]],
    *,
    pdf_class_list: Sequence[int] = (1,),
    var_floor: float = VAR_FLOOR,
) -> list[list[int]]:
    """Find questions by clustering phones top down (Kaldi: cluster-phones).

    Args:
        stats: Statistics of the phones in context.
        phone_sets: Phones that are never parted (``sets.int``).
        pdf_class_list: Pdf classes whose frames count; 1 is the middle state of three.
        var_floor: Least variance in likelihoods.

    Returns:
        Sets of phones, each in rising order: every cluster but the one of all phones, and every
        set given. With the same statistics, those that Kaldi finds.

    Raises:
        FormatError: A set is empty or a phone is in two of them.
    """
    sets = [sorted(phones) for phones in phone_sets]
    everything = [phone for phones in sets for phone in phones]
    if not everything or not all(sets) or len(set(everything)) < len(everything):
        raise FormatError(
            "an empty set of phones, or a phone that is in two sets", where="phones/sets.int"
        )
    kept = np.isin(stats.pdf_classes, list(pdf_class_list))
    if kept.sum() * 10 < len(stats):
        logger.warning(
            "only %d of %d contexts have a pdf class in %s, by which phones are clustered into "
            "questions",
            kept.sum(),
            len(stats),
            list(pdf_class_list),
        )
    points = np.stack(
        [stats.sums[kept & np.isin(stats.phones, phones)].sum(axis=0) for phones in sets]
    )
    if silent := [phones for phones, count in zip(sets, points[:, 0], strict=True) if not count]:
        logger.warning("no statistics for the phones %s", summarise([str(p) for p in silent]))
    leaves, split = cluster_top_down(points, num_tries=_NUM_TRIES, var_floor=var_floor)

    def phones_of(node: ClusterNode) -> list[int]:
        return sorted(phone for point in node.points for phone in sets[point])

    clusters = [phones_of(node) for node in [*split[1:], *reversed(leaves)]] if split else []
    distinct = dict.fromkeys(tuple(phones) for phones in [*clusters, *sets])
    return [list(phones) for phones in distinct]


_NUM_TRIES = 10
"""Tries of each split (Kaldi: AutomaticallyObtainQuestions)."""


def read_questions(path: str | Path) -> list[list[int]]:
    """Read sets of phone ids, one a line, as in ``extra_questions.int``.

    Raises:
        FormatError: The file is missing, or something in it is no phone id.
    """
    questions = []
    for row in read_rows(Path(path)):
        if bad := [word for word in row if not word.isdecimal() or int(word) == 0]:
            raise FormatError(f"{bad[0]!r} is no phone id", where=path)
        questions.append([int(word) for word in row])
    return questions


@dataclass(frozen=True)
class Questions:
    """All questions that may be asked at a node of a tree, in Kaldi's order.

    Attributes:
        keys: What each question asks about: `PDF_CLASS` or a position of the window, shape (Q,).
        members: The values for which the answer is yes, in rising order; Q of them.
    """

    keys: NDArray[np.int64]
    members: list[tuple[int, ...]]

    @classmethod
    def compile(
        cls, phone_questions: Iterable[Sequence[int]], topology: Any, width: int
    ) -> "Questions":
        """Ask the phone questions at every position, and which of its states a phone is in.

        Args:
            phone_questions: Sets of phones.
            topology: kaldi_hmm_gmm.HmmTopology, which knows the phones and their pdf classes.
            width: Number of phones in a window.

        Raises:
            FormatError: A question asks about a phone twice, or about one without a topology.
        """
        sets = sorted({tuple(sorted(phones)) for phones in phone_questions})
        phones = {int(phone) for phone in topology.phones}
        for question in sets:
            if len(set(question)) < len(question):
                raise FormatError(f"the question {list(question)} has a phone twice")
            if unknown := sorted(set(question) - phones):
                raise FormatError(
                    f"the question {list(question)} asks about the phone {unknown[0]}, which has "
                    "no topology",
                    remedy="Make questions with the phone ids of this lang directory",
                )
        pdf_classes = max(topology.num_pdf_classes(phone) for phone in phones)
        thresholds = [tuple(range(end)) for end in range(1, pdf_classes)]
        keys = [PDF_CLASS] * len(thresholds)
        for position in range(width):
            keys += [position] * len(sets)
        return cls(np.array(keys, dtype=np.int64), [*thresholds, *sets * width])

    def answers(self, contexts: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Ask every question of contexts, (C, 1 + N) to (C, Q) of 0 and 1."""
        answers = np.zeros((len(contexts), len(self.keys)), dtype=np.uint8)
        for key in np.unique(self.keys):
            columns = np.flatnonzero(self.keys == key)
            values = contexts[:, 1 + key]
            table = np.zeros((int(values.max(initial=0)) + 2, len(columns)), dtype=np.uint8)
            for place, column in enumerate(columns.tolist()):
                inside = [value for value in self.members[column] if value < len(table) - 1]
                table[inside, place] = 1
            # The last row answers for what may not be asked about, -1.
            answers[:, columns] = table[values]
        return answers
