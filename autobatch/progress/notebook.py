"""The live region below a notebook's cell."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from autobatch.progress import live_line
from autobatch.progress.ticker import Ticker
from autobatch.progress.tracker import Progress

_UPDATE_SECONDS = 1.0
_WIDTH = 100


def is_notebook() -> bool:
    """True in a kernel of Jupyter or Colab, whose outputs can be replaced."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


class NotebookRegion:
    """An output of the cell, updated until the `with` block ends, and empty then."""

    def __init__(self, progress: Callable[[], Progress]) -> None:
        self._progress = progress
        self._handle: Any = None
        self._ticker = Ticker(self._tick, _UPDATE_SECONDS)

    def __enter__(self) -> NotebookRegion:
        from IPython.display import display

        self._handle = display({"text/plain": self._text()}, raw=True, display_id=True)
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ticker.end()
        self._handle.update({"text/plain": ""}, raw=True)

    def _tick(self) -> None:
        self._handle.update({"text/plain": self._text()}, raw=True)

    def _text(self) -> str:
        return live_line.render(self._progress(), _WIDTH)
