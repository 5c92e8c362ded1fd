"""The environment that every test runs in, how many run at a time, and golden files."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import site
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.shared_worker import SharedWorker

# No timing decides a test: a busy machine draws and runs examples as slowly as it likes.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# New examples are looked for while developing; a check of a commit repeats the same ones.
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Side by side, the tests have more threads than the machine has processors. Threads of OpenMP that wait would
# spin, which takes four times the processor's time. Read when torch is imported, here and in each child.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that starts the tests in the background has SIGINT ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"

_numbers = itertools.count()

# Each process of the tests imports torch, Keras and transformers: about 1.5 GB.
MOST_PROCESSES = 5

# Variables that change the text of a program, or make a library ask the network. None: unset.
ENVIRONMENT = {
    "COLUMNS": "80",
    "LINES": None,
    "TERM": "xterm",
    "COLORTERM": None,
    "NO_COLOR": None,
    "FORCE_COLOR": None,
    "CLICOLOR_FORCE": None,
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": None,
    "TZ": "UTC",
    "PYTHONUNBUFFERED": None,
    "PYTHONWARNINGS": None,
    "MAKEFLAGS": None,
    "MAKELEVEL": None,
    "MFLAGS": None,
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files, and run their tests alone"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--update-golden"):
        others = [item for item in items if "golden" not in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if "golden" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)


@pytest.hookimpl(optionalhook=True)  # the tests run without pytest-xdist too
def pytest_xdist_auto_num_workers() -> int:
    """Processes of `pytest -n auto`: one more than the processors that this process may use, five at most.

    Many tests wait for another process: for its end, or for a time limit.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_PROCESSES, usable + 1)


@pytest.fixture(scope="session", autouse=True)
def _environment_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same environment on every machine, with an empty home folder.

    Only while tests run: pytest itself writes for the terminal that it has.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            if value is None:
                patch.delenv(name, raising=False)
            else:
                patch.setenv(name, value)
        # Packages may be installed below the true home.
        patch.setenv("PYTHONUSERBASE", site.getuserbase())
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        _read_time_zone()
        yield
    _read_time_zone()


def _read_time_zone() -> None:
    if hasattr(time, "tzset"):
        time.tzset()


@pytest.fixture(scope="module", autouse=True)
def _cache_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For searches of fixtures that a whole module shares: never the developer's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOBATCH_CACHE", _unused_folder(tmp_path_factory))
        yield


@pytest.fixture(autouse=True)
def _cache_of_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is answered from what another has measured."""
    monkeypatch.setenv("AUTOBATCH_CACHE", _unused_folder(tmp_path_factory))


def _unused_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    # `mktemp` lists all folders that it has made, which takes longer with each test.
    return str(tmp_path_factory.getbasetemp() / f"cache-{next(_numbers)}" / "autobatch")


@pytest.fixture(scope="session")
def shared_worker() -> Iterator[SharedWorker]:
    """A worker for all tests of this process that have no need of a new one."""
    from tests.shared_worker import SharedWorker

    with contextlib.closing(SharedWorker()) as worker:
        yield worker


@pytest.fixture(scope="module")
def quick_collections() -> Iterator[None]:
    """As in a worker: the collection before each trial need not walk all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str | Path, str], None]:
    """Compares `text` with the file `name` in tests/golden (or an absolute path), or rewrites that file.

    A newline at the end of the file isn't part of the text.
    """
    update = request.config.getoption("--update-golden")

    def compare(name: str | Path, text: str) -> None:
        path = GOLDEN / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n", encoding="utf-8", newline="\n")
            return
        assert path.exists(), f"{path.name} is missing: run `make golden` and review it"
        # Bytes, so that no newline translation hides a control character.
        assert f"{text}\n" == path.read_bytes().decode("utf-8"), (
            f"{path.name} has changed: if that is meant, run `make golden` and review it"
        )

    return compare
