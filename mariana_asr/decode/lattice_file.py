"""State-level lattices in OpenFst's binary format: out of the decoder, and into Kaldi's archives.

kaldifst offers the arcs of a lattice one call at a time, which takes longer than the search. The
file that it writes is simple (OpenFst 1.7, ``vector-fst.h``): a head, then for each state its
final weight, a 64-bit count of arcs and its arcs. A Kaldi archive holds just the same bytes.
"""

import struct
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import FormatError

_HEAD = b"".join(struct.pack("<i", len(text)) + text for text in (b"vector", b"lattice4"))
_MAGIC = struct.pack("<i", 2125659606)
_SIZES = struct.Struct("<iiQqqq")
"""Version, flags, properties, start state, number of states, number of arcs."""
_VERSION = 2
_EXPANDED_MUTABLE = 0x3
"""Properties that are so by the file's type; the others are left unknown."""


@dataclass(frozen=True)
class RawLattice:
    """States and arcs of a lattice as a decoder numbers them.

    Attributes:
        start: The start state.
        final: Final costs (states, 2), graph and acoustic; infinite where not final.
        source: Source state of each arc, ascending.
        labels: Transition id, word id (each 0 for none) and next state of each arc, (arcs, 3).
        costs: Graph and acoustic cost of each arc, (arcs, 2).
    """

    start: int
    final: NDArray[np.float32]
    source: NDArray[np.int32]
    labels: NDArray[np.int32]
    costs: NDArray[np.float32]

    def scale_acoustic(self, scale: float) -> "RawLattice":
        """Multiply the acoustic costs, as Kaldi's lattice-scale --acoustic-scale does."""
        scales = np.array([1.0, scale], dtype=np.float32)
        return replace(self, final=self.final * scales, costs=self.costs * scales)


def lattice_from_bytes(content: bytes, where: str) -> RawLattice:
    """Parse the bytes of a lattice.

    Raises:
        FormatError: It is something else (a compact lattice, say), or cut short.
    """
    end = len(_MAGIC) + len(_HEAD)
    if content[:end] != _MAGIC + _HEAD:
        raise FormatError("not a state-level lattice", where=where)
    try:
        version, flags, _, start, num_states, _ = _SIZES.unpack_from(content, end)
    except struct.error as error:
        raise FormatError("cut short", where=where) from error
    if (version, flags) != (_VERSION, 0):
        raise FormatError(f"lattice of version {version} with flags {flags}", where=where)
    end += _SIZES.size
    # In units of 4 bytes a state's head takes 4 (2 costs, 64-bit count) and an arc 5. Where a
    # head lies depends on all counts before it, so they are read one by one.
    counts = []
    position = end
    for _ in range(num_states):
        count = int.from_bytes(content[position + 8 : position + 16], "little")
        counts.append(count)
        position += 16 + 20 * count
        if position > len(content):
            raise FormatError("cut short", where=where)
    words = np.frombuffer(content, dtype="<i4", count=(position - end) // 4, offset=end)
    source = np.repeat(np.arange(num_states, dtype=np.int32), counts)
    heads, arcs = _places(source, num_states)
    return RawLattice(
        start=start,
        final=words[heads[:, np.newaxis] + [0, 1]].view("<f4"),
        source=source,
        labels=words[arcs[:, np.newaxis] + [0, 1, 4]],
        costs=words[arcs[:, np.newaxis] + [2, 3]].view("<f4"),
    )


def lattice_to_bytes(lattice: RawLattice) -> bytes:
    """The bytes of a lattice, as Kaldi's binary lattice archives hold them after the key."""
    num_states, num_arcs = len(lattice.final), len(lattice.source)
    heads, arcs = _places(lattice.source, num_states)
    words = np.zeros(4 * num_states + 5 * num_arcs, dtype="<i4")
    words[heads[:, np.newaxis] + [0, 1]] = lattice.final.view("<i4")
    words[heads + 2] = np.bincount(lattice.source, minlength=num_states)
    words[arcs[:, np.newaxis] + [0, 1, 4]] = lattice.labels
    words[arcs[:, np.newaxis] + [2, 3]] = lattice.costs.view("<i4")
    sizes = _SIZES.pack(_VERSION, 0, _EXPANDED_MUTABLE, lattice.start, num_states, num_arcs)
    return _MAGIC + _HEAD + sizes + words.tobytes()


def _places(
    source: NDArray[np.int32], num_states: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each state's head and each arc lie, in units of 4 bytes."""
    counts = np.bincount(source, minlength=num_states)
    heads = 4 * np.arange(num_states) + 5 * (np.cumsum(counts) - counts)
    arcs = 4 * (source.astype(np.int64) + 1) + 5 * np.arange(len(source))
    return heads, arcs
