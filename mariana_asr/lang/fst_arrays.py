"""FSTs as numpy arrays, and OpenFst's file formats.

The kaldifst wheel offers arcs one at a time, which costs a microsecond or more each. Operations
that the wheel lacks work on these arrays instead; ``to_fst`` and ``from_fst`` convert through
OpenFst's own binary formats.
"""

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import FormatError, MarianaError
from mariana_asr.files import atomic_file
from mariana_asr.kaldi import kaldifst

_MAGIC = 2125659606
# OpenFst's property bits "expanded" and "mutable"; all others are left unknown.
_EXPANDED_MUTABLE = 0x3
_ARC = np.dtype([("ilabel", "<i4"), ("olabel", "<i4"), ("weight", "<f4"), ("target", "<i4")])
_CONST_STATE = np.dtype(
    [
        ("final", "<f4"),
        ("first", "<u4"),
        ("arcs", "<u4"),
        ("input_epsilons", "<u4"),
        ("output_epsilons", "<u4"),
    ]
)


@dataclass
class FstArrays:
    """A transducer over the tropical semiring: costs are negative natural logs.

    Attributes:
        source: (A,) state that each arc leaves, in ascending order once sorted.
        target: (A,) state that each arc enters.
        ilabel: (A,) input labels; 0 is epsilon.
        olabel: (A,) output labels; 0 is epsilon.
        weight: (A,) costs, float32.
        final: (S,) costs of ending in each state; inf where it is not final.
        start: The initial state, or -1 where the transducer is empty.
    """

    source: NDArray[np.int32]
    target: NDArray[np.int32]
    ilabel: NDArray[np.int32]
    olabel: NDArray[np.int32]
    weight: NDArray[np.float32]
    final: NDArray[np.float32]
    start: int = 0

    @property
    def num_states(self) -> int:
        """Number of states."""
        return len(self.final)

    def select(self, arcs: NDArray[np.bool_] | NDArray[np.intp]) -> "FstArrays":
        """Keep some arcs (a mask or indices); states stay as they are."""
        return FstArrays(
            self.source[arcs],
            self.target[arcs],
            self.ilabel[arcs],
            self.olabel[arcs],
            self.weight[arcs],
            self.final,
            self.start,
        )


def from_fst(fst: "kaldifst.StdVectorFst") -> FstArrays:
    """Take the states and arcs of a kaldifst FST."""
    with tempfile.NamedTemporaryFile(suffix=".fst") as file:
        if not kaldifst.StdConstFst(fst).write(file.name):
            raise MarianaError("cannot write a temporary file; is the disk full?", where=file.name)
        return _read_const(Path(file.name))


def to_fst(arrays: FstArrays) -> "kaldifst.StdVectorFst":
    """Build a kaldifst FST; arcs keep their order within a state."""
    with tempfile.NamedTemporaryFile(suffix=".fst") as file:
        file.write(_vector_bytes(arrays))
        file.flush()
        return kaldifst.StdVectorFst.read(file.name)


def read_fst(path: str | Path) -> "kaldifst.StdVectorFst":
    """Read an FST file of type ``vector`` or ``const`` with tropical weights.

    Raises:
        FormatError: The file is missing, no such FST, or cut off.
    """
    path = Path(path)
    kind = _read_header(path)[0]
    if kind == "const":
        return to_fst(_read_const(path))
    fst = kaldifst.StdVectorFst.read(str(path))
    if fst is None:
        raise FormatError("cannot be read as an FST; is it cut off?", where=path)
    return fst


def write_fst(path: str | Path, fst: "kaldifst.StdVectorFst", *, const: bool = False) -> None:
    """Write an FST file atomically, of type ``vector`` or, smaller to load, ``const``."""
    with atomic_file(path) as temporary:
        if not (kaldifst.StdConstFst(fst) if const else fst).write(str(temporary)):
            raise MarianaError("cannot write; is the disk full?", where=path)


