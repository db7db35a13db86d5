"""Options of the engine and of training; importing them does not load torch."""

from mariana_asr.engine.options.engine import EngineOptions
from mariana_asr.engine.options.exchanges import (
    AllReduceOptions,
    BmufOptions,
    ExchangeOptions,
    HalfOptions,
    HierarchicalOptions,
    LocalSgdOptions,
    PowerSgdOptions,
    ShardedOptions,
)
from mariana_asr.engine.options.losses import LossOptions, SpecAugmentOptions
from mariana_asr.engine.options.optimisers import (
    AdagradOptions,
    AdamOptions,
    OptimiserOptions,
    SgdOptions,
)
from mariana_asr.engine.options.pretraining import (
    DenoisingOptions,
    PretrainingOptions,
    RbmOptions,
)
from mariana_asr.engine.options.schedules import (
    CosineOptions,
    ExponentialOptions,
    NewbobOptions,
    ScheduleOptions,
)
from mariana_asr.engine.options.sequence import SequenceOptions
from mariana_asr.engine.options.training import LearningOptions, TrainOptions

__all__ = [
    "AdagradOptions",
    "AdamOptions",
    "AllReduceOptions",
    "BmufOptions",
    "CosineOptions",
    "DenoisingOptions",
    "EngineOptions",
    "ExchangeOptions",
    "ExponentialOptions",
    "HalfOptions",
    "HierarchicalOptions",
    "LearningOptions",
    "LocalSgdOptions",
    "LossOptions",
    "NewbobOptions",
    "OptimiserOptions",
    "PowerSgdOptions",
    "PretrainingOptions",
    "RbmOptions",
    "ScheduleOptions",
    "SequenceOptions",
    "SgdOptions",
    "ShardedOptions",
    "SpecAugmentOptions",
    "TrainOptions",
]
