"""The results of a part, in a file that is whole at any time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class Report:
    """Rows and facts of a part; `finished` is False in the file until the part has ended."""

    def __init__(self, path: Path, seconds: float) -> None:
        """`seconds`: the part's time, after which it is stopped."""
        self._path = path
        self._begin = time.monotonic()
        self._seconds = seconds
        self._facts: dict[str, Any] = {"finished": False, "problems": [], "rows": []}
        self._write()

    @property
    def seconds_left(self) -> float:
        return self._begin + self._seconds - time.monotonic()

    def add(self, **row: Any) -> None:
        self._facts["rows"].append(row)
        self._write()

    @property
    def problems(self) -> list[str]:
        problems: list[str] = self._facts["problems"]
        return problems

    def fail(self, problem: str) -> None:
        """Goes on, but the part counts as failed, and its summary says why."""
        self.problems.append(problem)
        self._write()

    def note(self, **facts: Any) -> None:
        self._facts.update(facts)
        self._write()

    def _write(self) -> None:
        self._facts["seconds"] = round(time.monotonic() - self._begin, 1)
        unfinished = self._path.with_suffix(".part")
        unfinished.write_text(json.dumps(self._facts, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self._path)
