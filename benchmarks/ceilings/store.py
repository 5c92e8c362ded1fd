"""The results file: written anew after every outcome, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median, median_low
from typing import Any

# Survivals of the processes that judge an answer, apart from those of the repetitions of the truth.
JUDGEMENT = "judgement"


class Store:
    """What was measured, as one JSON document on disk.

    `settings` are those that figures of one file must share: a file with other ones ends the program.
    """

    def __init__(self, path: Path, settings: dict[str, int] | None = None) -> None:
        self._path = path
        self.document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.document.setdefault("settings", settings)
        if settings is not None and self.document["settings"] != settings:
            had = self.document["settings"]
            raise SystemExit(f"error: {path} was measured with {had}, not {settings}: name another --results")
        self.document.setdefault("environments", [])
        self.document.setdefault("workloads", {})

    def workload(self, name: str) -> Workload:
        fresh: dict[str, Any] = {"truths": {}, "survivals": {}, "answers": {}}
        return Workload(name, self.document["workloads"].setdefault(name, fresh))

    @property
    def workloads(self) -> list[Workload]:
        return [self.workload(name) for name in self.document["workloads"]]

    def note_environment(self, environment: dict[str, object]) -> None:
        self.document["environments"].append(environment)
        self.save()

    def save(self) -> None:
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.document, indent=1) + "\n")
        draft.replace(self._path)


class Workload:
    """One workload's part of the document."""

    def __init__(self, name: str, data: dict[str, Any]) -> None:
        self.name = name
        self._data = data

    def outcomes(self, series: str, size: int) -> dict[str, Any]:
        """`survived`, `of`, and the first lines of the `errors` with their counts, of one size in one series.

        A series is a repetition of the truth, "0" and so on, or JUDGEMENT.
        """
        fresh: dict[str, Any] = {"survived": 0, "of": 0, "errors": {}}
        found: dict[str, Any] = self._data["survivals"].setdefault(series, {}).setdefault(str(size), fresh)
        return found

    def judged(self, size: int) -> dict[str, Any]:
        return self.outcomes(JUDGEMENT, size)

    def keep_truth(self, repetition: int, size: int) -> None:
        self._data["truths"][str(repetition)] = size

    def truth_of(self, repetition: int) -> int | None:
        found: int | None = self._data["truths"].get(str(repetition))
        return found

    @property
    def truths(self) -> list[int]:
        return sorted(self._data["truths"].values())

    @property
    def truth(self) -> int | None:
        """The median over the repetitions."""
        return median_low(self.truths) if self.truths else None

    @property
    def methods(self) -> list[str]:
        return list(self._data["answers"])

    def answers(self, method: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._data["answers"].setdefault(method, [])
        return found

    def sizes(self, method: str) -> list[int]:
        """The answers of a method, ascending; runs without one left out."""
        return sorted(one["batch_size"] for one in self.answers(method) if one["batch_size"] is not None)

    def distinct_sizes(self, *methods: str) -> list[int]:
        """The different answers of some methods; without names of all."""
        return sorted({size for method in methods or self.methods for size in self.sizes(method)})


def middle(answers: Sequence[dict[str, Any]], field: str) -> float:
    """The median of a field over the runs."""
    return float(median(one[field] for one in answers))
