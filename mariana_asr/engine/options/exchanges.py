"""Options of the ways in which workers exchange what they learn."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mariana_asr.options import Options, tag_alone


class AllReduceOptions(Options):
    """Sum the gradients of all workers in every step, while the backward pass still runs."""

    type: Literal["allreduce"] = "allreduce"
    """Kind of exchange."""


class HalfOptions(Options):
    """As ``allreduce``, with the gradients rounded to 16 bits on the way."""

    type: Literal["fp16", "bf16"]
    """``fp16`` has more digits, ``bf16`` the range of float32."""


class PowerSgdOptions(Options):
    """Exchange low-rank factors of the gradients (Vogels, Karimireddy and Jaggi 2019).

    What the factors miss is added to the next step's gradient.
    """

    type: Literal["powersgd"] = "powersgd"
    """Kind of exchange."""
    rank: int = Field(default=4, ge=1)
    """Rank of the factors: more is nearer to the gradient and dearer."""
    start_step: int = Field(default=100, ge=2)
    """Exchange whole gradients in the first steps, whose gradients change fast."""


class HierarchicalOptions(Options):
    """Sum inside each host, then between hosts, so that less crosses the slower links.

    Inside a host gradients are reduce-scattered, each worker sums its part with its likes on the
    other hosts, and the parts are gathered inside the host again.
    """

    type: Literal["hierarchical"] = "hierarchical"
    """Kind of exchange."""
    workers_per_host: int | None = Field(default=None, ge=1)
    """By default as many as were started on each host."""


class ShardedOptions(Options):
    """Each worker owns a part of every parameter, and the optimiser's state of that part alone.

    Gradients are reduce-scattered, the owner updates its rows, parameters are gathered.
    """

    type: Literal["sharded"] = "sharded"
    """Kind of exchange."""


class LocalSgdOptions(Options):
    """Workers train apart, and average their parameters every few steps (Stich 2019)."""

    type: Literal["local_sgd"] = "local_sgd"
    """Kind of exchange."""
    block_steps: int = Field(default=8, ge=1)
    """Steps between two averages."""


class BmufOptions(Options):
    """Block momentum (Chen and Huo 2016): averages are taken as steps of an outer momentum."""

    type: Literal["bmuf"] = "bmuf"
    """Kind of exchange."""
    block_steps: int = Field(default=16, ge=1)
    """Steps between two averages."""
    block_momentum: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Part of the last block's update that the next one goes on with; by default 1 - 1/workers,
    which makes the workers together as fast as one that sees all frames."""
    block_learning_rate: float = Field(default=1.0, gt=0.0)
    """What a block's mean update is multiplied by."""
    nesterov: bool = True
    """Begin each block where the momentum leads (NBM), not where it is (CBM)."""


ExchangeOptions = Annotated[
    AllReduceOptions
    | HalfOptions
    | PowerSgdOptions
    | HierarchicalOptions
    | ShardedOptions
    | LocalSgdOptions
    | BmufOptions,
    Field(discriminator="type"),
    BeforeValidator(tag_alone("type", "allreduce")),
]
"""Options of any exchange; ``type`` says which."""
