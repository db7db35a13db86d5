"""Options of recurrent networks."""

from typing import Literal, Self

from pydantic import Field, model_validator

from mariana_asr.nnet.options.chunks import ChunkNetworkOptions

DEFAULT_RUN_UP = 20
"""Frames before a chunk, and after it for a bidirectional network."""

DEFAULT_DELAY = 5
"""Kaldi's label-delay."""


class LstmOptions(ChunkNetworkOptions):
    """Layers of long short-term memory, trained on chunks of frames.

    Hochreiter and Schmidhuber, "Long short-term memory" (1997); Graves et al., "Hybrid speech
    recognition with deep bidirectional LSTM" (2013); the projection is that of Sak et al., "Long
    short-term memory based recurrent neural network architectures for large vocabulary speech
    recognition" (2014). Each chunk begins with an empty memory, ``left_context`` frames before the
    first one that is scored, in training as in recognition.
    """

    type: Literal["lstm"] = "lstm"
    """Kind of network."""
    hidden_layers: int = Field(default=2, ge=1)
    """Number of recurrent layers."""
    cell_dim: int = Field(default=256, ge=1)
    """Memory cells of each layer, and of each direction."""
    projection_dim: int = Field(default=0, ge=0)
    """Values that a layer gives, and goes on with, in the place of its cells' outputs; 0 for no
    projection."""
    bidirectional: bool = True
    """Run over the frames in both directions."""
    chunk_frames: int = Field(default=40, ge=1)
    """Frames that are scored together, in training and in recognition. More make both cheaper,
    as fewer frames are spent on run-up, and a step's gradient noisier."""
    left_context: int = Field(default=DEFAULT_RUN_UP, ge=0)
    """Frames before a chunk with which the memory is filled."""
    right_context: int | None = Field(default=None, ge=0)
    """Frames after a chunk. If bidirectional, those with which the other direction's memory is
    filled, by default 20; else how many frames later than its own a frame is scored, by default
    5."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Share of outputs silenced in training, after each layer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.projection_dim >= self.cell_dim:
            raise ValueError(
                f"projection_dim ({self.projection_dim}) is to be less than cell_dim "
                f"({self.cell_dim})"
            )
        return self

    @property
    def right_frames(self) -> int:
        """Frames after a chunk."""
        if self.right_context is not None:
            return self.right_context
        return DEFAULT_RUN_UP if self.bidirectional else DEFAULT_DELAY
