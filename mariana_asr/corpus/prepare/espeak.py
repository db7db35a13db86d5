"""Speech from eSpeak NG, whose library and data come as the wheel espeakng-loader.

The library keeps state between utterances that not even its own restart resets (the phase of
its oscillators, for one), and seeds its noise from the clock. So ``speak`` runs it in a fresh
process and sets the seed: equal scripts then give equal samples, on any number of cores.
"""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mariana_asr.errors import DataError, MissingPackageError, StageError

# Values of enums in espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POSITION_CHARACTER = 1
_CHARACTERS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4

_SYNTH_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Utterance:
    """A text to speak.

    Attributes:
        text: What to say.
        words_per_minute: Speaking rate, 80 to 450; 175 is the library's normal one.
        pitch: Base pitch, 0 to 100; 50 is the voice's own.
        pitch_range: Liveliness of the pitch, 0 to 100; 50 is the voice's own.
    """

    text: str
    words_per_minute: int = 175
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True)
class VoiceScript:
    """A voice, such as ``en-us+f2``, and all that it is to say, in this order."""

    voice: str
    utterances: tuple[Utterance, ...]


def check_voices(voices: Iterable[str]) -> None:
    """Check that the variants of some voices exist; eSpeak itself ignores one it does not know.

    Raises:
        DataError: A voice's variant (what follows ``+``) is not there.
        MissingPackageError: espeakng-loader is not installed.
    """
    variants = {file.name for file in (_data_path() / "voices" / "!v").iterdir()}
    for voice in voices:
        variant = voice.partition("+")[2]
        if variant and variant not in variants:
            raise DataError(
                f"eSpeak NG has no voice variant {variant!r}",
                where=voice,
                remedy=f"There are: {', '.join(sorted(variants))}",
            )


def speak(scripts: Sequence[VoiceScript]) -> Iterator[tuple[list[NDArray[np.int16]], int]]:
    """Speak scripts, one after the other in one new process.

    Yields:
        For each script in order: the samples of its utterances, each of shape (samples,), and
        their rate in Hz (22050). They are the same each time for the same scripts.

    Raises:
        DataError: eSpeak has no such voice, or fails to speak.
        StageError: The library crashed.
        MissingPackageError: espeakng-loader is not installed.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(_speak_script, scripts)
        except BrokenProcessPool as error:
            raise StageError("eSpeak NG's library crashed", remedy="Try again") from error


def _speak_script(script: VoiceScript) -> tuple[list[NDArray[np.int16]], int]:
    library, rate = _started_library()
    if library.espeak_SetVoiceByName(script.voice.encode()) != 0:
        raise DataError("eSpeak NG has no such voice", where=script.voice)
    spoken = []
    for number, utterance in enumerate(script.utterances):
        _received.clear()
        library.espeak_ng_SetRandSeed(number)
        library.espeak_SetParameter(_RATE, utterance.words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
        library.espeak_SetParameter(_RANGE, utterance.pitch_range, 0)
        text = utterance.text.encode()
        status = library.espeak_Synth(
            text, len(text) + 1, 0, _POSITION_CHARACTER, 0, _CHARACTERS_UTF8, None, None
        )
        if status != 0 or not _received:
            raise DataError(f"eSpeak NG fails to say {utterance.text!r}", where=script.voice)
        spoken.append(np.concatenate(_received))
    return spoken, rate


_received: list[NDArray[np.int16]] = []


def _receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int | None) -> int:
    if samples and count > 0:
        _received.append(np.ctypeslib.as_array(samples, shape=(count,)).astype(np.int16))
    return 0


# Kept for the life of the process, as C code goes on calling it.
_CALLBACK = _SYNTH_CALLBACK(_receive)


@cache
def _started_library() -> tuple[ctypes.CDLL, int]:
    """Load and start the library; return it and its sample rate."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Initialize.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
    ]
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    # The library appends its folder's name, espeak-ng-data, itself.
    rate = library.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(_data_path().parent).encode(), _INITIALIZE_DONT_EXIT
    )
    if rate <= 0:
        raise DataError("eSpeak NG does not start", where=_data_path())
    library.espeak_SetSynthCallback(_CALLBACK)
    return library, rate


def _data_path() -> Path:
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingPackageError(
            "the package espeakng-loader is not installed", remedy="pip install espeakng-loader"
        ) from error
    return Path(espeakng_loader.get_data_path())
