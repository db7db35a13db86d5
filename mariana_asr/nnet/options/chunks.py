"""What the options of networks that are trained on chunks of frames have in common."""

from typing import Literal

from pydantic import Field

from mariana_asr.nnet.options.network import NetworkOptions


class ChunkNetworkOptions(NetworkOptions):
    """The base of options of networks that score several frames at once in training.

    The frames of a chunk share most of their context, so that a network computes most of its
    hidden layers once for all of them; but they are less varied than single frames.
    """

    chunk_frames: int = Field(default=16, ge=1)
    """Frames that are scored together in training. More make a step cheaper, as its chunks share
    their context, and its gradient noisier, as neighbouring frames are alike."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of hidden units silenced in training, after each layer."""


class ConvolutionOverTimeOptions(ChunkNetworkOptions):
    """The base of options of networks that are convolutions over time."""

    normalisation: Literal["batch", "layer", "none"] = "batch"
    """Normalise the output of each non-linearity, as Kaldi's nnet3 does: each unit over the
    minibatch, or the units of a layer over each other."""
    dropout_over_time: bool = False
    """Silence the same units in all frames of a chunk, as Kaldi's dropout-per-dim does; else each
    frame has its own."""
