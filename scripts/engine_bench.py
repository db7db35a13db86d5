"""Where and how much scripts/bench_engine.py measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark_record import markdown_table
from engine_rates import SMALL, NetworkSize
from synthetic_store import write_synthetic_store

from mariana_asr.engine.frames.frame_store import FrameStore
from mariana_asr.engine.frames.storage import StorageName

Rows = list[dict[str, Any]]

HELD_OUT_FRAMES = 4096


@dataclass(frozen=True)
class BenchSettings:
    """How much is measured.

    Attributes:
        quick: Fewer rounds, shorter ones, and less to compare.
        workers: For the parts with several of them.
        threads: Of each of them.
        minibatch_size: Frames a step of all of them.
        frames_max: Size of the largest store.
        seconds: Length of a round in one process.
        rounds: How often all of what is compared is measured.
        epoch_frames: Frames of an epoch of several workers.
    """

    quick: bool
    workers: int
    threads: int
    minibatch_size: int
    frames_max: int
    seconds: float
    rounds: int
    epoch_frames: int


class Bench:
    """What the parts share: settings, and stores of random frames."""

    def __init__(self, work: Path, settings: BenchSettings) -> None:
        """Files are written to ``work``."""
        self.work, self.settings = work, settings
        self._stores: dict[str, FrameStore] = {}

    def store(
        self, name: str, frames: int, size: NetworkSize = SMALL, storage: StorageName = "float32"
    ) -> FrameStore:
        """A store of random frames, made once."""
        if name not in self._stores:
            self._stores[name] = write_synthetic_store(
                self.work / name,
                frames=frames,
                dim=size.frame_dim,
                num_outputs=size.num_outputs,
                storage=storage,
            )
        return self._stores[name]

    def stores(self) -> tuple[FrameStore, FrameStore]:
        """Frames to train on in one process, and held-out ones."""
        return self.store("train", 2**18 if self.settings.quick else 2**20), self.held_out()

    def held_out(self, size: NetworkSize = SMALL) -> FrameStore:
        """Frames to watch the training on."""
        return self.store(f"held_out_{size}", HELD_OUT_FRAMES, size)

    def folders(self, size: NetworkSize = SMALL) -> tuple[Path, Path]:
        """Folders of the frames that several workers train on, and of held-out ones."""
        train = self.store(f"epoch_{size}", self.settings.epoch_frames, size)
        return train.directory, self.held_out(size).directory


def table_of(rows: Rows, columns: dict[str, str]) -> str:
    """A table of some columns, each with the format of its cells."""
    return markdown_table(
        [name.replace("_", " ") for name in columns],
        [
            [format(row[name], form) if name in row else None for name, form in columns.items()]
            for row in rows
        ],
    )
