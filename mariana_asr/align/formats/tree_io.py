"""Kaldi's decision trees (``tree`` files): which pdf a phone in its context has in each state."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mariana_asr.align.formats.kaldi_stream import (
    BINARY_HEADER,
    KaldiSource,
    encode_integer,
    encode_integers,
    encode_token,
    expect,
    open_source,
)
from mariana_asr.files import atomic_file
from mariana_asr.kaldi import kaldi_hmm_gmm

ContextDependency = Any
"""kaldi_hmm_gmm.ContextDependency; the wheel has no types."""


def read_tree(path: str | Path) -> ContextDependency:
    """Read a tree, binary or text, as ``kaldi_hmm_gmm.ContextDependency``.

    Raises:
        FormatError: The file is missing, damaged or no tree.
    """
    source = open_source(path)
    # The whole tree is parsed before Kaldi's reader sees it: that one ends the process on some
    # kinds of damage.
    content = _copy_context_dependency(source)
    return tree_from_bytes(content)


def write_tree(path: str | Path, tree: ContextDependency) -> None:
    """Write a tree in Kaldi's binary form, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(BINARY_HEADER + tree_to_bytes(tree))


def tree_from_bytes(content: bytes) -> ContextDependency:
    r"""Make a tree from Kaldi's binary form without its ``\0B``; ``content`` must be whole."""
    tree = kaldi_hmm_gmm.ContextDependency.__new__(kaldi_hmm_gmm.ContextDependency)
    tree.__setstate__((np.frombuffer(content, dtype=np.int8).tolist(),))
    return tree


def tree_to_bytes(tree: ContextDependency) -> bytes:
    r"""Kaldi's binary form of a tree, without its ``\0B``."""
    return np.array(tree.__getstate__()[0], dtype=np.int8).tobytes()


def _copy_context_dependency(source: KaldiSource) -> bytes:
    """Parse a tree and give it back in binary form (Kaldi: ContextDependency::Read)."""
    expect(source, "ContextDependency")
    width, position = source.integer(), source.integer()
    if not 0 <= position < width:
        source.fail(f"central position {position} lies outside a context of {width} phones")
    expect(source, "ToPdf")
    parts = [
        encode_token("ContextDependency"),
        encode_integer(width),
        encode_integer(position),
        encode_token("ToPdf"),
    ]
    _copy_event_map(source, parts, width)
    expect(source, "EndContextDependency")
    parts.append(encode_token("EndContextDependency"))
    return b"".join(parts)


def _copy_event_map(source: KaldiSource, parts: list[bytes], width: int) -> None:
    """Copy one EventMap: CE is a leaf, SE asks whether a key is in a set, TE looks a key up.

    Nested maps are kept on a stack of our own, since trees can be deeper than Python's.
    """
    # What is still to come, innermost last: "map", "map or NULL" or a closing token.
    expected = ["map"]
    while expected:
        item = expected.pop()
        if item in (")", "}"):
            parts.append(encode_token(expect(source, item)))
            continue
        kind = expect(source, "CE", "SE", "TE", *(["NULL"] if item == "map or NULL" else []))
        parts.append(encode_token(kind))
        if kind == "CE":
            pdf = source.integer()
            if pdf < 0:
                source.fail(f"a negative pdf id, {pdf}")
            parts.append(encode_integer(pdf))
        elif kind in ("SE", "TE"):
            key = source.integer()
            if not -1 <= key < width:
                source.fail(f"question about position {key} of a context of {width} phones")
            parts.append(encode_integer(key))
            if kind == "SE":
                values = source.integers()
                if any(a >= b for a, b in pairwise(values)):
                    source.fail("the values of a question are not in rising order")
                parts.append(encode_integers(values))
                parts.append(encode_token(expect(source, "{")))
                expected += ["}", "map", "map"]
            else:
                size = source.integer(unsigned=True)
                if not 0 <= size <= 1 << 24:
                    source.fail(f"a table of {size} entries")
                parts.append(encode_integer(size, unsigned=True))
                parts.append(encode_token(expect(source, "(")))
                expected += [")", *["map or NULL"] * size]
