"""Dropout whose masks do not depend on how a minibatch is dealt out to workers.

torch draws its masks from a generator, one after the other: with two workers, or after a resumed
run, other units would be silenced. Here the random bits of a unit are a function of the step, the
layer, the frame's row in the global minibatch, and the unit. Any number of workers draws the same
masks, nothing has to be saved to resume a run, and on a CPU the arithmetic is ten times and more
faster than torch's dropout, because all of it is vectorised.
"""

import struct

import torch
from torch import Tensor, nn

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)
"""Odd factors of Wellons' lowbias32 (https://github.com/skeeto/hash-prospector), as int32."""

_MASK64 = (1 << 64) - 1


class FrameNoise(nn.Module):
    """Random bits for each frame and unit.

    Frames are told apart by the position that :func:`set_frame_position` sets; until it is set
    again, the same rows get the same bits. The position is kept in tensors, so that a compiled
    network need not be compiled anew in every step, and is no part of the state.

    Attributes:
        stream: Number that tells this noise from others in the same network.
    """

    keys: Tensor

    def __init__(self, stream: int) -> None:
        """Begin at the first row of step 0."""
        super().__init__()
        self.stream = stream
        self.register_buffer("keys", torch.zeros(3, dtype=torch.int32), persistent=False)
        self.set_position(0, 0)

    def set_position(self, step_seed: int, first_row: int) -> None:
        """Say where the frames of the next call lie.

        Args:
            step_seed: Any integer that is another one in each step.
            first_row: Row in the global minibatch of the first frame, or of the first window if
                a window gives several.
        """
        key = _mixed64(_mixed64(step_seed & _MASK64) + self.stream)
        self.keys[0] = _int32(key >> 32)
        self.keys[1] = _int32(key)
        self.keys[2] = _int32(first_row)

    def bits(self, rows: int, columns: int, rows_per_window: int = 1) -> Tensor:
        """(rows, columns) int32, uniform over all values of the type.

        ``rows_per_window`` is in how many rows a row of the minibatch is laid out here.
        """
        # Keys of their own for rows and columns, then one more hash of each pair. Shifts are
        # arithmetic, which makes one of 2^31 pairs of different numbers equal: of no consequence.
        counter = torch.arange(max(rows, columns), dtype=torch.int32, device=self.keys.device)
        first = self.keys[2] * rows_per_window
        keys = _hashed(torch.stack((self.keys[0] + first, self.keys[1]))[:, None] + counter)
        hashed = keys[0, :rows, None] ^ keys[1, :columns]
        hashed *= _FIRST
        hashed ^= hashed >> 15
        hashed *= _SECOND
        return hashed

    def chosen(
        self, rows: int, columns: int, probability: float, value: float, rows_per_window: int = 1
    ) -> Tensor:
        """(rows, columns) float32: ``value`` with some probability, and else 0."""
        # Arithmetic on the float's bits in place: about ten times faster than torch.where.
        threshold = min(round((1.0 - probability) * 2**32), 2**32 - 1) - 2**31
        chosen = self.bits(rows, columns, rows_per_window).ge_(threshold)
        return chosen.mul_(_float32_bits(value)).view(torch.float32)

    def sampled(self, probabilities: Tensor) -> Tensor:
        """Draw units that are 0 or 1: (B, units) probabilities to (B, units) of the same type."""
        bits = self.bits(*probabilities.shape)
        uniform = bits.bitwise_and_(0x7FFFFFFF).to(torch.float32).mul_(2.0**-31)
        return uniform.lt_(probabilities).to(probabilities.dtype)


class FrameDropout(FrameNoise):
    """In training, sets units to zero and scales up the others; else lets all through.

    Attributes:
        p: Share of units that are set to zero.
    """

    def __init__(self, p: float, stream: int) -> None:
        """Layers of a network need different streams."""
        super().__init__(stream)
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, units), or (B, T, units) for T frames of each window, to the same."""
        if not self.training or self.p == 0.0:
            return inputs
        frames = inputs.shape[1] if inputs.dim() == 3 else 1
        factors = self.chosen(
            len(inputs) * frames, inputs.shape[-1], 1.0 - self.p, 1.0 / (1.0 - self.p), frames
        )
        return (inputs * factors.view(inputs.shape)).to(inputs.dtype)

    def extra_repr(self) -> str:
        """What printing the network shows."""
        return f"p={self.p}, stream={self.stream}"


def set_frame_position(network: nn.Module, step_seed: int, first_row: int) -> None:
    """Tell all noise in a network which rows come next; see :meth:`FrameNoise.set_position`.

    Call it before each forward pass in training, with the same ``step_seed`` in all workers.
    """
    for module in network.modules():
        if isinstance(module, FrameNoise):
            module.set_position(step_seed, first_row)


def _hashed(numbers: Tensor) -> Tensor:
    """Wellons' lowbias32 of int32 numbers, in place: a permutation under which neighbours part."""
    # torch has arithmetic shifts only; the masks take the copies of the sign away.
    numbers ^= (numbers >> 16) & 0xFFFF
    numbers *= _FIRST
    numbers ^= (numbers >> 15) & 0x1FFFF
    numbers *= _SECOND
    numbers ^= (numbers >> 16) & 0xFFFF
    return numbers


def _mixed64(number: int) -> int:
    """The next number of Vigna's splitmix64, of a Python integer."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK64
    return number ^ (number >> 31)


def _int32(number: int) -> int:
    """The lowest 32 bits, as a signed number."""
    return ((number & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _float32_bits(value: float) -> int:
    """The bits of a positive float32 as an integer."""
    return struct.unpack("<i", struct.pack("<f", value))[0]
