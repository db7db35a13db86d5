"""Making a trained network smaller by factoring its matrices.

Xue, Li and Gong (2013), "Restructuring of deep neural network acoustic models with singular value
decomposition".
"""

import torch
from torch import Tensor, nn

from mariana_asr.errors import RecipeError
from mariana_asr.nnet.dnn import Dnn, FactoredLinear


def factor_dnn(network: Dnn, *, rank: int | None = None, energy: float | None = None) -> Dnn:
    """Give the hidden layers of a trained network bottlenecks by singular value decomposition.

    Each hidden layer's matrix becomes the product of two that comes closest to it for so many
    inner units; the output layer stays as it is. With full rank nothing but rounding changes. A
    layer of I inputs and O units gets smaller if its rank is below I O / (I + O). What is lost is
    mostly won back by training the result on with a small learning rate.

    Args:
        network: It is left alone; layers that have bottlenecks already are factored anew.
        rank: Inner units of each layer, at most.
        energy: Instead, the share of the sum of squared singular values that each layer keeps, as
            few inner units as that takes.

    Returns:
        A network with ``options.bottleneck`` set to the ranks, in the mode of the given one and on
        its device.

    Raises:
        RecipeError: Not one of ``rank`` and ``energy`` is given, or it is out of range.
    """
    if (rank is None) == (energy is None):
        raise RecipeError("give either a rank or a share of the energy")
    if rank is not None and rank < 1:
        raise RecipeError(f"the rank is {rank}, but has to be 1 or more")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise RecipeError(f"the share of the energy is {energy}, but has to be in (0, 1]")
    state = network.state_dict()
    names = {module: name for name, module in network.named_modules()}
    ranks = []
    for layer in network.hidden_maps():
        left, values, right = torch.linalg.svd(_matrix(layer), full_matrices=False)
        kept = _rank(values, rank, energy)
        ranks.append(kept)
        roots = values[:kept].sqrt()
        outer, inner = left[:, :kept] * roots, roots[:, None] * right[:kept]
        name, bias = names[layer], _outer(layer).bias
        dtype = _outer(layer).weight.dtype
        state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
        state[f"{name}.inner.weight"] = inner.to(dtype)
        state[f"{name}.outer.weight"] = outer.to(dtype)
        if bias is not None:
            state[f"{name}.outer.bias"] = bias.detach()
    options = network.options.model_copy(update={"bottleneck": tuple(ranks)})
    factored = Dnn(options, network.frame_dim, network.num_outputs)
    factored.to(network.output.weight).load_state_dict(state)
    return factored.train(network.training)


@torch.no_grad()
def _matrix(layer: nn.Linear | FactoredLinear) -> Tensor:
    """The matrix (outputs, inputs) of a layer, in double precision."""
    outer = _outer(layer).weight.double()
    return outer @ layer.inner.weight.double() if isinstance(layer, FactoredLinear) else outer


def _outer(layer: nn.Linear | FactoredLinear) -> nn.Linear:
    """What gives the layer's outputs."""
    return layer.outer if isinstance(layer, FactoredLinear) else layer


def _rank(values: Tensor, rank: int | None, energy: float | None) -> int:
    """How many of the singular values, largest first, are kept."""
    if rank is not None:
        return min(rank, len(values))
    assert energy is not None, "one of them is given"
    squares = values.square().cumsum(dim=0)
    needed = int((squares < energy * squares[-1]).sum()) + 1
    return min(needed, len(values))
