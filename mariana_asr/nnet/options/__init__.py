"""Options of the networks; importing them does not load torch."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mariana_asr.nnet.options.cnn import BandedFramesOptions, CnnOptions, CnnTdnnfOptions
from mariana_asr.nnet.options.custom import CustomOptions
from mariana_asr.nnet.options.dnn import DnnOptions
from mariana_asr.nnet.options.lstm import LstmOptions
from mariana_asr.nnet.options.network import NetworkOptions
from mariana_asr.nnet.options.tdnn import TdnnfOptions, TdnnOptions

__all__ = [
    "BandedFramesOptions",
    "CnnOptions",
    "CnnTdnnfOptions",
    "CustomOptions",
    "DnnOptions",
    "LstmOptions",
    "ModelOptions",
    "NetworkOptions",
    "TdnnOptions",
    "TdnnfOptions",
]


def _with_type(value: Any) -> Any:
    """Fill in a kind that was left out: ``custom`` where a class is named, else ``dnn``."""
    if not isinstance(value, Mapping):
        return value
    return {"type": "custom" if "class" in value else "dnn", **value}


ModelOptions = Annotated[
    DnnOptions
    | TdnnOptions
    | TdnnfOptions
    | CnnOptions
    | CnnTdnnfOptions
    | LstmOptions
    | CustomOptions,
    Field(discriminator="type"),
    BeforeValidator(_with_type),
]
"""Options of any kind of network; ``type`` says which. ``nnet/build.py`` says what they build."""
