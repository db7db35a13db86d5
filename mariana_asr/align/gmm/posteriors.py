"""Posteriors of the Gaussians of the pdfs that frames are aligned to."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.gmm.gaussians import DiagGmms, Floats


def gaussian_posteriors(
    gmms: DiagGmms, feats: NDArray[np.floating], pdfs: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.intp], slice, Floats]]:
    """Yield, for each pdf that has frames, the posteriors of its Gaussians.

    The more frames in one call, the larger the matrix products and the faster.

    Args:
        gmms: The model.
        feats: Features, shape (N, D).
        pdfs: The pdf of each row of ``feats``, shape (N,).

    Yields:
        The rows of the pdf in ascending order, shape (n,); where its Gaussians lie among all; and
        their posteriors given the pdf, shape (n, its Gaussians), each row summing to 1.

    Raises:
        ValueError: The shapes do not fit one another or the model, or there is no such pdf.
    """
    if feats.ndim != 2 or feats.shape[1] != gmms.dim or pdfs.shape != feats.shape[:1]:
        raise ValueError(
            f"features {feats.shape} with pdfs {pdfs.shape} for a model of dim {gmms.dim}"
        )
    if not len(pdfs):
        return
    if pdfs.min() < 0 or pdfs.max() >= gmms.num_pdfs:
        raise ValueError(
            f"pdfs from {pdfs.min()} to {pdfs.max()} for a model of {gmms.num_pdfs} pdfs"
        )
    order = np.argsort(pdfs, kind="stable")
    expanded = feats[order].astype(np.float32)
    expanded = np.concatenate([expanded, np.square(expanded)], axis=1)
    projection, gconsts = gmms.projection, gmms.gconsts
    present, starts = np.unique(pdfs[order], return_index=True)
    ends = np.append(starts[1:], len(pdfs))
    for pdf, start, end in zip(present.tolist(), starts.tolist(), ends.tolist(), strict=True):
        own = slice(int(gmms.offsets[pdf]), int(gmms.offsets[pdf + 1]))
        scores = expanded[start:end] @ projection[:, own]
        scores += gconsts[own]
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        yield order[start:end], own, scores
