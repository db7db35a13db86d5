"""Kaldi archives (ark) and script files (scp) of matrices and integer vectors, through kaldiio."""

import gzip
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import kaldiio
import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import DataError, FormatError
from mariana_asr.files import atomic_file

COMPRESSION_METHODS = {False: None, True: 1}
"""kaldiio's numbers: 1 is Kaldi's kAutomaticMethod, the default of copy-feats --compress=true."""


class _NoPickle:
    """Stands in for ``pickle`` within kaldiio."""

    @staticmethod
    def load(*_: object, **__: object) -> None:
        raise ValueError("a pickled Python object, which could run any code, so it is not loaded")


# kaldiio unpickles an archive entry that is marked PKL, a kind that Kaldi itself does not have.
kaldiio.matio.pickle = _NoPickle

_INTEGER = np.dtype([("size", "i1"), ("value", "<i4")])
"""How a binary vector holds an integer: its size in bytes comes first."""


_LONGEST_KEY = 10_000


class ArchiveWriter:
    """Write matrices to ``PREFIX.ark`` with an index in ``PREFIX.scp``.

    Both appear under their names only when the writer is closed without an error. Script file
    entries hold the archive's absolute path, as Kaldi's scripts write them.
    """

    def __init__(self, prefix: str | Path, *, compress: bool = False) -> None:
        """``compress`` stores 8 bits a value in Kaldi's speech-feature format."""
        prefix = Path(prefix)
        self._ark, self._scp = (
            prefix.with_name(prefix.name + ".ark"),
            prefix.with_name(prefix.name + ".scp"),
        )
        self._method = COMPRESSION_METHODS[compress]
        self._stack = ExitStack()
        self._index: list[tuple[str, int]] = []

    def __enter__(self) -> "ArchiveWriter":
        """Open the temporary archive."""
        # The index enters first, so that it is renamed after the archive that it points into.
        self._temporary_scp = self._stack.enter_context(atomic_file(self._scp))
        temporary_ark = self._stack.enter_context(atomic_file(self._ark))
        self._file = self._stack.enter_context(open(temporary_ark, "wb"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Rename both files into place, or remove them if the block failed."""
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            target = self._ark.resolve()
            with open(self._temporary_scp, "w", encoding="utf-8") as scp:
                scp.writelines(f"{key} {target}:{offset}\n" for key, offset in self._index)

    def write(self, key: str, matrix: NDArray[np.floating]) -> None:
        """Append a matrix of shape (rows, columns); it is stored in float32 unless compressed."""
        self._file.write(key.encode() + b" ")
        self._index.append((key, self._file.tell()))
        if matrix.dtype != np.float64:
            matrix = matrix.astype(np.float32, copy=False)
        kaldiio.save_mat(self._file, matrix, compression_method=self._method)


def read_matrix(location: str, *, where: str = "") -> NDArray[np.float32]:
    """Read one matrix that a script file points to (``path:offset``).

    Raises:
        DataError: The archive is missing or damaged there, or holds no matrix; or the location is
            a command, which is never run.
    """
    if "|" in location:
        # kaldiio would run it in a shell ("COMMAND |:12" too); a script file must not do that.
        raise DataError(
            f"{location!r} is a command, and commands in script files are not run",
            where=where or None,
            remedy="Write the matrices to an archive, for example with Kaldi's copy-feats",
        )
    try:
        matrix = kaldiio.load_mat(location)
    except Exception as error:  # kaldiio raises many kinds for a damaged archive
        raise DataError(f"cannot read {location}: {error}", where=where or None) from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2:
        raise DataError(f"{location} holds no matrix", where=where or None)
    return matrix


def iterate_matrices(path: str | Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (key, matrix) from an archive (``.ark``) or a script file (``.scp``).

    Raises:
        DataError: The file is missing or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("no such file", where=path)
    if path.suffix == ".scp":
        for key, location in read_script(path).items():
            yield key, read_matrix(location, where=f"{path}: {key}")
        return
    try:
        yield from kaldiio.load_ark(str(path))
    except Exception as error:
        raise DataError(f"damaged archive: {error}", where=path) from error


def read_script(path: str | Path) -> dict[str, str]:
    """Read a script file: key to location.

    Raises:
        DataError: A line has no location, or a key comes twice.
    """
    entries: dict[str, str] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            key, _, location = line.strip().partition(" ")
            if not location or key in entries:
                what = f"{key!r} comes twice" if key in entries else "expected 'key location'"
                raise DataError(what, where=f"{path}:{number}")
            entries[key] = location.strip()
    return entries


def write_int_vectors(path: str | Path, vectors: Iterable[tuple[str, NDArray[np.int32]]]) -> int:
    """Write integer vectors as a binary Kaldi archive, gzipped if the name ends in ``.gz``.

    Returns:
        The number of vectors written.
    """
    count = 0
    path = Path(path)
    with atomic_file(path) as temporary:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(temporary, "wb") as file:
            for key, vector in vectors:
                # In one piece: kaldiio writes number by number, which is slow through gzip.
                records = np.empty(len(vector), dtype=_INTEGER)
                records["size"], records["value"] = 4, vector
                head = key.encode() + b" \0B\4" + len(vector).to_bytes(4, "little")
                file.write(head + records.tobytes())
                count += 1
    return count


def read_int_vectors(path: str | Path) -> dict[str, NDArray[np.int32]]:
    """Read an archive of integer vectors, binary or text, gzipped or not.

    Raises:
        FormatError: The file is missing, damaged or holds something else.
    """
    return dict(iterate_int_vectors(path))


def iterate_int_vectors(path: str | Path) -> Iterator[tuple[str, NDArray[np.int32]]]:
    r"""Yield (key, integers) from an archive, binary or text, gzipped or not, one by one.

    Records are ``key \0B\4 n (\4 value)*`` (binary) or ``key v v v\n`` (text).

    Raises:
        FormatError: The file is missing, damaged or holds something else.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as opened:
            file = cast(BinaryIO, opened)
            while key := _read_key(file):
                first = file.read(1)
                if first == b"\0":
                    yield key, _read_binary_integers(file, key)
                else:
                    line = b"" if first == b"\n" else first + file.readline()
                    yield key, np.array(line.split(), dtype=np.int32)
    except FileNotFoundError as error:
        raise FormatError("no such file", where=path) from error
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"not an archive of integer vectors: {error}", where=path) from error


def _read_key(file: BinaryIO) -> str:
    """Read a key and the space after it; empty at the end of the archive."""
    key = b""
    while (byte := file.read(1)) not in (b" ", b""):
        key += byte
        if len(key) > _LONGEST_KEY:
            raise ValueError("no key at the start of a record")
    if key.strip() and not byte:
        raise ValueError(f"cut short after {key.decode(errors='replace')!r}")
    return key.decode().strip()


def _read_binary_integers(file: BinaryIO, key: str) -> NDArray[np.int32]:
    if file.read(2) != b"B\4":
        raise ValueError(f"{key}: not a vector of 32-bit integers")
    count = int.from_bytes(file.read(4), "little")
    content = file.read(_INTEGER.itemsize * count)
    if len(content) < _INTEGER.itemsize * count:
        raise ValueError(f"{key}: cut short")
    return np.frombuffer(content, dtype=_INTEGER)["value"].copy()
