"""Which networks can be pretrained layer by layer."""

from typing import Literal

from mariana_asr.nnet.options.dnn import DnnOptions
from mariana_asr.nnet.options.network import NetworkOptions


def pretraining_problem(
    options: NetworkOptions, kind: Literal["rbm", "denoising"]
) -> tuple[str, str] | None:
    """What keeps a network from being pretrained, and what to do about it; None if nothing does.

    Args:
        options: The network.
        kind: Restricted Boltzmann machines or denoising autoencoders.
    """
    if not isinstance(options, DnnOptions):
        return (
            "only fully connected networks are pretrained layer by layer",
            "Leave out train.pretraining, or take a model of type: dnn",
        )
    if options.residual or options.bottleneck is not None:
        return (
            "layers with residual connections or a bottleneck are not pretrained",
            "Leave out train.pretraining, or model.residual and model.bottleneck; "
            "mariana-asr factor gives a trained network bottlenecks",
        )
    if kind == "rbm" and (options.activation != "sigmoid" or options.normalisation != "none"):
        return (
            "Boltzmann machines are stacked of layers with sigmoid units and without normalisation",
            "Set model.activation: sigmoid and model.normalisation: none, or pretrain with "
            "type: denoising",
        )
    return None
