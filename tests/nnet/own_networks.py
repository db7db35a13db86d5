"""Networks as a user might write them, right ones and wrong ones."""

import torch
from torch import nn


class Convolution(nn.Module):
    """A convolution over time that draws its weights from torch's global generator."""

    left_context, right_context = 2, 1
    chunk_frames, exact_chunks = 5, True

    def __init__(self, frame_dim: int, num_outputs: int, hidden: int = 8, scale: float = 1.0):
        super().__init__()
        self.frame_dim, self.num_outputs, self.scale = frame_dim, num_outputs, scale
        self.layers = nn.Sequential(
            nn.Conv1d(frame_dim, hidden, 4), nn.ReLU(), nn.Conv1d(hidden, num_outputs, 1)
        )

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        frames = windows.unflatten(1, (-1, self.frame_dim)).transpose(1, 2)
        return self.scale * self.layers(frames).transpose(1, 2).flatten(0, 1)


class Single(nn.Module):
    """One frame a window, and no more attributes than it must have; sizes found when called."""

    left_context = right_context = 1

    def __init__(self, frame_dim: int, num_outputs: int):
        super().__init__()
        self.frame_dim, self.num_outputs = frame_dim, num_outputs
        self.output = nn.LazyLinear(num_outputs)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.output(windows)


class WithoutContext(Single):
    """Lacks an attribute."""

    def __init__(self, frame_dim: int, num_outputs: int):
        super().__init__(frame_dim, num_outputs)
        del self.num_outputs

    left_context = property()  # raises AttributeError


class NegativeContext(Single):
    left_context = -1


class FractionalChunks(Single):
    chunk_frames = 2.0


class OtherOutputs(Single):
    def __init__(self, frame_dim: int, num_outputs: int):
        super().__init__(frame_dim, num_outputs + 1)


class WrongShape(Single):
    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return super().forward(windows).unsqueeze(1)


class ReturnsPair(Single):
    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return super().forward(windows), windows


class FailsWhenCalled(Single):
    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        raise IndexError("no such thing")


class FalselyExact(Convolution):
    """Its first layer sees the mean of the whole window."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return super().forward(windows - windows.mean(dim=1, keepdim=True))


def function(frame_dim: int, num_outputs: int) -> nn.Module:
    return Single(frame_dim, num_outputs)


class NoModule:
    pass
