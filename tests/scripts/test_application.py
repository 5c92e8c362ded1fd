from __future__ import annotations

from dataclasses import replace

from autobatch.records.device import Device
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Ceiling, LimitedBy, Outcome, Trial
from autobatch.records.workload import Workload
from autobatch.scripts.application import application
from autobatch.scripts.command import parse
from autobatch.scripts.knob import find_knobs
from autobatch.scripts.messages import Sighting
from tests.scripts.observations import flag, observed

COMMAND = parse(["python", "train.py"])
ANSWER = Recommendation(
    batch_size=64,
    accumulation_steps=1,
    world_size=1,
    global_batch_size=64,
    learning_rate=0.1414,
    ceiling=Ceiling(batch_size=64, limited_by=LimitedBy.PLATEAU, verified=False),
    trials=(Trial(batch_size=64, outcome=Outcome.OK),),
    check=None,
    why="",
    warnings=(),
    workload=Workload(target="python train.py", model="Net", parameters=1, loss="", optimizer="SGD"),
    device=Device(kind="cpu", index=0, name="cpu"),
)


def test_a_flag_is_applied_by_the_command_with_its_learning_rate():
    (knob, _) = find_knobs(COMMAND, observed(sightings=[flag("batch_size", 32)]))
    found = application(COMMAND, knob, 1, ("--lr",), ANSWER)
    assert found.lines == ("run: python train.py --batch-size 64 --lr 0.141",)


def test_a_loader_is_applied_by_its_line():
    (knob,) = find_knobs(COMMAND, observed())
    place, rate = application(COMMAND, knob, 1, (), ANSWER).lines
    assert place == "change /home/user/train.py:12: batch_size=64 in place of 32"
    assert rate == "learning rate: 0.141, unless the script derives it by itself"


def test_the_size_of_an_accumulated_step_is_applied_as_that_of_a_batch():
    (knob, _) = find_knobs(COMMAND, observed(fetches=2, sightings=[flag("batch_size", 32)]))
    answer = replace(ANSWER, batch_size=128)
    assert application(COMMAND, knob, 2, (), answer).command.words[-1] == "64"


def test_the_current_size_changes_nothing():
    (knob, _) = find_knobs(COMMAND, observed(sightings=[flag("batch_size", 32)]))
    found = application(COMMAND, knob, 1, ("--lr",), replace(ANSWER, batch_size=32))
    assert found.lines == ("run: python train.py",)


def test_a_loader_of_a_library_is_applied_by_the_name_of_its_setting():
    seen = [Sighting(source="variable", name="per_device_train_batch_size", flags=[], value=32)]
    (knob,) = find_knobs(COMMAND, observed(sightings=seen))
    (place, _) = application(COMMAND, knob, 1, (), ANSWER).lines
    assert place == "change /home/user/train.py:12: per_device_train_batch_size=64 in place of 32"
