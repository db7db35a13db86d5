"""Layer-wise pretraining: what each hidden layer learns from unlabelled frames, one after another.

Each stage is an objective whose parameters are a layer of the network itself, and what restores
the layer's input, which is thrown away afterwards. Layers below are finished and only compute.
"""

from abc import ABC, abstractmethod
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear, softplus
from torch.nn.utils import skip_init

from mariana_asr.errors import RecipeError
from mariana_asr.nnet.dnn import Dnn
from mariana_asr.nnet.dropout import FrameNoise
from mariana_asr.nnet.options.pretrainable import pretraining_problem

EXTREME_SHARE = 1e-4
"""Shares of a binary unit are kept so far from 0 and 1 when its bias is set, as in nnet1."""


class PretrainingObjective(nn.Module, ABC):
    """What one layer learns.

    Its noise depends on the position that ``set_frame_position`` sets, as dropout does. All that
    is registered, and so all parameters and state, belongs to the layer in training; the layers
    below are the network's, and stay in evaluation mode.
    """

    def __init__(self, network: Dnn, number: int) -> None:
        """Take hold of the layers below the hidden layer ``number``."""
        super().__init__()
        layers = hidden_layers(network)
        below = [module for layer in layers[:number] for module in layer]
        # In a tuple, so that they are not registered.
        self._below = (network.normalisation, *below)
        self._binary = number > 0 and isinstance(layers[number - 1][-1], nn.Sigmoid)
        self.noise = FrameNoise(stream=number)
        self.train()

    @abstractmethod
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what to minimise, and how well the layer's input is restored.

        Args:
            inputs: (B, window) the network's own input.

        Returns:
            A sum over the frames to differentiate, and the squared error of what is restored,
            summed over frames and values.
        """

    @abstractmethod
    def begin(self, visible_mean: Tensor) -> None:
        """Set the initial values that depend on the data; to be called once, before training.

        Args:
            visible_mean: (visible,) mean of :meth:`visible` over enough frames, the same in all
                workers.
        """

    @torch.no_grad()
    def visible(self, inputs: Tensor) -> Tensor:
        """What the layer in training sees of the network's input: (B, visible)."""
        for module in self._below:
            inputs = module(inputs)
        return inputs

    def train(self, mode: bool = True) -> "PretrainingObjective":
        """Set the mode of the layer in training; those below are put into evaluation mode."""
        super().train(mode)
        for module in self._below:
            module.eval()
        return self

    def _bias_for(self, visible_mean: Tensor) -> Tensor:
        """Bias with which a decoder without input gives the mean."""
        if not self._binary:
            return visible_mean
        return torch.logit(visible_mean.clamp(EXTREME_SHARE, 1.0 - EXTREME_SHARE))


