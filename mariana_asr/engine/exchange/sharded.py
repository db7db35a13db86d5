"""Each worker owns some rows of every parameter, and what the optimiser keeps of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.futures import Future

from mariana_asr.engine.exchange.collectives import all_gather, reduce_scatter
from mariana_asr.engine.exchange.ddp import BUCKET_MEGABYTES
from mariana_asr.engine.exchange.exchange import Exchange
from mariana_asr.engine.exchange.meter import Kind
from mariana_asr.engine.launch.workers import Workers


class _Part:
    """Where a parameter is in a bucket, and which of its rows are whose.

    Each worker in turn owns ``rows_each`` rows; the last ones may own fewer or none. In a bucket's
    matrix, whose rows are the workers, the parameter has the columns from ``offset`` on.
    """

    def __init__(self, name: str, parameter: Tensor, size: int, offset: int) -> None:
        self.name, self.parameter, self.offset = name, parameter, offset
        self.rows = parameter.shape[0] if parameter.ndim else 1
        self.row_shape = parameter.shape[1:]
        self.row_numel = math.prod(self.row_shape)
        self.rows_each = -(-self.rows // size)
        self.end = offset + self.rows_each * self.row_numel

    def owned_by(self, rank: int) -> slice:
        """Rows of a worker."""
        return _rows_of(self.rows, rank, self.rows_each)

    def view_of(self, flat: Tensor, rank: int) -> Tensor:
        """What is a worker's of the parameter in a bucket's row of that worker."""
        owned = self.owned_by(rank)
        count = owned.stop - owned.start
        view = flat[self.offset : self.offset + count * self.row_numel]
        return view.view(count, *self.row_shape)

    def pairs(self, tensor: Tensor, matrix: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Matching parts of a tensor of the parameter's shape and of the bucket's matrix."""
        rows = tensor.reshape(self.rows, self.row_numel)
        full = self.rows // self.rows_each
        whole = rows[: full * self.rows_each].view(full, self.rows_each * self.row_numel)
        yield whole, matrix[:full, self.offset : self.end]
        rest = rows[full * self.rows_each :].reshape(-1)
        if len(rest):
            yield rest, matrix[full, self.offset : self.offset + len(rest)]


class _Bucket:
    """Some parameters whose gradients travel together.

    Attributes:
        gradients: A row for each worker, with what it owns; what is beyond the last row of a
            parameter stays zero.
        shard: This worker's row of the parameters.
        missing: Parameters that have no gradient yet in this step.
        summed: What comes of the reduce-scatters, by kind, once they are launched.
    """

    def __init__(self, parts: Sequence[_Part], size: int) -> None:
        self.parts = parts
        like = parts[0].parameter
        self.gradients = like.new_zeros(size, parts[-1].end, requires_grad=False)
        self.shard = like.new_zeros(parts[-1].end, requires_grad=False)
        self.missing = {part.name for part in parts}
        self.summed: dict[Kind, Future[Tensor]] = {}


