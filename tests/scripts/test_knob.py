from __future__ import annotations

import pytest

from autobatch.scripts.command import parse
from autobatch.scripts.knob import KnobKind, epochs_of, find_knobs, rate_flags
from tests.scripts.observations import LOADER, flag, observed

COMMAND = parse(["python", "train.py"])


def test_a_flag_with_the_observed_value_comes_before_the_loader():
    knobs = find_knobs(COMMAND, observed(sightings=[flag("lr", 32), flag("batch_size", 32)]))
    assert [knob.kind for knob in knobs] == [KnobKind.FLAG, KnobKind.LOADER]
    assert knobs[0].applied(COMMAND, 64).words[2:] == ("--batch-size", "64")


@pytest.mark.parametrize("name", ["test_batch_size", "val_batch_size", "eval_bs", "num_batches", "lr"])
def test_other_flags_of_the_same_value_are_no_knobs(name: str):
    (knob,) = find_knobs(COMMAND, observed(sightings=[flag(name, 32)]))
    assert knob.kind is KnobKind.LOADER


@pytest.mark.parametrize("name", ["batch_size", "bs", "b", "train.batch_size", "per_device_train_batch_size"])
def test_names_that_people_use_are_knobs(name: str):
    assert find_knobs(COMMAND, observed(sightings=[flag(name, 32)]))[0].kind is KnobKind.FLAG


def test_a_flag_with_another_value_is_no_knob():
    (knob,) = find_knobs(COMMAND, observed(sightings=[flag("batch_size", 48)]))
    assert knob.kind is KnobKind.LOADER


def test_the_flag_that_stands_in_the_command_comes_first():
    command = parse(["python", "train.py", "--total-batch", "32"])
    sightings = [flag("batch_size", 32), flag("total_batch", 32)]
    assert find_knobs(command, observed(sightings=sightings))[0].flags == ("--total-batch",)


def test_a_global_flag_takes_all_ranks_together():
    knob = find_knobs(COMMAND, observed(world_size=4, sightings=[flag("batch_size", 128)]))[0]
    assert (knob.current, knob.multiple) == (32, 4)
    assert knob.applied(COMMAND, 64).words[-1] == "256"


def test_a_word_of_the_command_is_a_knob_where_no_parser_was_seen():
    command = parse(["python", "train.py", "--batch_size=12"])
    seen = observed(loader=None, sizes=[35] * 10, shape=[35, 12])
    (knob,) = find_knobs(command, seen)
    assert (knob.current, knob.flags) == (12, ("--batch_size",))
    assert knob.applied(command, 24).words[-1] == "--batch_size=24"


def test_a_placeholder_is_the_only_knob():
    command = parse(["python", "train.py", "{batch_size=32}"])
    (knob,) = find_knobs(command, observed(sightings=[flag("batch_size", 32)]), 32)
    assert (knob.kind, knob.current) == (KnobKind.PLACEHOLDER, 32)
    assert knob.applied(command, 8).words[-1] == "8"


def test_a_placeholder_that_no_batch_follows_is_no_knob():
    command = parse(["python", "train.py", "{batch_size=31}"])
    assert find_knobs(command, observed(), 31) == ()


def test_without_a_loader_or_a_flag_there_is_no_knob():
    assert find_knobs(COMMAND, observed(loader=None)) == ()


def test_a_loader_is_changed_in_the_code_only_for_another_size():
    (knob,) = find_knobs(COMMAND, observed())
    assert knob.applied(COMMAND, 64) == COMMAND
    assert knob.in_code(32) is None
    assert knob.in_code(64) == {"file": LOADER.file, "line": LOADER.line, "current": 32, "batch_size": 64}


@pytest.mark.parametrize("name", ["epochs", "num_epochs", "max_epochs", "n_epochs", "num_train_epochs"])
def test_epochs_by_flag(name: str):
    assert epochs_of(COMMAND, observed(sightings=[flag("warmup_epochs", 3), flag(name, 14)]), 32) == 14


def test_epochs_by_steps():
    assert epochs_of(COMMAND, observed(sightings=[flag("max_iters", 1000)]), 32) == 1000 * 32 / 6400


def test_the_flag_of_the_learning_rate_has_the_observed_value():
    sightings = [flag("lr", 0.5), flag("learning_rate", 0.1)]
    assert rate_flags(observed(sightings=sightings)) == ("--learning-rate",)
    assert rate_flags(observed()) == ()