def _vector_bytes(arrays: FstArrays) -> bytes:
    order = np.argsort(arrays.source, kind="stable")
    source = arrays.source[order].astype(np.int64)
    num_states, num_arcs = arrays.num_states, len(source)
    counts = np.bincount(source, minlength=num_states)
    # A state takes 3 words of 4 bytes (final cost, 64-bit number of arcs), an arc takes 4.
    words = np.zeros(3 * num_states + 4 * num_arcs, dtype="<u4")
    at_state = 3 * np.arange(num_states) + 4 * (np.cumsum(counts) - counts)
    words[at_state] = arrays.final.astype("<f4").view("<u4")
    words[at_state + 1] = counts
    at_arc = 3 * (source + 1) + 4 * np.arange(num_arcs)
    words[at_arc] = arrays.ilabel[order].astype("<i4").view("<u4")
    words[at_arc + 1] = arrays.olabel[order].astype("<i4").view("<u4")
    words[at_arc + 2] = arrays.weight[order].astype("<f4").view("<u4")
    words[at_arc + 3] = arrays.target[order].astype("<i4").view("<u4")
    header = struct.pack("<i", _MAGIC)
    for name in (b"vector", b"standard"):
        header += struct.pack("<i", len(name)) + name
    start = arrays.start if num_states else -1
    header += struct.pack("<iiQqqq", 2, 0, _EXPANDED_MUTABLE, start, num_states, num_arcs)
    return header + words.tobytes()


def _read_header(path: Path) -> tuple[str, int, int, int, int]:
    """Read type of FST, start state, numbers of states and arcs, and the header's length."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except FileNotFoundError as error:
        raise FormatError("no such file", where=path) from error
    except OSError as error:
        raise FormatError(f"cannot read: {error.strerror}", where=path) from error
    try:
        (magic,) = struct.unpack_from("<i", head, 0)
        offset, names = 4, []
        for _ in range(2):
            (length,) = struct.unpack_from("<i", head, offset)
            names.append(head[offset + 4 : offset + 4 + length].decode("ascii"))
            offset += 4 + length
        version, flags, _, start, states, arcs = struct.unpack_from("<iiQqqq", head, offset)
    except (struct.error, UnicodeDecodeError) as error:
        raise FormatError("not an OpenFst file", where=path) from error
    if magic != _MAGIC:
        raise FormatError("not an OpenFst file", where=path)
    if names[1] != "standard" or names[0] not in ("vector", "const"):
        raise FormatError(
            f"an FST of type {names[0]} with arcs of type {names[1]}",
            where=path,
            remedy="Convert it with fstconvert to type vector or const with standard arcs",
        )
    if flags & 0x3 and names[0] == "const":
        raise FormatError(
            "a const FST with symbol tables inside",
            where=path,
            remedy="Write it without them (fstcompile --keep_isymbols=false)",
        )
    if names[0] == "const" and (version == 1 or flags & 0x4):
        raise FormatError(
            "an aligned const FST", where=path, remedy="Write it with --fst_align=false"
        )
    return names[0], start, states, arcs, offset + 40


def _read_const(path: Path) -> FstArrays:
    _, start, num_states, num_arcs, offset = _read_header(path)
    content = path.read_bytes()
    arcs_at = offset + num_states * _CONST_STATE.itemsize
    if num_states < 0 or num_arcs < 0 or len(content) < arcs_at + num_arcs * _ARC.itemsize:
        raise FormatError("cut off: shorter than its header says", where=path)
    states = np.frombuffer(content, _CONST_STATE, num_states, offset)
    arcs = np.frombuffer(content, _ARC, num_arcs, arcs_at)
    counts = states["arcs"].astype(np.int64)
    if counts.sum() != num_arcs:
        raise FormatError("damaged: its states do not add up to its arcs", where=path)
    return FstArrays(
        source=np.repeat(np.arange(num_states, dtype=np.int32), counts),
        target=arcs["target"].copy(),
        ilabel=arcs["ilabel"].copy(),
        olabel=arcs["olabel"].copy(),
        weight=arcs["weight"].copy(),
        final=states["final"].copy(),
        start=start,
    )
