"""Statistics of the E step, frame by frame in double precision."""

import numpy as np
from small_gmms import log_densities

from mariana_asr.align.gmm.gaussians import DiagGmms


def plain_statistics(
    gmms: DiagGmms, feats: np.ndarray, pdfs: np.ndarray, summed: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Sums of [1, x, x squared] weighted by posteriors, (G, 1 + 2 D), and the log-likelihood."""
    sums = np.zeros((gmms.num_gaussians, 1 + 2 * gmms.dim))
    log_like = 0.0
    added = feats if summed is None else summed
    for x, y, pdf in zip(
        feats.astype(np.float64), added.astype(np.float64), pdfs.tolist(), strict=True
    ):
        logs = log_densities(gmms, x, pdf)
        total = np.logaddexp.reduce(logs)
        own = slice(gmms.offsets[pdf], gmms.offsets[pdf + 1])
        sums[own] += np.outer(np.exp(logs - total), np.concatenate([[1.0], y, np.square(y)]))
        log_like += total
    return sums, log_like
