"""Options of the fully connected network."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mariana_asr.nnet.options.network import NetworkOptions


class DnnOptions(NetworkOptions):
    """A fully connected network on a window of frames.

    The defaults did best on AN4's dev speakers, among a few that were tried (recipes/an4). A
    network as Kaldi's nnet1 trains has ``activation: sigmoid``, ``normalisation: none``,
    ``dropout: 0``, ``hidden_dim: 1024`` and ``train.learning_rate: 0.008``.
    """

    type: Literal["dnn"] = "dnn"
    """Kind of network."""
    hidden_layers: int = Field(default=4, ge=1)
    """Number of hidden layers, as in Kaldi's steps/nnet/train.sh."""
    hidden_dim: int = Field(default=512, ge=1)
    """Units that each hidden layer gives the next one."""
    activation: Literal["sigmoid", "relu", "maxout", "pnorm"] = "relu"
    """Non-linearity of the hidden layers. ``maxout`` (Goodfellow et al. 2013) makes one unit of a
    group by its largest, ``pnorm`` (Zhang et al. 2014) by its Euclidean norm. With ``relu`` use a
    learning rate about ten times lower than with ``sigmoid``, or normalisation."""
    group_size: int = Field(default=5, ge=1)
    """Units in a group of ``maxout`` or ``pnorm``: a layer computes hidden_dim * group_size units
    and makes hidden_dim of them. Others have no groups. Kaldi's nnet2 has groups of 10."""
    normalisation: Literal["batch", "layer", "none"] = "batch"
    """Normalise the input of each non-linearity: each unit over the minibatch, or the units of a
    layer over each other (Ba et al. 2016)."""
    residual: bool = False
    """Add to the output of each hidden layer, the first excepted, its input (He et al. 2016)."""
    bottleneck: PositiveInt | tuple[PositiveInt, ...] | None = None
    """Make the weights of each hidden layer the product of two matrices with so many units between
    them, and no non-linearity there (Xue et al. 2013); a list has one number for each layer.
    ``mariana-asr factor`` does it to a trained network."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Share of hidden units silenced in training, after each non-linearity."""
    left_context: int = Field(default=5, ge=0)
    """Frames before the centre frame that the network sees; Kaldi's --splice=5."""
    right_context: int = Field(default=5, ge=0)
    """Frames after the centre frame that the network sees; Kaldi's --splice=5."""

    @property
    def bottlenecks(self) -> tuple[int | None, ...]:
        """The inner dimension of each hidden layer; None where it has one matrix."""
        if isinstance(self.bottleneck, tuple):
            return self.bottleneck
        return (self.bottleneck,) * self.hidden_layers

    @property
    def units_a_group(self) -> int:
        """Units that the non-linearity makes one of."""
        return self.group_size if self.activation in ("maxout", "pnorm") else 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.bottlenecks) != self.hidden_layers:
            raise ValueError(
                f"bottleneck has {len(self.bottlenecks)} numbers for {self.hidden_layers} hidden "
                "layers: give one number, or one for each layer"
            )
        return self
