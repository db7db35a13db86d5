"""The weights of a training's last epochs, kept to choose from or to average."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mariana_asr.engine.training.checkpoint import read_checkpoint, write_checkpoint

EPOCHS_FOLDER = "epochs"


@dataclass(frozen=True)
class KeptEpoch:
    """What a file of an epoch holds.

    Attributes:
        epoch: Number of the epoch.
        weights: The network's parameters and buffers, on the CPU.
    """

    epoch: int
    weights: dict[str, Tensor]


class KeptEpochs:
    """The files ``epoch-N.ckpt`` of the last few epochs that were not rejected.

    Which there are follows from the log alone, so a resumed training ends with the same ones.
    """

    def __init__(self, out_dir: Path, number: int) -> None:
        """The last ``number`` epochs below ``out_dir`` stay; nothing is written for 0."""
        self.directory = out_dir / EPOCHS_FOLDER
        self.number = number

    def path_of(self, epoch: int) -> Path:
        """Where the weights of an epoch are."""
        return self.directory / f"epoch-{epoch}.ckpt"

    def write(self, record: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Write the weights of an epoch, unless it is rejected or none are kept.

        Args:
            record: What the log says of it.
            weights: The network's parameters and buffers at its end.

        Raises:
            MarianaError: The file cannot be written.
        """
        if self.number and record["accepted"]:
            state = {"epoch": record["epoch"], "weights": dict(weights)}
            write_checkpoint(self.path_of(record["epoch"]), state)

    def tidy(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Remove the files that are not of the last epochs of a training, by its log so far.

        To be called when the state of the training that has this log is on the disk.
        """
        accepted = [record["epoch"] for record in history if record.get("accepted")]
        wanted = {self.path_of(epoch) for epoch in accepted[-self.number :] if self.number}
        for path in epoch_files(self.directory):
            if path not in wanted:
                path.unlink()


def epoch_files(directory: Path) -> list[Path]:
    """The files of kept epochs in a folder, the first epoch first."""
    numbers = {
        path: int(match[1])
        for path in directory.glob("epoch-*.ckpt")
        if (match := re.fullmatch(r"epoch-(\d+)\.ckpt", path.name))
    }
    return sorted(numbers, key=lambda path: numbers[path])


def read_epoch(path: str | Path) -> KeptEpoch:
    """Read the weights of an epoch.

    Raises:
        FormatError: The file is missing, is something else, or is damaged.
    """
    return KeptEpoch(**read_checkpoint(path))
