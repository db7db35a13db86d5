"""Non-linearities that make one unit of a group of them."""

import torch
from torch import Tensor, nn


class Maxout(nn.Module):
    """The largest of each group (Goodfellow et al. 2013, "Maxout networks")."""

    def __init__(self, group_size: int) -> None:
        """Groups are of neighbouring units."""
        super().__init__()
        self.group_size = group_size

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., units * group_size) to (..., units)."""
        return inputs.unflatten(-1, (-1, self.group_size)).amax(dim=-1)

    def extra_repr(self) -> str:
        """What printing the network shows."""
        return f"group_size={self.group_size}"


class PNorm(nn.Module):
    """The Euclidean norm of each group: p-norm units with p = 2.

    Zhang, Trmal, Povey and Khudanpur (2014), "Improving deep neural network acoustic models using
    generalized maxout networks"; Kaldi's PnormComponent.
    """

    def __init__(self, group_size: int) -> None:
        """Groups are of neighbouring units."""
        super().__init__()
        self.group_size = group_size

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., units * group_size) to (..., units)."""
        # Its gradient at a group of zeros is zero, where that of the root of a sum is NaN.
        return torch.linalg.vector_norm(inputs.unflatten(-1, (-1, self.group_size)), dim=-1)

    def extra_repr(self) -> str:
        """What printing the network shows."""
        return f"group_size={self.group_size}"
