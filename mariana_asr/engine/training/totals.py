"""What an epoch has come to so far, over all workers, and its record in the log."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from mariana_asr.engine.exchange.meter import ExchangeFigures
from mariana_asr.engine.launch.workers import Workers


@dataclass
class Totals:
    """Sums over the part of an epoch that is done, equal in all workers."""

    loss: float = 0.0
    measure: float = 0.0
    frames: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0
    seconds_waiting: float = 0.0
    """For data, a worker's mean."""
    exchange: ExchangeFigures = field(default_factory=ExchangeFigures)
    """A worker's mean."""

    @property
    def mean_loss(self) -> float:
        """Loss a frame."""
        return self.loss / max(self.frames, 1)

    @property
    def accuracy(self) -> float:
        """Share of right frames, 0 to 1."""
        return self.measure / max(self.frames, 1)

    @property
    def frames_per_second(self) -> float:
        """Frames of all workers a second."""
        return self.frames / max(self.seconds, 1e-9)

    @property
    def data_wait_share(self) -> float:
        """Share of the time in which a worker waited for data."""
        return self.seconds_waiting / max(self.seconds, 1e-9)

    @property
    def exchange_wait_share(self) -> float:
        """Share of the time in which a worker waited for an exchange with nothing to compute."""
        return self.exchange.exposed_seconds / max(self.seconds, 1e-9)

    @property
    def efficiency(self) -> float:
        """Share of the time in which a worker computed."""
        return max(0.0, 1.0 - self.data_wait_share - self.exchange_wait_share)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Totals":
        """The totals that ``state_dict`` gave."""
        return cls(**{**state, "exchange": ExchangeFigures(**state["exchange"])})

    def record(self) -> dict[str, Any]:
        """The figures as a line of the log has them."""
        figures = self.exchange
        steps = max(figures.steps, 1)
        record: dict[str, Any] = {
            "frames": self.frames,
            "skipped_steps": self.skipped_steps,
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(self.frames_per_second, 1),
            "data_wait_share": round(self.data_wait_share, 5),
            "exchange_wait_share": round(self.exchange_wait_share, 5),
            "efficiency": round(self.efficiency, 5),
        }
        if figures.busy_seconds > 0:
            record |= {
                "gradient_bytes_per_step": round(figures.gradient_bytes / steps),
                "parameter_bytes_per_step": round(figures.parameter_bytes / steps),
                "adaptive_bytes_per_step": round(figures.adaptive_bytes / steps),
                "between_hosts_bytes_per_step": round(figures.between_hosts_bytes / steps),
                "exchange_ms_per_step": round(1e3 * figures.busy_seconds / steps, 3),
                "exchange_overlap": round(figures.overlap, 4),
            }
        return record


def sum_over_workers(workers: Workers, sums: torch.Tensor, *own: float) -> list[float]:
    """Sums of the device's and of the processor's figures over all workers."""
    figures = torch.cat([sums, torch.tensor(own, dtype=torch.float64, device=sums.device)])
    return workers.sum(figures).tolist()
