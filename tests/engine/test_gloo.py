import os

import pytest
import torch
from gloo import run_workers


def add(workers, tensor):
    return workers.sum(tensor + workers.rank), workers.per_host


def fail(workers):
    if workers.rank == 1:
        raise ValueError("out of order")
    return workers.sum(torch.zeros(1))


def leave(workers):
    if workers.rank == 1:
        os._exit(3)


def test_results_come_in_the_order_of_the_workers():
    for total, per_host in run_workers(add, 2, torch.ones(3), per_host=1):
        assert torch.equal(total, torch.full((3,), 3.0))
        assert per_host == 1


def test_failures_are_told():
    with pytest.raises(AssertionError, match="ValueError: out of order"):
        run_workers(fail, 2)
    with pytest.raises(AssertionError, match="worker 1 died"):
        run_workers(leave, 2)
