"""The one door to torchaudio, which does not import beside every build of torch.

torchaudio's wheel on PyPI is built for CUDA: beside a CPU-only torch its compiled extension
fails to load (an OSError for want of libc10_cuda.so) and takes the whole import down. All that
the extension holds is rnnt_loss and forced_align, which nothing here uses. So on that error,
and on no other, torchaudio is imported again with the extension marked as absent.
"""

import importlib
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mariana_asr.errors import MissingPackageError

logger = logging.getLogger(__name__)

__all__ = ["torchaudio"]


def _without_alignment(function: Callable[..., Any]) -> Callable[..., Any]:
    """Stand in for torchaudio's decorator of what needs the compiled extension."""

    def fail(*_: Any, **__: Any) -> None:
        raise MissingPackageError(
            f"torchaudio's {function.__name__} needs its compiled extension, "
            "which does not load beside this torch",
            remedy="Install torch and torchaudio built for the same device",
        )

    return fail


def _extension_stub() -> ModuleType:
    stub = ModuleType("torchaudio._extension")
    vars(stub).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        fail_if_no_align=_without_alignment,
    )
    return stub


def _import_torchaudio() -> ModuleType:
    """Import torchaudio, without its compiled extension if that does not load.

    Raises:
        MissingPackageError: torchaudio is not installed, or fails for another reason.
    """
    try:
        try:
            return importlib.import_module("torchaudio")
        except OSError as error:
            logger.debug("torchaudio without its compiled extension: %s", error)
            for name in [n for n in sys.modules if n.partition(".")[0] == "torchaudio"]:
                del sys.modules[name]
            sys.modules["torchaudio._extension"] = _extension_stub()
            return importlib.import_module("torchaudio")
    except (ImportError, OSError) as error:
        raise MissingPackageError(
            f"torchaudio cannot be imported: {error}",
            remedy="pip install mariana-asr, or a torchaudio that fits the installed torch",
        ) from error


torchaudio = _import_torchaudio()
