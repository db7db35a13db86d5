"""Options of the fully connected network."""

from typing import Literal

from pydantic import Field

from mariana_asr.nnet.options.network import NetworkOptions


class DnnOptions(NetworkOptions):
    """A fully connected network on a window of frames.

    The defaults did best on AN4's dev speakers, among a few that were tried (recipes/an4). A
    network as Kaldi's nnet1 trains has ``activation: sigmoid``, ``batch_norm: false``,
    ``dropout: 0``, ``hidden_dim: 1024`` and ``train.learning_rate: 0.008``.
    """

    type: Literal["dnn"] = "dnn"
    """Kind of network."""
    hidden_layers: int = Field(default=4, ge=1)
    """Number of hidden layers, as in Kaldi's steps/nnet/train.sh."""
    hidden_dim: int = Field(default=512, ge=1)
    """Units of each hidden layer."""
    activation: Literal["sigmoid", "relu"] = "relu"
    """Non-linearity of the hidden layers. With ``relu`` use a learning rate about ten times lower
    than with ``sigmoid``, or batch norm."""
    batch_norm: bool = True
    """Normalise the input of each non-linearity over the minibatch."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Share of hidden units silenced in training, after each non-linearity."""
    left_context: int = Field(default=5, ge=0)
    """Frames before the centre frame that the network sees; Kaldi's --splice=5."""
    right_context: int = Field(default=5, ge=0)
    """Frames after the centre frame that the network sees; Kaldi's --splice=5."""
