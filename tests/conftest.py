"""Golden files: `golden(name, text)` compares, `pytest --update-golden` rewrites them for review."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No timing decides a test: a busy machine draws and runs examples as slowly as it likes.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# New examples are looked for while developing; a check of a commit repeats the same ones.
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A shell that starts the tests in the background has SIGINT ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing")


@pytest.fixture(scope="module", autouse=True)
def _cache_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For searches of fixtures that a whole module shares: never the developer's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOBATCH_CACHE", str(tmp_path_factory.mktemp("cache") / "autobatch"))
        yield


@pytest.fixture(autouse=True)
def _cache_of_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is answered from what another has measured."""
    monkeypatch.setenv("AUTOBATCH_CACHE", str(tmp_path_factory.mktemp("cache") / "autobatch"))


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
        assert path.exists(), f"{path.name} is missing: run `pytest --update-golden` and review it"
        # Bytes, so that no newline translation hides a control character.
        assert f"{text}\n" == path.read_bytes().decode("utf-8"), (
            f"{path.name} has changed: if that is meant, run `pytest --update-golden` and review it"
        )

    return compare
