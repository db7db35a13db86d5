"""From the samples of one utterance to its features."""

import zlib

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import DataError
from mariana_asr.features.fbank import FbankOptions, compute_fbank
from mariana_asr.features.frames import FrameOptions
from mariana_asr.features.mfcc import MfccOptions, compute_mfcc
from mariana_asr.features.pitch import compute_pitch

_LENGTH_TOLERANCE = 2
"""Frames by which pitch features may differ in number, as in Kaldi's recipes."""


def compute_features(
    samples: NDArray[np.float32],
    rate: int,
    options: MfccOptions | FbankOptions,
    *,
    utterance: str = "",
) -> NDArray[np.float32]:
    """Compute the features of one utterance as Kaldi does.

    Args:
        samples: Mono audio, shape (N,), in the range of 16-bit integers.
        rate: Its sample rate in Hz.
        options: Kind of features and their options, ``pitch`` among them.
        utterance: Its id, which seeds noise: the same utterance always gets the same.

    Returns:
        Features of shape (T, D); T is 0 if the audio is shorter than one frame.

    Raises:
        DataError: The rate differs from ``sample_frequency`` and resampling was not allowed, or
            the samples are not finite; or the frames of the pitch features are not as many.
    """
    samples = np.asarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise DataError("the audio has NaN or infinite samples", where=utterance or None)
    samples = _at_sample_frequency(samples, rate, options, utterance)
    clean, seed = samples, zlib.crc32(utterance.encode())
    if options.dither:
        # Kaldi draws the noise anew for every frame. Drawn once for the signal, each frame sees
        # noise of the same distribution, and what overlaps is the same in both frames.
        noise = np.random.default_rng(seed)
        samples = samples + np.float32(options.dither) * noise.standard_normal(
            len(samples), dtype=np.float32
        )
    if isinstance(options, MfccOptions):
        feats = compute_mfcc(samples, options)
    else:
        feats = compute_fbank(samples, options)
    if options.pitch is not None:
        # Kaldi takes the pitch of samples without dither.
        noise = np.random.default_rng([seed, 1])
        feats = _paste(feats, compute_pitch(clean, options.pitch, options, noise=noise), utterance)
    return feats


def _paste(
    feats: NDArray[np.float32], pitch: NDArray[np.float32], utterance: str
) -> NDArray[np.float32]:
    """Join both frame by frame, as Kaldi's paste-feats does; the longer one loses its end."""
    if abs(len(feats) - len(pitch)) > _LENGTH_TOLERANCE:
        raise DataError(
            f"{len(feats)} frames, but {len(pitch)} frames of pitch: they may differ by "
            f"{_LENGTH_TOLERANCE}",
            where=utterance or None,
            remedy="frame_length and frame_shift should be whole numbers of samples, also at "
            "pitch.resample_frequency",
        )
    total = min(len(feats), len(pitch))
    return np.concatenate([feats[:total], pitch[:total]], axis=1)


def _at_sample_frequency(
    samples: NDArray[np.float32], rate: int, options: FrameOptions, utterance: str
) -> NDArray[np.float32]:
    """Resample if the rates differ and the options allow it.

    torchaudio's defaults (a windowed sinc of 6 zero crossings, cut off at 0.99 of the lower
    rate's half) are those of Kaldi's ResampleWaveform.
    """
    target = options.sample_frequency
    if rate == target:
        return samples
    allowed = options.allow_downsample if rate > target else options.allow_upsample
    if not allowed:
        option = "allow_downsample" if rate > target else "allow_upsample"
        raise DataError(
            f"the audio has {rate} Hz, but sample_frequency is {target:g} Hz",
            where=utterance or None,
            remedy=f"Set sample_frequency to the audio's rate, or {option} to true",
        )
    if target != int(target):
        raise DataError(
            f"cannot resample to {target} Hz",
            where=utterance or None,
            remedy="Set sample_frequency to a whole number of Hz",
        )
    import torch  # heavy, and needed only here

    from mariana_asr.audio_backend import torchaudio

    resampled = torchaudio.functional.resample(torch.from_numpy(samples), rate, int(target))
    return resampled.numpy()
