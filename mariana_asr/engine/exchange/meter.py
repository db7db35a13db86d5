"""What the exchange between workers costs: bytes, seconds, and how much of them computing hides."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch

from mariana_asr.engine.launch.workers import Workers

Kind = Literal["gradient", "parameter", "adaptive"]
"""What is sent: gradients; parameters; or what adaptive optimisers need beyond the gradient."""


@dataclass
class ExchangeFigures:
    """Sums over some steps of one worker.

    Attributes:
        steps: How many steps.
        gradient_bytes: Sent for the sum of gradients.
        parameter_bytes: Sent to bring parameters (and a network's buffers) together.
        adaptive_bytes: Sent for the squares of the exact adaptive rule, and for nothing else.
        between_hosts_bytes: The part of all these that goes to another host. Of an exchange over
            all workers at once it is the mean over the workers of a host, one of which sends to
            the next host.
        busy_seconds: Time in which at least one exchange was under way. That includes waiting
            until the other workers are as far.
        exposed_seconds: The part of it in which nothing was left to compute: from when the last
            gradients were ready to the exchange's end, and all exchange of parameters.
    """

    steps: int = 0
    gradient_bytes: int = 0
    parameter_bytes: int = 0
    adaptive_bytes: int = 0
    between_hosts_bytes: int = 0
    busy_seconds: float = 0.0
    exposed_seconds: float = 0.0

    @property
    def overlap(self) -> float:
        """Share of the exchange's time that was hidden behind computing, 0 to 1."""
        return 1.0 - self.exposed_seconds / self.busy_seconds if self.busy_seconds > 0.0 else 0.0

    @classmethod
    def from_sums(cls, values: Sequence[float]) -> "ExchangeFigures":
        """Figures of several workers' mean, from its values in the order of the attributes."""
        counts, seconds = values[:-2], values[-2:]
        steps, gradient, parameter, adaptive, between = (round(count) for count in counts)
        return cls(steps, gradient, parameter, adaptive, between, *seconds)

    def __add__(self, other: "ExchangeFigures") -> "ExchangeFigures":
        return ExchangeFigures(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )


Mark = float | torch.cuda.Event
"""A point in time: perf_counter on a CPU, an event on a GPU, whose time is known later."""


@dataclass
class _Span:
    """One exchange, from its launch to its end; ``hidden`` if it ran beside the backward pass."""

    start: Mark
    hidden: bool
    end: Mark | None = None


class ExchangeMeter:
    """Counts what one worker sends, and times it.

    Bytes are those of the algorithms that send least (Patarasuk and Yuan 2009): with N workers,
    an all-reduce of S bytes makes each send 2 (N-1)/N S, a reduce-scatter or an all-gather half of
    that. Rings, which gloo uses and NCCL for large messages, send just so much.
    """

    def __init__(self, workers: Workers) -> None:
        self._size = workers.size
        # Along a ring in the order of ranks, one worker of each host sends to the next host.
        several_hosts = workers.size > workers.per_host
        self._share_between_hosts = 1.0 / workers.per_host if several_hosts else 0.0
        self._on_gpu = workers.device.type == "cuda"
        self._figures = ExchangeFigures()
        self._spans: list[_Span] = []
        self._unread: deque[list[_Span]] = deque()

    def count_all_reduce(
        self, kind: Kind, payload: int, *, size: int | None = None, between: float | None = None
    ) -> None:
        """Count an all-reduce of ``payload`` bytes, by default over all workers.

        Args:
            kind: What is sent.
            payload: Bytes of the tensor that is summed.
            size: Workers that take part.
            between: Share of the bytes that goes to other hosts.
        """
        self._count(kind, payload, 2, size, between)

    def count_scatter_or_gather(
        self, kind: Kind, payload: int, *, size: int | None = None, between: float | None = None
    ) -> None:
        """Count a reduce-scatter or an all-gather, whose whole tensor has ``payload`` bytes."""
        self._count(kind, payload, 1, size, between)

    def _count(
        self, kind: Kind, payload: int, passes: int, size: int | None, between: float | None
    ) -> None:
        size = self._size if size is None else size
        sent = round(passes * payload * (size - 1) / size)
        figures = self._figures
        if kind == "gradient":
            figures.gradient_bytes += sent
        elif kind == "parameter":
            figures.parameter_bytes += sent
        else:
            figures.adaptive_bytes += sent
        share = self._share_between_hosts if between is None else between
        figures.between_hosts_bytes += round(sent * share)

    def launch(self, *, hidden: bool) -> Callable[[], None]:
        """Note that an exchange begins; what is returned has to be called when it is complete.

        On a GPU both are called where the current stream is the one that launches, or sees the
        end of, the exchange.

        Args:
            hidden: Whether computing goes on meanwhile.
        """
        span = _Span(self._mark(), hidden)
        self._spans.append(span)

        def end() -> None:
            span.end = self._mark()

        return end

    def _mark(self) -> Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def end_step(self) -> None:
        """Note that a step is done; all exchanges launched in it are complete, or queued."""
        self._figures.steps += 1
        if self._spans:
            self._unread.append(self._spans)
            self._spans = []
        self._read_times(wait=False)

    def take(self) -> ExchangeFigures:
        """The figures since the last call."""
        if self._spans:  # exchanges after the last step, such as an epoch's last average
            self._unread.append(self._spans)
            self._spans = []
        self._read_times(wait=True)
        figures, self._figures = self._figures, ExchangeFigures()
        return figures

    def _read_times(self, *, wait: bool) -> None:
        """Add up spans whose times are known; on a GPU they are when the events have happened."""
        while self._unread:
            spans = self._unread[0]
            ends = [span.end for span in spans if isinstance(span.end, torch.cuda.Event)]
            if not wait and not all(end.query() for end in ends):
                return
            for end in ends:
                end.synchronize()
            self._unread.popleft()
            self._add_times(spans)

    def _add_times(self, spans: list[_Span]) -> None:
        origin = spans[0].start
        times = [
            (_seconds(origin, span.start), _seconds(origin, span.end), span.hidden)
            for span in spans
            if span.end is not None
        ]
        hidden = [(start, end) for start, end, hidden in times if hidden]
        exposed = [(start, end) for start, end, hidden in times if not hidden]
        self._figures.busy_seconds += _union([(start, end) for start, end, _ in times])
        if hidden:
            # The last exchange is launched when the backward pass has no more to do.
            exposed.append((max(start for start, _ in hidden), max(end for _, end in hidden)))
        self._figures.exposed_seconds += _union(exposed)


def _seconds(origin: Mark, mark: Mark) -> float:
    if isinstance(origin, torch.cuda.Event):
        assert isinstance(mark, torch.cuda.Event)
        return origin.elapsed_time(mark) / 1000.0
    assert not isinstance(mark, torch.cuda.Event)
    return mark - origin


def _union(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    length, reached = 0.0, -float("inf")
    for start, end in sorted(intervals):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length
