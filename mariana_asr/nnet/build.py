"""The networks that a recipe can ask for."""

from collections.abc import Callable, Mapping

from mariana_asr.nnet.cnn import Cnn
from mariana_asr.nnet.cnn_tdnnf import CnnTdnnf
from mariana_asr.nnet.custom import build_custom_network
from mariana_asr.nnet.dnn import Dnn
from mariana_asr.nnet.lstm import Lstm
from mariana_asr.nnet.network import FrameNetwork
from mariana_asr.nnet.options import (
    CnnOptions,
    CnnTdnnfOptions,
    CustomOptions,
    DnnOptions,
    LstmOptions,
    ModelOptions,
    NetworkOptions,
    TdnnfOptions,
    TdnnOptions,
)
from mariana_asr.nnet.tdnn import Tdnn
from mariana_asr.nnet.tdnnf import Tdnnf

_NETWORKS: Mapping[type[NetworkOptions], Callable[..., FrameNetwork]] = {
    DnnOptions: Dnn,
    TdnnOptions: Tdnn,
    TdnnfOptions: Tdnnf,
    CnnOptions: Cnn,
    CnnTdnnfOptions: CnnTdnnf,
    LstmOptions: Lstm,
    CustomOptions: build_custom_network,
}
"""What each kind of options builds: called with the options, frame_dim, num_outputs and seed."""


def build_network(
    options: ModelOptions, frame_dim: int, num_outputs: int, *, seed: int = 777
) -> FrameNetwork:
    """Make the network that options describe, in training mode.

    Args:
        options: Which network.
        frame_dim: Values a frame.
        num_outputs: Number of pdfs.
        seed: Decides the initial weights.

    Raises:
        RecipeError: A network of the user's own cannot be made, or is none.
    """
    return _NETWORKS[type(options)](options, frame_dim, num_outputs, seed=seed)
