"""Which device a training runs on."""

import torch

from mariana_asr.errors import StageError


def choose_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` names on this machine.

    Raises:
        StageError: A GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise StageError(
            "train.device is cuda, but torch finds no GPU", remedy="Use train.device=auto or cpu"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
