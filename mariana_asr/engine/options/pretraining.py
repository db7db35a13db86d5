"""Options of layer-wise pretraining."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mariana_asr.options import Options, tag_alone


class RbmOptions(Options):
    """A stack of restricted Boltzmann machines, by contrastive divergence (Hinton 2006).

    The first machine has Gaussian inputs. Rates are those of Kaldi's steps/nnet/pretrain_dbn.sh,
    a minibatch's mean. The network needs sigmoid units and no normalisation.
    """

    type: Literal["rbm"] = "rbm"
    """Kind of pretraining."""
    epochs: int = Field(default=1, ge=1)
    """Epochs a layer."""
    first_layer_epochs: int = Field(default=2, ge=1)
    """Epochs of the first layer, whose inputs are not binary."""
    learning_rate: float = Field(default=0.4, gt=0.0)
    """Rate of machines between hidden layers."""
    first_layer_learning_rate: float = Field(default=0.01, gt=0.0)
    """Rate of the first machine."""
    momentum: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Momentum at the beginning of a layer."""
    max_momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum in the end; it rises evenly over the layer's first half."""
    l2_penalty: float = Field(default=0.0002, ge=0.0)
    """Weights shrink by the rate times this, a step."""


class DenoisingOptions(Options):
    """A stack of denoising autoencoders (Vincent et al. 2008).

    Each layer learns to restore its input from one in which some values were set to zero.
    """

    type: Literal["denoising"] = "denoising"
    """Kind of pretraining."""
    epochs: int = Field(default=1, ge=1)
    """Epochs a layer."""
    learning_rate: float = Field(default=0.001, gt=0.0)
    """Adam's rate."""
    corruption: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Part of a layer's inputs that is set to zero."""


PretrainingOptions = Annotated[
    RbmOptions | DenoisingOptions,
    Field(discriminator="type"),
    BeforeValidator(tag_alone("type", "rbm")),
]
"""Options of any pretraining; ``type`` says which."""
