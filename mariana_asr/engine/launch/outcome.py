"""How workers tell the process that launched them what their training came to."""

import json
from datetime import timedelta

from torch.distributed import TCPStore

from mariana_asr import errors
from mariana_asr.errors import MarianaError, StageError

HOST = "127.0.0.1"
_KEY = "outcome"
_SECONDS_TO_CONNECT = 60


class Outcome:
    """One value in a store of the launching process: the first worker to set it decides.

    An error that the user can cause must not be answered by starting the workers anew, as the
    death of one is; so workers look here before they begin.
    """

    def __init__(self, port: int | None = None) -> None:
        """Without a port: the launching process' own, on a free port."""
        self._store = TCPStore(
            HOST,
            port or 0,
            is_master=port is None,
            wait_for_workers=False,
            timeout=timedelta(seconds=_SECONDS_TO_CONNECT),
        )

    @property
    def port(self) -> int:
        """Where workers find it."""
        return self._store.port

    @property
    def is_known(self) -> bool:
        """Whether a worker has said anything."""
        return self._store.check([_KEY])

    def tell_done(self) -> None:
        """The training is finished."""
        self._tell({"done": True})

    def tell_error(self, error: MarianaError) -> None:
        """The training cannot go on; its last checkpoint stays."""
        where = None if error.where is None else str(error.where)
        self._tell(
            {
                "kind": type(error).__name__,
                "what": error.what,
                "where": where,
                "remedy": error.remedy,
            }
        )

    def _tell(self, value: dict[str, object]) -> None:
        self._store.compare_set(_KEY, "", json.dumps(value))

    def check(self) -> None:
        """Return if the training is finished.

        Raises:
            MarianaError: What a worker told.
            StageError: No worker told anything.
        """
        if not self.is_known:
            raise StageError("the workers ended without a word", remedy="Look at their messages")
        told = json.loads(self._store.get(_KEY))
        if told.get("done"):
            return
        kind: type[MarianaError] = getattr(errors, told["kind"], StageError)
        raise kind(told["what"], where=told["where"], remedy=told["remedy"])