class Sharded(Exchange):
    """Gradients are reduce-scattered, owners update their rows, parameters are gathered.

    This is stage 2 of ZeRO (Rajbhandari et al. 2020): beside the parameters a worker keeps its
    share of the gradients and of the optimiser's state. It sends as much as an all-reduce does.
    """

    optimiser_state = "sharded"

    def __init__(self, objective: nn.Module, workers: Workers, *, exact_squares: bool) -> None:
        """As of make_exchange."""
        super().__init__(objective, workers)
        self._begin_equal()
        self._exact = exact_squares
        self._last_piece = True
        self._buckets = _fill_buckets(self.parameters, workers.size)
        self._launched = 0
        self._hooks = [
            part.parameter.register_post_accumulate_grad_hook(partial(self._take, bucket, part))
            for bucket in self._buckets
            for part in bucket.parts
        ]
        names = list(self.parameters)
        owned = {
            part.name: part.view_of(bucket.shard, workers.rank).detach().requires_grad_()
            for bucket in self._buckets
            for part in bucket.parts
        }
        self.parameters = {name: owned[name] for name in names}
        self.sum_over_owners = workers.sum
        self.reset()

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """As of :class:`Exchange`."""
        self._last_piece = last
        return nullcontext()

    def _take(self, bucket: _Bucket, part: _Part, parameter: Tensor) -> None:
        """Called by autograd when a parameter has its gradient."""
        if self._last_piece:
            self._put_into_bucket(bucket, part)
            self._launch_full_buckets()

    def _put_into_bucket(self, bucket: _Bucket, part: _Part) -> None:
        gradient = part.parameter.grad
        with torch.no_grad():
            if gradient is None:
                bucket.gradients[:, part.offset : part.end] = 0.0
            else:
                for rows, place in part.pairs(gradient, bucket.gradients):
                    place.copy_(rows)
        part.parameter.grad = None
        bucket.missing.discard(part.name)

    def _launch_full_buckets(self) -> None:
        """In the order of the buckets, so that all workers launch the same ones together."""
        while self._launched < len(self._buckets) and not self._buckets[self._launched].missing:
            bucket = self._buckets[self._launched]
            self._launched += 1
            if self._exact:
                self._launch(bucket, "adaptive", bucket.gradients.square())
            self._launch(bucket, "gradient", bucket.gradients)

    def _launch(self, bucket: _Bucket, kind: Kind, values: Tensor) -> None:
        self.meter.count_scatter_or_gather(kind, values.nbytes)
        ended = self.meter.launch(hidden=True)
        bucket.summed[kind] = reduce_scatter(values.view(-1)).then(_ending(ended))

    def finish_backward(self, local_frames: int, global_frames: int) -> int:
        """As of :class:`Exchange`."""
        for bucket in self._buckets:
            for part in bucket.parts:
                if part.name in bucket.missing:  # no part of this step's loss
                    self._put_into_bucket(bucket, part)
        self._launch_full_buckets()
        squares: dict[str, Tensor] = {}
        for bucket in self._buckets:
            gradients = bucket.summed["gradient"].wait()
            for part in bucket.parts:
                own = self.parameters[part.name]
                own.grad = part.view_of(gradients, self._workers.rank)
            if self._exact:
                summed = bucket.summed["adaptive"].wait()
                for part in bucket.parts:
                    squares[part.name] = part.view_of(summed, self._workers.rank)
            bucket.summed.clear()
            bucket.missing = {part.name for part in bucket.parts}
        self._launched = 0
        self.squares = squares if self._exact else None
        return global_frames

    @torch.no_grad()
    def finish_step(self, applied: bool) -> None:
        """Gather the parameters."""
        if applied:
            gathered = []
            for bucket in self._buckets:
                self.meter.count_scatter_or_gather("parameter", bucket.gradients.nbytes)
                ended = self.meter.launch(hidden=False)
                gathered.append(all_gather(bucket.shard).then(_ending(ended)))
            for bucket, future in zip(self._buckets, gathered, strict=True):
                matrix = future.wait().view_as(bucket.gradients)
                for part in bucket.parts:
                    for rows, place in part.pairs(part.parameter, matrix):
                        rows.copy_(place)
        super().finish_step(applied)

    def zero_grad(self) -> None:
        """As of :class:`Exchange`."""
        super().zero_grad()
        for parameter in self.parameters.values():
            parameter.grad = None

    def parameters_changed(self) -> None:
        """As of :class:`Exchange`."""
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """As of :class:`Exchange`."""
        for bucket in self._buckets:
            for part in bucket.parts:
                rows = part.parameter.reshape(part.rows, *part.row_shape)
                rank = self._workers.rank
                part.view_of(bucket.shard, rank).copy_(rows[part.owned_by(rank)])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of :class:`Exchange`."""
        super().load_state_dict(state)
        self.reset()

    def close(self) -> None:
        """As of :class:`Exchange`."""
        for hook in self._hooks:
            hook.remove()
        super().close()


def _ending(ended: Callable[[], None]) -> Callable[[Future[Tensor]], Tensor]:
    """What notes the end of an exchange and passes its result on."""

    def end(future: Future[Tensor]) -> Tensor:
        ended()
        return future.value()

    return end


def _fill_buckets(parameters: Mapping[str, Tensor], size: int) -> list[_Bucket]:
    """The last parameters first, as their gradients are."""
    buckets: list[_Bucket] = []
    parts: list[_Part] = []
    for name, parameter in reversed(list(parameters.items())):
        if parts and (
            parts[-1].end * size * parameter.element_size() >= BUCKET_MEGABYTES * 2**20
            or parts[0].parameter.dtype != parameter.dtype
        ):
            buckets.append(_Bucket(parts, size))
            parts = []
        parts.append(_Part(name, parameter, size, parts[-1].end if parts else 0))
    return [*buckets, _Bucket(parts, size)]


def _rows_of(rows: int, rank: int, rows_each: int) -> slice:
    return slice(min(rank * rows_each, rows), min((rank + 1) * rows_each, rows))


def join_shards(
    states: Sequence[Mapping[str, Any]], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Join the states of the optimisers of all workers to that of one which has all rows.

    Args:
        states: Of each worker in turn: ``{"slots": {slot: {name: tensor}}, "steps": int}``, where
            tensors have the rows that the worker owns.
        shapes: Shape of each whole parameter, by name.

    Returns:
        A state of the same form with whole tensors.
    """
    slots = {
        slot: {
            name: torch.cat([state["slots"][slot][name].cpu() for state in states]).view(
                torch.Size(shapes[name])
            )
            for name in tensors
        }
        for slot, tensors in states[0]["slots"].items()
    }
    return {**states[0], "slots": slots}


def cut_shards(state: Mapping[str, Any], rank: int, size: int) -> dict[str, Any]:
    """Cut out of a joined state what one of ``size`` workers owns; see :func:`join_shards`."""
    slots: dict[str, dict[str, Tensor]] = {}
    for slot, tensors in state["slots"].items():
        slots[slot] = {}
        for name, tensor in tensors.items():
            rows = tensor if tensor.ndim else tensor.view(1)
            slots[slot][name] = rows[_rows_of(len(rows), rank, -(-len(rows) // size))].clone()
    return {**state, "slots": slots}
