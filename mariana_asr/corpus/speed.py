"""Speed perturbation: copies of utterances that are read faster or slower than recorded.

Source: Ko, Peddinti, Povey and Khudanpur, "Audio augmentation for speech recognition",
Interspeech 2015; names as Kaldi's utils/data/perturb_data_dir_speed.sh gives them.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.corpus.datadir import SPEED_FORM, DataDir, Segment, is_speed
from mariana_asr.corpus.resampling import resample
from mariana_asr.errors import DataError, RecipeError, summarise

AS_RECORDED = 1.0
"""The speed that changes nothing."""


def change_speed(samples: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """Play samples faster or slower at the same sample rate, as sox's ``speed`` does.

    Tempo and pitch change together, and the spectral envelope with them: a copy sounds like
    another speaker.

    Args:
        samples: Audio, shape (N,).
        speed: Factor that it is sped up by (``is_speed``); a tone of f Hz becomes one of
            ``speed * f``.

    Returns:
        Shape (ceil(N / speed),).
    """
    # Taken for audio of a rate ``speed`` times as high, and brought back to the true one.
    ratio = Fraction(round(speed * 100), 100)
    return resample(samples, ratio.numerator, ratio.denominator)


def copy_name(name: str, speed: float) -> str:
    """Id of an utterance, speaker or recording at another speed: ``sp0.9-NAME``."""
    return name if speed == AS_RECORDED else f"{_prefix(speed)}{name}"


def original_name(name: str, speed: float) -> str:
    """The id that :func:`copy_name` was given."""
    return name if speed == AS_RECORDED else name.removeprefix(_prefix(speed))


def _prefix(speed: float) -> str:
    return f"sp{speed:g}-"


def perturbed_copies(data: DataDir, speeds: Sequence[float], path: str | Path) -> DataDir:
    """Add copies of all utterances at other speeds.

    No audio is written: a copy has the recording of its original, and ``utt2speed`` says how fast
    it is to be read. A speaker at another speed is another speaker. Segments keep their times,
    which are the recordings'.

    Args:
        data: A data directory with audio, its utterances as recorded.
        speeds: Factors of speed (``is_speed``); 1 stands for the utterances themselves, which
            are left out without it.
        path: Where the new data directory is to be written.

    Returns:
        The data directory, without features and CMVN statistics; not written yet.

    Raises:
        RecipeError: A speed is not one, or comes twice.
        DataError: There is no audio, the utterances are copies already, or an id comes twice.
    """
    if wrong := [speed for speed in speeds if not is_speed(speed)]:
        raise RecipeError(f"speed {wrong[0]:g} given, but it should be {SPEED_FORM}")
    if not speeds or len(set(speeds)) < len(speeds):
        raise RecipeError(f"speeds given: {list(speeds)}; expected one or more different ones")
    if not data.wav:
        raise DataError(
            "no wav.scp: without audio there are no copies at other speeds", where=data.path
        )
    if any(speed != AS_RECORDED for speed in data.speeds.values()):
        raise DataError("its utterances are copies at other speeds already", where=data.path)
    every = [(utterance, speed) for speed in speeds for utterance in data.utterances]
    copies = {copy_name(u, s) for u, s in every if s != AS_RECORDED}
    if clash := sorted(copies & data.utt2spk.keys()):
        raise DataError(
            f"utterances have the ids that copies are to get: {summarise(clash)}", where=data.path
        )
    return replace(
        data,
        path=Path(path),
        utt2spk={copy_name(u, s): copy_name(data.utt2spk[u], s) for u, s in every},
        text={copy_name(u, s): data.text[u] for u, s in every if u in data.text},
        wav=data.wav
        if data.segments is not None
        else {copy_name(u, s): data.wav[u] for u, s in every if u in data.wav},
        segments=None if data.segments is None else _copied_segments(data.segments, every),
        feats=None,
        cmvn=None,
        spk2gender={
            copy_name(speaker, s): gender
            for s in speeds
            for speaker, gender in data.spk2gender.items()
        },
        speeds={copy_name(u, s): s for u, s in every},
    )


def _copied_segments(
    segments: dict[str, Segment], every: Sequence[tuple[str, float]]
) -> dict[str, Segment]:
    return {copy_name(u, s): segments[u] for u, s in every if u in segments}
