"""What the options of all networks have in common."""

from typing import Annotated

from pydantic import BeforeValidator

from mariana_asr.features.options import FeatureOptions
from mariana_asr.features.transform import DeltaTransformOptions
from mariana_asr.options import Options, default_tag


class NetworkOptions(Options):
    """The base of every network's options: what it is given.

    By default that is the recipe's ``features``, as the first GMM systems take them.
    """

    features: Annotated[FeatureOptions, BeforeValidator(default_tag("type", "mfcc"))] | None = None
    """Features of the network's own, in place of the recipe's; with ``adapted`` after the adapted
    ones, in each frame. Frames must be cut as for the recipe's."""
    adapted: bool = False
    """Give the network what the last GMM system sees: its spliced frames, its LDA+MLLT matrix, and
    each speaker's fMLLR transform. The GMMs must be speaker-adapted (`align.tri3`)."""
    transform: DeltaTransformOptions = DeltaTransformOptions()
    """CMVN and deltas between the features and the network; not of ``adapted`` ones, whose
    transform is that of the GMMs. Beyond it, each network normalises its input by the mean and the
    standard deviation of the training set: `cmvn: none` leaves that global CMVN alone."""

    @property
    def transform_is_default(self) -> bool:
        """Whether nothing is asked of ``transform``."""
        return bool(self.transform == type(self).model_fields["transform"].default)
