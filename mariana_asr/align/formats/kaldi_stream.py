r"""Reading and writing the tokens, numbers, vectors and matrices that Kaldi's objects consist of.

A Kaldi object file starts with ``\0B`` when it is binary; otherwise it is text. Both kinds of
stream here offer the same calls, so that an object's reader is written once
(Kaldi: ``base/io-funcs.h``, ``matrix/kaldi-matrix.cc``).
"""

import struct
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import FormatError

BINARY_HEADER = b"\0B"


class KaldiSource(Protocol):
    """A stream of the pieces of one Kaldi object; every call raises FormatError on a mismatch."""

    def token(self) -> str:
        """Take the next token."""
        ...

    def integer(self, *, unsigned: bool = False) -> int:
        """Take a 32-bit integer."""
        ...

    def number(self) -> float:
        """Take a floating point number."""
        ...

    def integers(self) -> list[int]:
        """Take a vector of 32-bit integers."""
        ...

    def vector(self) -> NDArray[np.float32]:
        """Take a vector, shape (n,)."""
        ...

    def matrix(self) -> NDArray[np.float32]:
        """Take a matrix, shape (rows, columns)."""
        ...

    def fail(self, what: str) -> NoReturn:
        """Raise FormatError with the file and the place in it."""
        ...


def open_source(path: str | Path) -> "BinarySource | TextSource":
    """Open a file that holds a Kaldi object, binary or text.

    Raises:
        FormatError: The file is missing, or neither binary nor UTF-8 text.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FormatError("no such file", where=path) from error
    except IsADirectoryError as error:
        raise FormatError("is a directory, not a file", where=path) from error
    if content.startswith(BINARY_HEADER):
        return BinarySource(content, path)
    try:
        return TextSource(content.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        raise FormatError(
            "neither a binary Kaldi file (it does not start with \\0B) nor text", where=path
        ) from error


def expect(source: KaldiSource, *allowed: str) -> str:
    """Take a token that must be one of ``allowed``, and return it."""
    token = source.token()
    if token not in allowed:
        source.fail(f"expected {' or '.join(allowed)}, found {token[:40]!r}")
    return token


class BinarySource:
    """The pieces of a binary object, little-endian."""

    def __init__(self, content: bytes, path: str | Path) -> None:
        self._content = content
        self._path = path
        self._position = len(BINARY_HEADER)

    def fail(self, what: str) -> NoReturn:
        """Raise FormatError with the file and the byte offset."""
        raise FormatError(f"{what}, at byte {self._position}", where=self._path)

    def token(self) -> str:
        """Take the bytes up to the next space."""
        end = self._content.find(b" ", self._position, self._position + 256)
        if end < 0:
            self.fail("cut short" if self._at_end(256) else "expected a token, found other data")
        raw = self._content[self._position : end]
        if not raw.isascii() or not raw:
            self.fail("expected a token, found other data")
        self._position = end + 1
        return raw.decode("ascii")

    def integer(self, *, unsigned: bool = False) -> int:
        """Take a size byte (4; Kaldi marks unsigned types by -4) and the integer."""
        raw = self._take(5)
        size = -4 if unsigned else 4
        if struct.unpack_from("<b", raw)[0] != size:
            self._position -= 5
            self.fail("expected a 32-bit integer, found other data")
        value: int = struct.unpack_from("<I" if unsigned else "<i", raw, 1)[0]
        return value

    def number(self) -> float:
        """Take a size byte (4 or 8) and the floating point number."""
        size = self._take(1)[0]
        if size not in (4, 8):
            self._position -= 1
            self.fail("expected a floating point number, found other data")
        value: float = struct.unpack("<f" if size == 4 else "<d", self._take(size))[0]
        return value

    def integers(self) -> list[int]:
        """Take the size of an integer (4), the count without a size byte, and the integers."""
        if self._take(1) != b"\4":
            self._position -= 1
            self.fail("expected a vector of 32-bit integers, found other data")
        return np.frombuffer(self._take(4 * self._count()), dtype="<i4").tolist()

    def vector(self) -> NDArray[np.float32]:
        """Take a vector of single (FV) or double (DV) precision."""
        dtype = "<f4" if expect(self, "FV", "DV") == "FV" else "<f8"
        count = self._sized_count()
        return self._array(count, dtype)

    def matrix(self) -> NDArray[np.float32]:
        """Take a matrix of single (FM) or double (DM) precision."""
        dtype = "<f4" if expect(self, "FM", "DM") == "FM" else "<f8"
        rows, columns = self._sized_count(), self._sized_count()
        return self._array(rows * columns, dtype).reshape(rows, columns)

    def _array(self, count: int, dtype: str) -> NDArray[np.float32]:
        raw = self._take(count * np.dtype(dtype).itemsize)
        return np.frombuffer(raw, dtype=dtype).astype(np.float32)

    def _sized_count(self) -> int:
        count = self.integer()
        if count < 0:
            self.fail(f"a negative size, {count}")
        return count

    def _count(self) -> int:
        count: int = struct.unpack("<i", self._take(4))[0]
        if count < 0:
            self.fail(f"a negative size, {count}")
        return count

    def _at_end(self, size: int) -> bool:
        return self._position + size > len(self._content)

    def _take(self, size: int) -> bytes:
        if self._at_end(size):
            self.fail(f"cut short: {size} more bytes expected")
        raw = self._content[self._position : self._position + size]
        self._position += size
        return raw


class TextSource:
    """The pieces of a text object: words parted by white space."""

    def __init__(self, content: str, path: str | Path) -> None:
        self._words = content.split()
        self._path = path
        self._position = 0

    def fail(self, what: str) -> NoReturn:
        """Raise FormatError with the file and the number of the word."""
        raise FormatError(f"{what}, at word {self._position + 1}", where=self._path)

    def token(self) -> str:
        """Take the next word."""
        if self._position >= len(self._words):
            self.fail("cut short: one more token expected")
        self._position += 1
        return self._words[self._position - 1]

    def integer(self, *, unsigned: bool = False) -> int:
        """Take an integer."""
        word = self.token()
        try:
            return int(word)
        except ValueError:
            self._position -= 1
            self.fail(f"expected an integer, found {word[:40]!r}")

    def number(self) -> float:
        """Take a floating point number."""
        word = self.token()
        try:
            return float(word)
        except ValueError:
            self._position -= 1
            self.fail(f"expected a number, found {word[:40]!r}")

    def integers(self) -> list[int]:
        """Take ``[ 1 2 3 ]``."""
        words = self._bracketed()
        try:
            return [int(word) for word in words]
        except ValueError:
            self.fail("expected a vector of integers")

    def vector(self) -> NDArray[np.float32]:
        """Take ``[ 0.1 0.2 ]``."""
        words = self._bracketed()
        try:
            return np.array([float(word) for word in words], dtype=np.float32)
        except ValueError:
            self.fail("expected a vector of numbers")

    def matrix(self) -> NDArray[np.float32]:
        r"""Take ``[\n 0.1 0.2\n 0.3 0.4 ]``.

        Line ends are gone, so a matrix comes out flat, shape (1, n): whoever reads it knows its
        number of rows or columns.
        """
        return self.vector().reshape(1, -1)

    def _bracketed(self) -> list[str]:
        expect(self, "[")
        try:
            end = self._words.index("]", self._position)
        except ValueError:
            self.fail("no closing bracket")
        words = self._words[self._position : end]
        self._position = end + 1
        return words


def encode_token(token: str) -> bytes:
    """A token in binary form."""
    return token.encode("ascii") + b" "


def encode_integer(value: int, *, unsigned: bool = False) -> bytes:
    """A 32-bit integer in binary form."""
    return struct.pack("<bI", -4, value) if unsigned else struct.pack("<bi", 4, value)


def encode_number(value: float) -> bytes:
    """A single-precision number in binary form."""
    return struct.pack("<bf", 4, value)


def encode_integers(values: list[int]) -> bytes:
    """A vector of 32-bit integers in binary form."""
    return struct.pack("<bi", 4, len(values)) + np.array(values, dtype="<i4").tobytes()


def encode_vector(values: NDArray[np.floating]) -> bytes:
    """A single-precision vector in binary form."""
    return b"FV " + encode_integer(len(values)) + values.astype("<f4").tobytes()


def encode_matrix(values: NDArray[np.floating]) -> bytes:
    """A single-precision matrix in binary form."""
    rows, columns = values.shape
    return b"FM " + encode_integer(rows) + encode_integer(columns) + values.astype("<f4").tobytes()
