"""Commands that train networks, under torchrun and without."""

import os
from collections.abc import Callable


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def with_team(lead: Callable[[], None]) -> None:
    """Run a command; under torchrun in the first process, which calls the others to train.

    Raises:
        MarianaError: Whatever the command or a training raises.
    """
    if not under_torchrun():
        # Without torch, whose import takes seconds.
        lead()
        return
    from mariana_asr.engine.launch.torchrun import lead_or_follow
    from mariana_asr.engine.training.train import train_with_team

    lead_or_follow(lead, train_with_team)
