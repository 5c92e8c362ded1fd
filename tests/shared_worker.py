"""Engines that share one worker: starting a worker takes seconds, a session of it milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autobatch.engines.local import LocalEngine
from autobatch.engines.messages import Recipe
from autobatch.engines.worker_process import WorkerProcess
from autobatch.records.limits import Limits


class SharedWorker:
    """A worker that is handed on from engine to engine. A test that kills it costs a new worker."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment or {}
        self._worker: WorkerProcess | None = None
        self._on_output: Callable[[str], None] = print

    def engine(self, recipe: Recipe, limits: Limits | None = None, device: str = "cpu") -> LocalEngine:
        """An engine whose sessions are real, and whose new worker is the shared one."""
        return self.make_engine(recipe, limits or Limits(), device, {}, print)

    def make_engine(
        self,
        recipe: Recipe,
        limits: Limits,
        device: str | None,
        environment: dict[str, str],
        on_output: Callable[[str], None],
    ) -> LocalEngine:
        """The same with the arguments of LocalEngine. The worker keeps the environment that it began with."""
        self._on_output = on_output
        return _HandedOn(self, recipe, limits, device, environment, on_output)

    def take(self) -> WorkerProcess:
        """The worker; a new one if none lives."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.alive:
            return worker
        return WorkerProcess(self._environment, lambda line: self._on_output(line))

    def give_back(self, worker: WorkerProcess) -> None:
        worker.end_session()
        self._worker = worker

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


class _HandedOn(LocalEngine):
    def __init__(self, shared: SharedWorker, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._shared = shared

    def _new_worker(self) -> WorkerProcess:
        return self._shared.take()

    def renew(self, *, worker: bool = False) -> None:
        # Another layout of the heap, which a new worker is for, decides nothing here.
        super().renew()

    def close(self) -> None:
        if self._worker is not None:
            self._shared.give_back(self._worker)
        self._worker = None
