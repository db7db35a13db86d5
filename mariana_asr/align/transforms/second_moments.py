"""Sums of outer products of vectors, for many sets of weights at once."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Vectors whose products are formed at a time: few enough to stay in the processor's cache."""


def weighted_second_moments(
    weights: NDArray[np.floating], vectors: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Sum ``weights[t, a] * outer(vectors[t], vectors[t])`` over t, for every a.

    Only one triangle of the products is formed, in double precision, and the sums for all a are
    one matrix product.

    Args:
        weights: Shape (T, A).
        vectors: Shape (T, D).

    Returns:
        Upper triangles row by row, shape (A, D (D + 1) / 2); ``unpack_symmetric`` makes matrices
        of them.
    """
    total, dim = vectors.shape
    size = packed_size(dim)
    ends = np.cumsum(np.arange(dim, 0, -1)).tolist()
    sums = np.zeros((weights.shape[1], size))
    products = np.empty((size, min(BLOCK, total)))
    for first in range(0, total, BLOCK):
        block = np.ascontiguousarray(vectors[first : first + BLOCK].T, dtype=np.float64)
        scale = weights[first : first + BLOCK].astype(np.float64)
        outer = products[:, : block.shape[1]]
        for row, end in enumerate(ends):
            np.multiply(block[row], block[row:], out=outer[end - (dim - row) : end])
        sums += scale.T @ outer.T
    return sums


def packed_size(dim: int) -> int:
    """Number of values in the upper triangle of a matrix of so many rows."""
    return dim * (dim + 1) // 2


def unpack_symmetric(packed: NDArray[np.float64], dim: int) -> NDArray[np.float64]:
    """Make whole matrices of upper triangles; (..., dim (dim + 1) / 2) to (..., dim, dim)."""
    places = np.zeros((dim, dim), dtype=np.intp)
    rows, columns = np.triu_indices(dim)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    return packed[..., places]