class RestrictedBoltzmannMachine(PretrainingObjective):
    """A layer of sigmoid units as a Boltzmann machine, trained by contrastive divergence (CD-1).

    Hinton, "Training products of experts by minimizing contrastive divergence" (2002), with the
    choices of Hinton's "A practical guide to training restricted Boltzmann machines" (2010) and of
    Kaldi's rbm-train-cd1-frmshuff: hidden units that restore are sampled, all others are
    probabilities; Gaussian visible units have unit variance and are not sampled.

    The gradient of what is minimised, the free energy of the data minus that of what is restored
    from it, is that of CD-1, as the restored values are constants to it.
    """

    def __init__(self, network: Dnn, number: int) -> None:
        """The first layer's visible units are Gaussian, those of others binary."""
        super().__init__(network, number)
        layer = hidden_layers(network)[number][0]
        assert isinstance(layer, nn.Linear)
        self.layer = layer
        self.visible_bias = nn.Parameter(self.layer.weight.new_zeros(self.layer.in_features))

    @torch.no_grad()
    def begin(self, visible_mean: Tensor) -> None:
        """Hidden biases 0, and visible ones that give binary units their mean, as in Kaldi.

        The weights are left as the network has them: Gaussian of about the size that Kaldi uses.
        """
        self.layer.bias.zero_()
        self.visible_bias.copy_(self._bias_for(visible_mean))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`PretrainingObjective`."""
        data = self.visible(inputs)
        activation = self.layer(data)
        with torch.no_grad():
            states = self.noise.sampled(torch.sigmoid(activation))
            restored = linear(states, self.layer.weight.T, self.visible_bias)
            if self._binary:
                restored = torch.sigmoid(restored)
        # The square of a Gaussian unit's distance from its bias differs from the product with
        # the bias by what does not depend on parameters: one formula serves both kinds of units.
        differences = restored - data
        energy = (differences.sum(dim=0) * self.visible_bias).sum()
        energy = energy - softplus(activation).sum() + softplus(self.layer(restored)).sum()
        return energy, differences.square().sum()


class DenoisingAutoencoder(PretrainingObjective):
    """A layer that learns to restore its input from one in which some values were set to zero.

    Vincent et al., "Extracting and composing robust features with denoising autoencoders" (2008).
    The decoder has weights of its own. Binary inputs are restored through a sigmoid, by
    cross-entropy; others linearly, by half the squared error. Normalisation and non-linearity
    are part of the encoder.
    """

    def __init__(self, network: Dnn, number: int, corruption: float) -> None:
        """The layer's number decides the decoder's initial weights."""
        super().__init__(network, number)
        self.corruption = corruption
        encoder = hidden_layers(network)[number]
        self.encoder = nn.Sequential(*encoder)
        assert isinstance(encoder[0], nn.Linear)
        weight = encoder[0].weight
        hidden, visible = network.options.hidden_dim, weight.shape[1]
        self.decoder = skip_init(
            nn.Linear, hidden, visible, device=weight.device, dtype=weight.dtype
        )
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            values = torch.empty(visible, hidden).normal_(0.0, hidden**-0.5, generator=generator)
            self.decoder.weight.copy_(values)
            self.decoder.bias.zero_()

    @torch.no_grad()
    def begin(self, visible_mean: Tensor) -> None:
        """Let the decoder begin from the mean."""
        self.decoder.bias.copy_(self._bias_for(visible_mean))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`PretrainingObjective`."""
        data = self.visible(inputs)
        mask = self.noise.chosen(len(data), data.shape[1], 1.0 - self.corruption, 1.0)
        restored = self.decoder(self.encoder(data * mask))
        if self._binary:
            loss = binary_cross_entropy_with_logits(restored, data, reduction="sum")
            return loss, (torch.sigmoid(restored.detach()) - data).square().sum()
        squares = (restored - data).square().sum()
        return 0.5 * squares, squares.detach()


class BoltzmannChoice(Protocol):
    """What options of Boltzmann machines have to say."""

    @property
    def type(self) -> Literal["rbm"]:
        """Kind of pretraining."""


class DenoisingChoice(Protocol):
    """What options of denoising autoencoders have to say."""

    @property
    def type(self) -> Literal["denoising"]:
        """Kind of pretraining."""

    @property
    def corruption(self) -> float:
        """Part of a layer's input that is set to zero."""


def pretraining_stages(
    network: nn.Module, options: BoltzmannChoice | DenoisingChoice
) -> list[tuple[str, PretrainingObjective]]:
    """The stages of a network's pretraining in their order.

    Args:
        network: Whose hidden layers are trained, in place. Everything that replaces its layers
            or moves them to a device comes first.
        options: What they are trained as.

    Returns:
        For each layer the name that its parameters begin with, and its objective.

    Raises:
        RecipeError: Such a network cannot be pretrained, or not so.
    """
    if not isinstance(network, Dnn):
        raise RecipeError(
            "only fully connected networks are pretrained layer by layer",
            where="train.pretraining",
        )
    problem = pretraining_problem(network.options, options.type)
    if problem is not None:
        raise RecipeError(problem[0], where="train.pretraining", remedy=problem[1])
    stages: list[tuple[str, PretrainingObjective]] = []
    places = [at for at, module in enumerate(network.hidden) if isinstance(module, nn.Linear)]
    for number, place in enumerate(places):
        if options.type == "rbm":
            objective: PretrainingObjective = RestrictedBoltzmannMachine(network, number)
        else:
            objective = DenoisingAutoencoder(network, number, options.corruption)
        stages.append((f"hidden.{place}", objective))
    return stages


def hidden_layers(network: Dnn) -> list[list[nn.Module]]:
    """Each hidden layer's linear map, normalisation if it has one, and non-linearity.

    Dropout is left out: what a layer learns here it learns from its whole input.
    """
    layers: list[list[nn.Module]] = []
    for module in network.hidden:
        if isinstance(module, nn.Linear):
            layers.append([])
        if not isinstance(module, FrameNoise):
            layers[-1].append(module)
    return layers
