"""What is said before any cluster is asked: wrong options, and Ray that is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from autobatch.cli.commands import cli
from autobatch.records.errors import AutobatchError, TargetError, UsageError
from tests.cli.console import MODEL

WITHOUT_RAY = pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(MODEL, encoding="utf-8")
    return str(path)


def error_of(*words: str) -> AutobatchError:
    with pytest.raises(AutobatchError) as raised:
        cli.main([*words], standalone_mode=False)
    return raised.value


@WITHOUT_RAY
@pytest.mark.parametrize("words", [["probe", "--engine", "ray"], ["fleet"]])
def test_without_ray_the_extra_is_named(words: list[str], model: str) -> None:
    error = error_of(*words, model)
    assert (error.message, error.code) == ("Ray is not installed", "no_ray")
    assert "'torch-autobatch[ray]'" in error.hint


def test_an_address_needs_the_engine_that_it_is_for(model: str) -> None:
    error = error_of("probe", model, "--ray-address", "head:6379")
    assert isinstance(error, UsageError)
    assert error.message == "`--ray-address` goes with `--engine ray`"


def test_a_fleet_needs_a_model_and_prices_that_are_there(model: str) -> None:
    assert isinstance(error_of("fleet", f"{model}.missing.py"), TargetError)
    assert error_of("fleet", model, "--prices", f"{model}.toml").code == "bad_prices"
    assert error_of("fleet", model, "--prices", model).code == "bad_prices"
