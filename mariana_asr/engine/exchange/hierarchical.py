"""Sum gradients inside each host first, so that less crosses the slower links between hosts."""

from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.futures import Future
from torch.nn.functional import pad

from mariana_asr.engine.exchange.collectives import all_gather, reduce_scatter
from mariana_asr.engine.exchange.ddp import DdpExchange
from mariana_asr.engine.exchange.meter import Kind
from mariana_asr.engine.launch.workers import Workers
from mariana_asr.errors import StageError


class Hierarchical(DdpExchange):
    """All-reduce over a mesh of hosts and of the workers of each.

    Gradients are reduce-scattered inside a host; each worker sums its part with those of the same
    place in the other hosts; the parts are gathered inside the host. A worker so sends between
    hosts the n-th part of what it would alone, n being the workers of a host.
    """

    def __init__(
        self,
        objective: nn.Module,
        workers: Workers,
        *,
        workers_per_host: int | None = None,
        exact_squares: bool = False,
    ) -> None:
        """As of :class:`HierarchicalOptions` and make_exchange.

        Raises:
            StageError: The workers are not so many for each host.
        """
        local = workers.per_host if workers_per_host is None else workers_per_host
        if workers.size % local:
            raise StageError(
                f"{workers.size} workers are not {local} for each host",
                remedy="Set engine.exchange.workers_per_host, or start as many on each host",
            )
        self._hosts, self._local = workers.size // local, local
        mesh = init_device_mesh(
            workers.device.type, (self._hosts, local), mesh_dim_names=("host", "local")
        )
        self._between, self._inside = mesh.get_group("host"), mesh.get_group("local")
        self._on_gpu = workers.device.type == "cuda"
        if self._on_gpu:
            self._stream = torch.cuda.Stream(workers.device)
        else:
            # One thread does all, in the order of the buckets: the workers of a group have to
            # launch the same ones one after the other.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="exchange")
        super().__init__(objective, workers, exact_squares=exact_squares)

    def _sum_bucket(self, bucket: dist.GradBucket) -> Future[Tensor]:
        return self._sum_over_mesh("gradient", bucket.buffer())

    def _sum_adaptive(self, squares: Tensor) -> Future[Tensor]:
        return self._sum_over_mesh("adaptive", squares)

    def _sum_over_mesh(self, kind: Kind, values: Tensor) -> Future[Tensor]:
        """Sum a flat tensor over all workers, in place."""
        missing = -len(values) % self._local
        padded = pad(values, (0, missing)) if missing else values
        self.meter.count_all_reduce(kind, padded.nbytes, size=self._local, between=0.0)
        self.meter.count_all_reduce(
            kind, padded.nbytes // self._local, size=self._hosts, between=1.0
        )
        ended = self.meter.launch(hidden=True)
        if self._on_gpu:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                # Waiting for a collective is an order to the stream here, and takes no time.
                for tensor in (values, padded):
                    tensor.record_stream(self._stream)
                done: Future[Tensor] = Future(devices=[values.device])
                values.copy_(self._reduce(padded)[: len(values)])
                ended()
                done.set_result(values)
            return done
        done = Future()

        def run() -> None:
            try:
                values.copy_(self._reduce(padded)[: len(values)])
                ended()
                done.set_result(values)
            except Exception as error:
                done.set_exception(error)  # type: ignore[arg-type] # torch's hint is wrong

        self._thread.submit(run)
        return done

    def _reduce(self, padded: Tensor) -> Tensor:
        part = padded
        if self._local > 1:
            part = reduce_scatter(padded, self._inside).wait()
        if self._hosts > 1:
            dist.all_reduce(part, group=self._between)
        if self._local > 1:
            return all_gather(part, self._inside).wait()
        return part

    def close(self) -> None:
        """As of :class:`Exchange`."""
        if not self._on_gpu:
            self._thread.shutdown()
        super().close()
