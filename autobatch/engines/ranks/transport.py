"""The transport between ranks: keys with bytes, in a store that all of them reach."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from autobatch.records.errors import AutobatchError

if TYPE_CHECKING:
    from torch.distributed import Store

# Seconds between two questions of a rank for a message, and seconds of the store that each question may
# take: with thousands of ranks they ask less often.
_POLL_SECONDS = 0.005
_ASKING_SECONDS = 50e-6


def poll_seconds(ranks: int) -> float:
    """Seconds from one question for a message to the next, where so many ranks ask the same store."""
    return max(_POLL_SECONDS, ranks * _ASKING_SECONDS)


class Transport(Protocol):
    """A store of messages. A key is written once."""

    def put(self, key: str, message: bytes) -> None: ...
    def get(self, keys: Sequence[str], timeout_seconds: float, *, unless: str = "") -> dict[str, bytes]:
        """The messages under `keys`; after the timeout, or once `unless` has one, those that are there."""
        ...

    def has(self, key: str) -> bool: ...


class StoreTransport:
    """A store of torch.distributed. Raises AutobatchError where it is gone."""

    def __init__(self, store: Store, ranks: int) -> None:
        self._store: Store | None = store
        self._poll_seconds = poll_seconds(ranks)

    def put(self, key: str, message: bytes) -> None:
        with _connected():
            self._open_store.set(key, message)  # type: ignore[arg-type]

    def close(self) -> None:
        """Lets go of the store; where it is served by this process, it ends."""
        self._store = None

    def get(self, keys: Sequence[str], timeout_seconds: float, *, unless: str = "") -> dict[str, bytes]:
        # Asked for again and again: a wait inside the store hears no Ctrl-C, and prints when it ends.
        deadline = time.monotonic() + timeout_seconds
        wanted = list(keys)
        with _connected():
            while not self._open_store.check(wanted):
                if time.monotonic() > deadline or (unless and self._open_store.check([unless])):
                    wanted = [key for key in keys if self._open_store.check([key])]
                    break
                time.sleep(self._poll_seconds)
            values = self._open_store.multi_get(wanted) if wanted else []
        return dict(zip(wanted, values, strict=True))

    def has(self, key: str) -> bool:
        with _connected():
            return bool(self._open_store.check([key]))

    @property
    def _open_store(self) -> Store:
        assert self._store is not None
        return self._store


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise AutobatchError(
            "the connection between the ranks is lost",
            code="rank_lost",
            facts=(str(error).partition("\n")[0],),
            hint="see what the other ranks have printed: most often one of them has ended",
        ) from error
