"""Changing the sample rate of audio."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FILTER: dict[str, Any] = {
    "resampling_method": "sinc_interp_kaiser",
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "beta": 14.769656459379492,
}
"""resampy's "kaiser_best", as torchaudio's documentation gives it: steep, as sox's filter is.
torchaudio's own default is short and would fold what comes above half the rate back below it."""


def resample(samples: NDArray[np.float32], old: int, new: int) -> NDArray[np.float32]:
    """Resample audio from one rate to another.

    Args:
        samples: Audio, shape (N,).
        old: Its rate; only the ratio of both counts.
        new: The rate wanted.

    Returns:
        Shape (ceil(N * new / old),); ``samples`` themselves if the rates are equal.
    """
    if old == new:
        return samples
    import torch  # heavy, and needed only here

    from mariana_asr.audio_backend import torchaudio

    # With another number of threads its sums are rounded otherwise: here as in a pool's processes.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resampled = torchaudio.functional.resample(torch.tensor(samples), old, new, **_FILTER)
    finally:
        torch.set_num_threads(threads)
    result: NDArray[np.float32] = resampled.numpy()
    return result
