"""Sum all gradients, in 32 bits or in 16 on the way."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from mariana_asr.engine.exchange.ddp import BUCKET_MEGABYTES, DdpExchange
from mariana_asr.engine.launch.workers import Workers

WIRE_TYPES = {"allreduce": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Type of the gradients on their way, by the exchange's type in the recipe."""


class AllReduce(DdpExchange):
    """Sum the gradients of all workers in every step.

    In 16 bits, what is added up are each worker's gradients divided by the number of workers, as
    in torch's own hooks, so that the sum overflows only where a worker's own gradient would.
    """

    def __init__(
        self,
        objective: nn.Module,
        workers: Workers,
        wire_type: torch.dtype = torch.float32,
        *,
        exact_squares: bool = False,
        bucket_megabytes: float = BUCKET_MEGABYTES,
    ) -> None:
        """As of make_exchange; ``wire_type`` is that of the gradients on their way."""
        self._wire_type = wire_type
        super().__init__(
            objective, workers, exact_squares=exact_squares, bucket_megabytes=bucket_megabytes
        )

    def _sum_bucket(self, bucket: dist.GradBucket) -> Future[Tensor]:
        gradients = bucket.buffer()
        if self._wire_type == gradients.dtype:
            self.meter.count_all_reduce("gradient", gradients.nbytes)
            return self._all_reduce(gradients)
        size = self._workers.size
        sent = (gradients / size).to(self._wire_type)
        self.meter.count_all_reduce("gradient", sent.nbytes)

        def unpack(summed: Future[Tensor]) -> Tensor:
            return gradients.copy_(summed.value()).mul_(size)

        return self._all_reduce(sent).then(unpack)
