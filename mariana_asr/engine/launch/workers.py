"""What a worker knows of the group that it trains in."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Workers:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: Number of this worker, from 0.
        size: How many there are.
        device: Where this one computes.
        per_host: How many were started on each host.
    """

    rank: int
    size: int
    device: torch.device
    per_host: int

    @classmethod
    def alone(cls, device: torch.device) -> "Workers":
        """One worker, without any process group."""
        return cls(0, 1, device, 1)

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over all workers, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait until all workers are here."""
        if self.size > 1:
            # Not dist.barrier(), which on NCCL has to be told the device.
            self.sum(torch.zeros((), device=self.device))

    def part_of(self, frames: int) -> slice:
        """This worker's rows of a minibatch of all workers: equal parts, to one frame."""
        return slice(frames * self.rank // self.size, frames * (self.rank + 1) // self.size)

    def gather(self, items: list[ItemT]) -> list[ItemT]:
        """The items of all workers, in order of rank."""
        if self.size == 1:
            return items
        lists: list[list[ItemT]] = [[] for _ in range(self.size)]
        dist.all_gather_object(lists, items)
        return [item for part in lists for item in part]
