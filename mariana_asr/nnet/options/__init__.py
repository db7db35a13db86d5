"""Options of the networks; importing them does not load torch."""

from mariana_asr.nnet.options.dnn import DnnOptions
from mariana_asr.nnet.options.network import NetworkOptions

__all__ = ["DnnOptions", "NetworkOptions"]
