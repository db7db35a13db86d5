"""Batch normalisation over the whole minibatch, whose rows are spread over the workers.

torch.nn.SyncBatchNorm is for CUDA only.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mariana_asr.engine.launch.workers import Workers


def synchronise_batch_norm(network: nn.Module, workers: Workers) -> None:
    """Make the batch norm of a network's layers take its statistics over all workers' rows.

    Every ``nn.BatchNorm1d`` below ``network`` is replaced by a
    :class:`SynchronisedBatchNorm` with the same parameters and buffers (the tensors themselves,
    so that what holds them already still trains them) and the same names in the state. With one
    worker nothing is changed.

    From then on all workers have to call the network together in training, those without frames
    as well. Gradients of scale and shift are those of a worker's own rows, as other parameters'
    are: the exchange sums them.
    """
    if workers.size == 1:
        return
    for name, child in list(network.named_children()):
        if type(child) is nn.BatchNorm1d:
            setattr(network, name, SynchronisedBatchNorm(child, workers))
        else:
            synchronise_batch_norm(child, workers)


class SynchronisedBatchNorm(nn.BatchNorm1d):
    """Batch norm of (B, features) whose statistics in training are those of all workers' rows."""

    def __init__(self, source: nn.BatchNorm1d, workers: Workers) -> None:
        """Take over parameters, buffers and mode of a batch norm."""
        super().__init__(
            source.num_features,
            source.eps,
            source.momentum,
            affine=False,
            track_running_stats=False,
        )
        self.affine, self.track_running_stats = source.affine, source.track_running_stats
        self._parameters.update(source._parameters)
        self._buffers.update(source._buffers)
        self.train(source.training)
        self._workers = workers

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, features) to (B, features); B may differ between workers, and be 0."""
        if not self.training and self.running_mean is not None:
            return super().forward(inputs)
        self._check_input_dim(inputs)
        outputs, mean, variance, count = _Normalise.apply(
            inputs, self.weight, self.bias, self.eps, self._workers
        )
        if self.training and self.track_running_stats:
            self._follow(mean, variance, count)
        return outputs

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update running statistics by one minibatch's, as ``nn.BatchNorm1d`` does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share: Tensor | float = self.momentum or 0.0
        if self.momentum is None:
            share = 1.0 / self.num_batches_tracked.double()
        # A single row has no unbiased variance; torch refuses it, but asking would wait for a GPU.
        unbiased = variance * (count / (count - 1.0).clamp(min=1.0))
        self.running_mean += share * (mean.to(self.running_mean.dtype) - self.running_mean)
        self.running_var += share * (unbiased.to(self.running_var.dtype) - self.running_var)


class _Normalise(torch.autograd.Function):
    """Normalisation by statistics of all workers' rows: one exchange forward, one backward.

    What is exchanged are a few sums a feature. They are summed in float64, in which the square of
    a mean may be taken from a mean square: the mean may be a thousand times the deviation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        workers: Workers,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give outputs (B, features), and mean and variance (features,) and count in float64."""
        precise = _precise(inputs)
        features = inputs.shape[1]
        sums = precise.new_zeros(2 * features + 1, dtype=torch.float64)
        # About the worker's own mean first, so that float32 is precise enough. On a CPU
        # torch.var_mean takes twenty times as long as this, and new memory as long as arithmetic.
        own_mean = precise.mean(dim=0) if len(inputs) > 0 else precise.sum(dim=0)
        outputs = precise - own_mean
        sums[:features] = own_mean.double() * len(inputs)
        sums[features:-1] = outputs.square().sum(dim=0) + own_mean * sums[:features]
        sums[-1] = len(inputs)
        workers.sum(sums)
        count = sums[-1]
        mean = sums[:features] / count
        variance = (sums[features:-1] / count - mean.square()).clamp(min=0.0)
        scale = (variance + eps).rsqrt()
        if weight is not None:
            scale = scale * weight
        shift = (own_mean - mean) * scale
        if bias is not None:
            shift = shift + bias
        outputs = outputs.mul_(scale.to(precise.dtype)).add_(shift.to(precise.dtype))
        ctx.save_for_backward(inputs, weight, mean, variance, count)
        ctx.eps, ctx.workers = eps, workers
        ctx.mark_non_differentiable(mean, variance, count)
        return outputs.to(inputs.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Give gradients of inputs, and of weight and bias by the worker's own rows."""
        inputs, weight, mean, variance, count = ctx.saved_tensors
        gradient = _precise(gradients[0])
        deviations = _precise(inputs) - mean.to(gradient.dtype)
        products = gradient * deviations
        inverse = (variance + ctx.eps).rsqrt()
        own = torch.stack((gradient.sum(dim=0), products.sum(dim=0) * inverse))
        sums = own.clone()
        ctx.workers.sum(sums)
        scale = inverse if weight is None else inverse * weight
        shares = sums / count * scale
        # scale * (gradient - mean gradient - normalised input * mean of their product)
        deviations.mul_((shares[1] * inverse).to(gradient.dtype))
        deviations.add_(shares[0].to(gradient.dtype))
        result = torch.mul(gradient, scale.to(gradient.dtype)).sub_(deviations)
        if weight is None:
            return result.to(inputs.dtype), None, None, None, None
        own = own.to(weight.dtype)
        return result.to(inputs.dtype), own[1], own[0], None, None


def _precise(values: Tensor) -> Tensor:
    """The values, in float32 if they have less."""
    return values if values.dtype == torch.float64 else values.float()
