"""The semi-orthogonal constraint of factored layers."""

import torch
from torch import Tensor

UPDATE_SPEED = 0.125
"""With it the constraint converges quadratically near its goal."""

SMALLEST_TRACE = 1e-15
"""A matrix with a smaller squared norm is all but zero, and left alone."""


@torch.no_grad()
def move_towards_orthonormal(matrix: Tensor) -> None:
    """Move a matrix, in place, towards one with orthogonal rows that are all of equal length.

    The step of Povey et al., "Semi-orthogonal low-rank matrix factorization for deep neural
    networks" (2018), with the floating scale of section 2.3: the rows' common length is the one
    with which the step is orthogonal to the matrix itself. Far from its goal the step is shorter,
    as in Kaldi's ConstrainOrthonormalInternal (nnet3/nnet-utils.cc, orthonormal-constraint=-1).
    If there are more rows than columns, the columns are made orthogonal.

    Args:
        matrix: (rows, columns) of a floating type.
    """
    if len(matrix) > matrix.shape[1]:
        matrix = matrix.T
    products = matrix @ matrix.T
    trace, trace_of_square = products.trace(), products.square().sum()
    squared_scale = trace_of_square / trace
    # At least 1, and 1 where all singular values are equal. All stays on the device.
    ratio = trace_of_square * len(matrix) / trace.square()
    speed = UPDATE_SPEED * torch.where(ratio > 1.02, 0.5, 1.0) * torch.where(ratio > 1.1, 0.5, 1.0)
    products.diagonal().sub_(squared_scale)
    change = (products @ matrix) * (-4.0 * speed / squared_scale)
    matrix.add_(torch.where(trace < SMALLEST_TRACE, 0.0, change))
