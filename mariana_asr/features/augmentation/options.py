"""What a recipe can say of augmentation."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mariana_asr.corpus.datadir import SPEED_FORM, is_speed
from mariana_asr.corpus.speed import AS_RECORDED
from mariana_asr.options import Options

NoiseKind = Literal["white", "pink", "babble", "recordings"]

Range = tuple[float, float]
"""Least and greatest value; what is drawn is uniform between them."""


class NoiseOptions(Options):
    """Noise that is added to utterances."""

    kinds: tuple[NoiseKind, ...] = Field(default=("pink", "babble"), min_length=1)
    """Kinds of noise; an utterance that gets noise gets one of them at random. ``white`` and
    ``pink`` (power falling as 1/f) are made, ``babble`` is several other speakers of the training
    set at once, ``recordings`` are those in ``folder``."""
    folder: Path | None = None
    """Folder of recordings of noise, searched with all folders below it; for the kind
    ``recordings``."""
    snr_db: Range = (5.0, 20.0)
    """Least and greatest signal-to-noise ratio in dB: powers over the whole utterance."""
    voices: tuple[int, int] = (3, 7)
    """Least and greatest number of voices in babble (Kaldi's recipes with MUSAN: 3 to 7)."""
    probability: float = Field(default=0.5, gt=0, le=1)
    """How likely it is that an utterance gets noise."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_order("snr_db", self.snr_db)
        _check_order("voices", self.voices)
        if self.voices[0] < 1:
            raise ValueError(f"voices: {self.voices[0]} given, but babble needs one at least")
        if "recordings" in self.kinds and self.folder is None:
            raise ValueError("the kind recordings needs a folder of them: set folder")
        if self.folder is not None and "recordings" not in self.kinds:
            raise ValueError("a folder is only used with the kind recordings: add it to kinds")
        return self


class ReverberationOptions(Options):
    """Rooms that utterances are moved to.

    Impulse responses are those in ``folder``, or simulated: the direct sound, and Gaussian noise
    that decays exponentially after it (Polack, 1988).
    """

    folder: Path | None = None
    """Folder of recorded impulse responses, searched with all folders below it; without one,
    rooms are simulated."""
    rt60: Range = (0.1, 0.6)
    """Least and greatest seconds in which the sound in a simulated room falls by 60 dB."""
    direct_to_reverberant_db: Range = (0.0, 15.0)
    """Least and greatest ratio in dB of the direct sound to all that follows it, in a simulated
    room: small far from the microphone."""
    probability: float = Field(default=0.5, gt=0, le=1)
    """How likely it is that an utterance is moved to a room."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_order("rt60", self.rt60)
        _check_order("direct_to_reverberant_db", self.direct_to_reverberant_db)
        if self.rt60[0] < _LEAST_RT60:
            raise ValueError(f"rt60: {self.rt60[0]:g} s given, less than {_LEAST_RT60} s")
        return self


_LEAST_RT60 = 0.02


class AugmentationOptions(Options):
    """How training audio is multiplied and distorted; no audio is written.

    Copies at other speeds are aligned by the GMMs, whose own training they do not enter. Rooms,
    noise and volume are for the network's features only, whose labels are those of the clean
    utterance.
    """

    speeds: tuple[float, ...] = Field(default=(0.9, 1.0, 1.1), min_length=1)
    """Factors of speed; each utterance is trained on at all of them. 1.0 must be among them."""
    volume: Range | None = None
    """Least and greatest factor that an utterance's samples are multiplied by (Kaldi: 0.125 and
    2); without it volumes stay as they are."""
    noise: NoiseOptions | None = None
    """Noise; `{}` takes the defaults."""
    reverberation: ReverberationOptions | None = None
    """Rooms; `{}` takes the defaults."""
    copies: int = Field(default=1, ge=1)
    """How many times rooms, noise and volume are drawn anew for each utterance; the network is
    trained on all of these copies."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything that is drawn."""

    @field_validator("speeds")
    @classmethod
    def _are_speeds(cls, speeds: tuple[float, ...]) -> tuple[float, ...]:
        if not all(map(is_speed, speeds)):
            raise ValueError(f"should be {SPEED_FORM}, each of them")
        if len(set(speeds)) < len(speeds) or AS_RECORDED not in speeds:
            raise ValueError("should be different, and 1.0 (as recorded) one of them")
        return tuple(sorted(speeds))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.volume is not None:
            _check_order("volume", self.volume)
            if self.volume[0] <= 0:
                raise ValueError(f"volume: {self.volume[0]:g} given, but it should be above 0")
        if self.copies > 1 and not self.distorts:
            raise ValueError("copies would all be alike: set noise, reverberation or volume")
        return self

    @property
    def perturbs_speed(self) -> bool:
        """Whether there are copies at other speeds."""
        return self.speeds != (AS_RECORDED,)

    @property
    def distorts(self) -> bool:
        """Whether samples are changed in another way than by their speed."""
        return any(part is not None for part in (self.volume, self.noise, self.reverberation))


def _check_order(name: str, limits: tuple[float, float]) -> None:
    if limits[0] > limits[1]:
        raise ValueError(f"{name}: {limits[0]:g} is more than {limits[1]:g}")
