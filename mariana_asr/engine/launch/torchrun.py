"""Running under torchrun, on one machine or several: one process leads, the others are called.

Only the training of networks is shared by all processes; the other stages of a recipe run in the
first one. So the others wait until it calls them to a training, and until it has ended.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from torch.distributed import PrefixStore, Store, rendezvous

from mariana_asr.logs import start_logging

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

SHARED_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Where torch's agents and workers share a store, processes that are started anew after a SIGKILL
can meet the addresses of the dead, and hang or fail."""

_END = "end"
_PATIENCE = timedelta(days=365)
"""How long a process waits to be called: stages before a training may take days."""


@dataclass
class Team:
    """The processes that torchrun started, seen from one of them."""

    store: Store
    rank: int
    size: int
    local_rank: int
    local_size: int
    _calls: int = 0

    def call(self, message: str) -> Store:
        """Call the others to a training; returns the store for its process group."""
        self.store.set(f"call/{self._calls}", message)
        return self._store_of_call()

    def wait(self) -> tuple[str, Store] | None:
        """Wait for a call; None at the end."""
        message = self.store.get(f"call/{self._calls}").decode()
        return None if message == _END else (message, self._store_of_call())

    def end(self) -> None:
        """Let the others go."""
        self.store.set(f"call/{self._calls}", _END)

    def _store_of_call(self) -> Store:
        self._calls += 1
        return PrefixStore(f"training/{self._calls}", self.store)


_team: Team | None = None


def current_team() -> Team | None:
    """The team that this process leads, if torchrun started it."""
    return _team


def lead_or_follow(
    lead: Callable[[], ResultT], follow: Callable[[Team, str, Store], None]
) -> ResultT | None:
    """Run ``lead`` in the first of the processes that torchrun started, ``follow`` in the others.

    Args:
        lead: The whole work; what it trains goes through :func:`current_team`.
        follow: Called with the team, the message and the store of each call.

    Returns:
        What ``lead`` returns; None where it did not run.
    """
    global _team
    if os.environ["WORLD_SIZE"] == "1":
        return lead()
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and SHARED_STORE not in os.environ:
        logger.warning("restarts by torchrun need %s=1 in its environment", SHARED_STORE)
    store, rank, size = next(rendezvous("env://"))
    store.set_timeout(_PATIENCE)
    team = Team(
        store, rank, size, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    )
    if rank > 0:
        start_logging(logging.WARNING, prefix=f"worker {rank}: ")
        while (called := team.wait()) is not None:
            follow(team, *called)
        return None
    _team = team
    try:
        return lead()
    finally:
        _team = None
        team.end()
