"""The recipe of a target on the command line: options that go together, and files that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from autobatch.cli.recipe import recipe_of
from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.limits import Precision


def test_every_option_is_in_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    target = f"{tmp_path}/model.py:net"
    recipe = recipe_of(
        target, input_shape=(3, 8, 8), classes=10, epochs=2.5, precision=Precision.BF16, optimizer="sgd"
    )
    assert (recipe.target, recipe.input_shape, recipe.classes) == (target, (3, 8, 8), 10)
    assert (recipe.epochs, recipe.precision, recipe.optimizer) == (2.5, Precision.BF16, "sgd")


def test_a_module_is_looked_for_by_the_worker_alone() -> None:
    assert recipe_of("pkg.nothing:net").target == "pkg.nothing:net"


def test_a_checkpoint_counts_by_its_path_and_its_state(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"1")
    before = recipe_of("pkg.model", checkpoint=str(weights))
    assert before.checkpoint == str(weights)
    weights.write_bytes(b"22")
    assert recipe_of("pkg.model", checkpoint=str(weights)).checkpoint_state != before.checkpoint_state
    with pytest.raises(UsageError) as raised:
        recipe_of("pkg.model", checkpoint=str(tmp_path))
    assert raised.value.code == "no_checkpoint"


def test_classes_without_a_shape_are_refused() -> None:
    with pytest.raises(AutobatchError) as raised:
        recipe_of("pkg.model", classes=10)
    assert raised.value.exit_status == 2
    assert "--input-shape" in raised.value.hint


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AutobatchError) as raised:
        recipe_of(f"{tmp_path}/model.py:net")
    assert raised.value.code == "no_file"
