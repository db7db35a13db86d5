"""What the options of all networks have in common."""

from mariana_asr.features.transform import DeltaTransformOptions
from mariana_asr.options import Options


class NetworkOptions(Options):
    """The base of every network's options: what it is given."""

    transform: DeltaTransformOptions = DeltaTransformOptions()
    """CMVN and deltas between the features and the network."""
