"""How a feature value lies in the files of a frame store."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

StorageName = Literal["float32", "float16", "bfloat16"]

STORAGE_TYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}
"""NumPy's type of each. It has no bfloat16, which is the upper half of a float32's bits."""


def to_storage(values: NDArray[np.floating], storage: str) -> NDArray[Any]:
    """Round values, to nearest and ties to even, to what is stored.

    Those that are too large become infinite; NaN stays NaN.
    """
    with np.errstate(over="ignore"):
        if storage != "bfloat16":
            return values.astype(STORAGE_TYPES[storage])
        single = values.astype("<f4")
    bits = single.view("<u4")
    upper = (bits >> 16) & 1
    rounded = ((bits + (0x7FFF + upper)) >> 16).astype("<u2")
    # Rounding may carry a NaN's bits over into the sign: keep them, with a bit that makes it quiet.
    return np.where(np.isnan(single), (bits >> 16).astype("<u2") | 0x40, rounded)


def from_storage(stored: NDArray[Any], storage: str) -> NDArray[np.float32]:
    """The values, as float32, that :func:`to_storage` has rounded."""
    if storage != "bfloat16":
        return stored.astype(np.float32)
    return (stored.astype("<u4") << 16).view("<f4").astype(np.float32, copy=False)
