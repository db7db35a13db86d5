"""The first model of a tree: one Gaussian a pdf, from the statistics that the tree came from."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.model_io import GmmModel
from mariana_asr.align.formats.tree_io import ContextDependency
from mariana_asr.align.gmm.gaussians import DiagGmms
from mariana_asr.align.tree.clustering import VAR_FLOOR
from mariana_asr.align.tree.statistics import ABSENT, TreeStats
from mariana_asr.errors import DataError, FormatError, summarise
from mariana_asr.kaldi import kaldi_hmm_gmm

logger = logging.getLogger(__name__)

_FEW_FRAMES = 100


def initial_gmms(
    stats: TreeStats,
    tree: ContextDependency,
    topology: Any,
    *,
    var_floor: float = VAR_FLOOR,
) -> tuple[GmmModel, NDArray[np.float64]]:
    """Make a model with one Gaussian a pdf (Kaldi: gmm-init-model).

    A pdf without data takes the mean and variance of all frames.

    Args:
        stats: Statistics of the phones in context.
        tree: kaldi_hmm_gmm.ContextDependency.
        topology: kaldi_hmm_gmm.HmmTopology.
        var_floor: Least variance.

    Returns:
        The model, and the number of frames of each pdf, shape (P,).

    Raises:
        DataError: The statistics are empty.
        FormatError: The tree and the topology or the statistics do not fit each other.
    """
    if not len(stats):
        raise DataError("no statistics to make a model from")
    try:
        transition_model = kaldi_hmm_gmm.TransitionModel(tree, topology)
    except RuntimeError as error:
        raise FormatError(f"the tree and the topology do not fit each other: {error}") from error
    pdfs = pdfs_of_contexts(stats, tree)
    sums = np.zeros((tree.num_pdfs, stats.sums.shape[1]))
    np.add.at(sums, pdfs, stats.sums)
    occupancy = sums[:, 0].copy()
    if not occupancy.all():
        empty = [str(pdf) for pdf in np.flatnonzero(occupancy == 0)]
        logger.warning("no data for the pdfs %s: they begin as the mean of all", summarise(empty))
        sums[occupancy == 0] = stats.sums.sum(axis=0)
    if (few := int(((occupancy > 0) & (occupancy < _FEW_FRAMES)).sum())) > 0:
        logger.debug("%d pdfs have fewer than %d frames", few, _FEW_FRAMES)
    moments = sums[:, 1:] / sums[:, :1]
    means, squares = np.split(moments, 2, axis=1)
    variances = np.maximum(squares - np.square(means), var_floor)
    count = len(sums)
    gmm = DiagGmms.from_moments(np.ones(count), means, variances, np.arange(count + 1))
    return GmmModel(transition_model, gmm), occupancy


def pdfs_of_contexts(stats: TreeStats, tree: ContextDependency) -> NDArray[np.int64]:
    """The pdf that a tree gives each context, shape (C,).

    Raises:
        FormatError: The tree is for another window, or has no pdf for a context.
    """
    if (tree.context_width, tree.central_position) != (stats.context_width, stats.central_position):
        raise FormatError(
            f"a tree for windows of {tree.context_width} phones, statistics of windows of "
            f"{stats.context_width}"
        )
    pdfs = np.empty(len(stats), dtype=np.int64)
    contexts = np.where(stats.contexts == ABSENT, 0, stats.contexts).tolist()
    for number, (pdf_class, *phones) in enumerate(contexts):
        known, pdf = tree.compute(phones, pdf_class)
        if not known:
            raise FormatError(f"the tree has no pdf for state {pdf_class} of the phones {phones}")
        pdfs[number] = pdf
    return pdfs
