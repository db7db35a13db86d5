"""Options of the optimisers."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mariana_asr.options import Options, tag_alone

SquaresRule = Literal["reduced", "exact"]


class SgdOptions(Options):
    """Stochastic gradient descent, with rates a frame as in Kaldi's nnet1."""

    type: Literal["sgd"] = "sgd"
    """Kind of optimiser."""
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Part of the last step that the next one goes on with."""


class AdagradOptions(Options):
    """AdaGrad (Duchi, Hazan and Singer 2011): rates that fall with the sum of squared gradients."""

    type: Literal["adagrad"] = "adagrad"
    """Kind of optimiser."""
    epsilon: float = Field(default=1e-10, gt=0.0)
    """Added to the square root that the gradient is divided by."""
    squares: SquaresRule = "reduced"
    """Whose squares are summed. ``reduced``: those of the gradient that the workers have summed
    already, which costs no further exchange. ``exact``: those of each worker's own gradient,
    summed over the workers in one more exchange of the model's size; to compare with."""


class AdamOptions(Options):
    """Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019).

    They differ in ``train.l2_penalty``: with ``adam`` it is part of the gradient, with ``adamw`` it
    acts beside it.
    """

    type: Literal["adam", "adamw"]
    """Kind of optimiser."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Part of the mean gradient that is kept from step to step."""
    beta2: float = Field(default=0.999, gt=0.0, lt=1.0)
    """Part of the mean squared gradient that is kept from step to step."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Added to the square root that the mean gradient is divided by."""
    squares: SquaresRule = "reduced"
    """As of adagrad."""


OptimiserOptions = Annotated[
    SgdOptions | AdagradOptions | AdamOptions,
    Field(discriminator="type"),
    BeforeValidator(tag_alone("type", "sgd")),
]
"""Options of any optimiser; ``type`` says which."""

DEFAULT_LEARNING_RATES = {"sgd": 0.004, "adagrad": 0.01, "adam": 0.001, "adamw": 0.001}
