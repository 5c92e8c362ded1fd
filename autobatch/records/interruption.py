"""Ctrl-C in the middle of a search, as an exception that keeps the measurements."""

from __future__ import annotations

from autobatch.records.check import Check
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Curve


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a search, with what was measured; None where nothing was."""

    def __init__(self, curve: Curve | None, check: Check | None = None) -> None:
        super().__init__()
        self.curve = curve
        self.check = check
        self.recommendation: Recommendation | None = None
