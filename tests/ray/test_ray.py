"""Trials across a Ray cluster, for real: nodes are raylets on this machine, with resources of their own.

`make ray` makes an environment with Ray and runs them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autobatch.devices.host import usable_processors
from autobatch.engines import messages
from autobatch.engines.local import LocalEngine
from autobatch.engines.opening import worker_environment
from autobatch.engines.ray.cluster import Node, connected, find_nodes
from autobatch.engines.ray.engine import RayEngine, ray_engines
from autobatch.engines.ray.tasks import Place, run_each
from autobatch.examples import digits_cnn
from autobatch.fleet import price_file
from autobatch.fleet.probe import probe_fleet
from autobatch.records.check import Training
from autobatch.records.errors import AutobatchError
from autobatch.records.fleet import NodeKind
from autobatch.records.limits import Limits
from autobatch.records.trial import Outcome
from autobatch.storage import codec
from tests.cli.console import autobatch
from tests.docs import snippets
from tests.ray import on_nodes
from tests.ray.on_nodes import PATIENCE_SECONDS, processes_with, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
pytest.importorskip("ray", reason="Ray is not installed; `make ray` installs it and runs these tests")

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "ray.md"
CPUS = usable_processors()
LIMITS = Limits(trial_timeout_seconds=60.0)

MODEL = """
import os
import torch
from torch import nn
from torch.utils.data import TensorDataset
from beside import HIDDEN

batch_size = 16

def build_model():
    return nn.Sequential(nn.Linear(12, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3))

def build_dataset():
    inputs = torch.randn(20_000, 12, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, inputs[:, :3].argmax(1))

dataset = build_dataset()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes that are alike, each with all processors of this machine."""
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    # Nodes can't import the tests.
    cloudpickle.register_pickle_by_value(on_nodes)
    with pytest.MonkeyPatch.context() as patch, short_folder() as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", folder)
        (Path(folder) / "ray").mkdir()
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": CPUS, "num_gpus": 0, "include_dashboard": False},
        )
        added_node(made, CPUS)
        yield made
        made.shutdown()


@contextlib.contextmanager
def short_folder() -> Iterator[str]:
    """As pytest's own are too long for the paths of sockets."""
    folder = tempfile.mkdtemp(prefix="ab-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file that needs the file beside it."""
    (tmp_path / "beside.py").write_text("HIDDEN = 16\n", encoding="utf-8")
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    return tmp_path / "model.py"


def train(batch_size: int, seconds: float = 2.0, factor: float = 1.0) -> messages.Train:
    return messages.Train(
        batch_size=batch_size,
        learning_rate_factor=factor,
        seconds=seconds,
        samples=256,
        part_size=32,
        seed=0,
    )


def losses(training: Training | None) -> dict[int, tuple[float, ...]]:
    assert training is not None
    assert training.outcome is Outcome.OK, training.detail
    return {one.steps: one.losses for one in training.evaluations}


def trained_here(recipe: messages.Recipe, command: messages.Train) -> Training | None:
    engine = LocalEngine(recipe, LIMITS, "cpu", worker_environment("cpu", contended=True), print)
    try:
        return engine.train(command).training
    finally:
        engine.close()


@contextlib.contextmanager
def engine_on(cluster: Any, recipe: messages.Recipe) -> Iterator[RayEngine]:
    with ray_engines(cluster.address, recipe, "cpu", print) as make:
        engine = make(recipe, LIMITS, "cpu", worker_environment("cpu", contended=True), print)
        assert isinstance(engine, RayEngine)
        try:
            yield engine
        finally:
            engine.close()


def added_node(cluster: Any, cpus: int) -> Any:
    """A further node. On a busy machine Ray may give one up that takes longer than 30 s to start."""
    for _ in range(5):
        try:
            added = cluster.add_node(num_cpus=cpus, num_gpus=0)
        except Exception as error:
            print(f"no node yet: {error}")
        else:
            cluster.wait_for_nodes()
            return added
    raise AssertionError("no node came up")


# Tasks


def test_trainings_on_two_nodes_have_the_losses_of_those_that_run_here(cluster: Any, model: Path) -> None:
    recipe = messages.Recipe(target=str(model))
    with engine_on(cluster, recipe) as engine:
        assert engine.trainings_at_once == 2
        # A busy machine makes few steps in a time.
        for seconds in (2.0, 60.0):
            commands = [train(32, seconds), train(128, seconds, factor=2.0)]
            there = [losses(one.training) for one in engine.train_all(commands)]
            here = [losses(trained_here(recipe, one)) for one in commands]
            common = [ours.keys() & theirs.keys() for ours, theirs in zip(here, there, strict=True)]
            if min(map(len, common)) >= 4:
                break
    assert min(map(len, common)) >= 4
    assert engine.busy_seconds >= 2.0
    # The last evaluation of each is at the end of its time, which is another number of steps.
    for ours, theirs, steps in zip(here, there, common, strict=True):
        assert {at: theirs[at] for at in steps} == {at: ours[at] for at in steps}


def test_there_are_never_two_on_one_device(cluster: Any, tmp_path: Path) -> None:
    with connected(cluster.address, None):
        place = find_nodes()[0][0].places[0]
        found = run_each(on_nodes.hold_alone, [(str(tmp_path), 0.5)] * 3, [[place]] * 3, 60.0)
    assert found == [place.node] * 3


def test_a_lost_process_is_tried_once_more_on_another_node(cluster: Any, tmp_path: Path) -> None:
    with connected(cluster.address, None):
        places = [node.places[0] for node in find_nodes()[0]]
        (found,) = run_each(on_nodes.die, [(str(tmp_path), 1)], [places], 60.0)
    assert found == places[1].node
    assert len(list(tmp_path.iterdir())) == 2


def test_one_that_is_lost_twice_is_not_tried_again(cluster: Any, tmp_path: Path) -> None:
    with connected(cluster.address, None):
        places = [node.places[0] for node in find_nodes()[0]]
        (found,) = run_each(on_nodes.die, [(str(tmp_path), 9)], [places], 60.0)
    assert isinstance(found, AutobatchError)
    assert found.code == "node_lost"
    assert "lost twice" in found.message
    tries = sorted(one.name.split() for one in tmp_path.iterdir())
    assert [node for _, node, _ in tries] == [place.node for place in places]
    assert len({pid for _, _, pid in tries}) == 2, "each in a process of its own"


def test_a_node_that_is_removed_in_the_middle_of_a_trial(cluster: Any, tmp_path: Path) -> None:
    added = added_node(cluster, CPUS)
    removed = threading.Event()

    def remove() -> None:
        wait_until((tmp_path / "begun").exists, "the trial on the node to be removed")
        cluster.remove_node(added, allow_graceful=False)
        removed.set()

    with connected(cluster.address, None):
        doomed = Place(node=added.node_id, name="doomed", cpus=CPUS, gpus=0)
        others = [place for node in find_nodes()[0] for place in node.places if place.node != added.node_id]
        threading.Thread(target=remove, daemon=True).start()
        (found,) = run_each(on_nodes.stay_on, [(str(tmp_path), added.node_id)], [[doomed, *others]], 120.0)
    assert removed.is_set()
    assert found == others[0].node


def test_a_training_that_is_lost_twice_is_a_failed_training(cluster: Any, model: Path) -> None:
    """The model's own code kills the process of the task, but only where there is one."""
    killing = (
        "import psutil\n\n"
        "for one in psutil.Process().parents():\n"
        "    if one.name().startswith('ray::'):\n"
        "        one.kill()\n"
    )
    model.write_text(MODEL + killing, encoding="utf-8")
    with engine_on(cluster, messages.Recipe(target=str(model))) as engine:
        (reply,) = engine.train_all([train(32)])
    assert reply.training is not None
    assert reply.training.outcome is Outcome.CRASHED
    assert "lost twice" in reply.training.detail


def test_what_keeps_the_workload_from_being_made_is_no_failed_training(cluster: Any) -> None:
    recipe = messages.Recipe(target="no_such_module_here")
    with engine_on(cluster, recipe) as engine, pytest.raises(AutobatchError) as raised:
        engine.train_all([train(32)])
    assert "no_such_module_here" in raised.value.message


def test_a_cluster_without_the_device_that_is_here(cluster: Any) -> None:
    from autobatch.engines.ray import engine

    with connected(cluster.address, None):
        nodes, _ = find_nodes()
    others = [replace_device(node) for node in nodes]
    with pytest.raises(AutobatchError) as raised:
        engine._alike(others, accelerated=False)
    assert raised.value.code == "no_node_alike"
    assert raised.value.facts[1] == "there: another device"


def replace_device(node: Node) -> Node:
    return replace(node, kind=NodeKind(device="another device"))


# The command


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [autobatch(), *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_a_probe_on_a_cluster_that_is_there(cluster: Any, model: Path) -> None:
    """From another folder than the model's, and the cluster stays."""
    target = os.path.relpath(model, model.parent.parent)
    ended = run(
        model.parent.parent,
        *("probe", target, "--engine", "ray", "--ray-address", cluster.address, "--device", "cpu"),
        *("--max-batch", "256", "--json"),
    )
    assert ended.returncode == 0, ended.stderr
    found = codec.parse(ended.stdout)
    assert found.check is not None
    assert len(found.check.trainings) >= 2, found.check.detail
    assert {one.outcome for one in found.check.trainings} == {Outcome.OK}
    with connected(cluster.address, None):
        assert len(find_nodes()[0]) == 2


def test_a_cluster_of_this_machine_alone_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with short_folder() as scratch:
        ended = run(
            model.parent,
            *("probe", "model.py", "--engine", "ray", "--device", "cpu", "--budget", "15s", "-q"),
            HOME=str(home),
            TMPDIR=scratch,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip().isdigit()
        assert os.listdir(scratch) == []
        assert processes_with(scratch) == []
    assert list(home.iterdir()) == []


def test_ctrl_c_ends_the_tasks_and_leaves_the_cluster(cluster: Any, model: Path) -> None:
    marking = (
        "import pathlib, psutil\n\n"
        "if any(one.name().startswith('ray::') for one in psutil.Process().parents()):\n"
        f"    pathlib.Path({str(model.parent / 'begun')!r}).write_text(str(os.getpid()))\n"
        "    import time; time.sleep(3600)\n"
    )
    model.write_text(MODEL + marking, encoding="utf-8")
    process = subprocess.Popen(
        [
            *(autobatch(), "probe", "model.py", "--engine", "ray", "--ray-address", cluster.address),
            *("--device", "cpu", "--budget", "15s", "--json"),
        ],
        cwd=model.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    begun = model.parent / "begun"
    wait_until(lambda: begun.exists() and begun.read_text().isdigit(), "a training on a node")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, stderr
    document = json.loads(stdout)
    assert document["error"]["code"] == "interrupted"
    assert document["trials"]
    wait_until(lambda: not os.path.exists(f"/proc/{begun.read_text()}"), "the end of the training")
    with connected(cluster.address, None):
        assert len(find_nodes()[0]) == 2


@pytest.mark.parametrize(
    ("address", "code", "status"),
    [
        ("localhost:1", "no_cluster", 1),
        ("somewhere", "bad_address", 2),
        ("ray://localhost:1", "bad_address", 2),
    ],
)
def test_an_address_that_nothing_answers_at(model: Path, address: str, code: str, status: int) -> None:
    ended = run(model.parent, "probe", "model.py", "--engine", "ray", "--ray-address", address, "--json")
    assert (ended.returncode, json.loads(ended.stdout)["error"]["code"]) == (status, code)
    assert "Traceback" not in ended.stderr


def test_a_folder_that_is_too_large_to_send(cluster: Any, model: Path) -> None:
    (model.parent / "data.bin").write_bytes(os.urandom(3 << 20))
    words = ("probe", "model.py", "--engine", "ray", "--ray-address", cluster.address, "--json")
    ended = run(model.parent, *words, RAY_max_grpc_message_size=str(2 << 20))
    error = json.loads(ended.stdout)["error"]
    assert (ended.returncode, error["code"]) == (2, "folder_too_large")
    (fact,) = error["facts"]
    assert fact.endswith("Package size (3.00MiB) exceeds the maximum size of 2.00MiB")


# The fleet


@pytest.fixture
def small_node(cluster: Any) -> Iterator[Any]:
    """A node of another kind: it has one processor."""
    added = added_node(cluster, 1)
    yield added
    cluster.remove_node(added)


@pytest.mark.skipif(CPUS < 2, reason="a node with one processor is no other kind here")
def test_every_kind_of_node_is_probed_once(cluster: Any, small_node: Any, model: Path) -> None:
    prices = model.parent / "prices.toml"
    prices.write_text('currency = "EUR"\n[per_hour]\n"somewhere else" = 1.0\n', encoding="utf-8")
    words = ("fleet", "model.py", "--ray-address", cluster.address, "--budget", "15s", "--json")
    refused = run(model.parent, *words, "--prices", "prices.toml")
    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["code"]) == (2, "bad_prices")
    kinds = error["facts"][0].split("`")[1::2]
    assert len(kinds) == 2
    lines = "".join(f"{json.dumps(kind)} = {price}\n" for kind, price in zip(kinds, (2.0, 0.5), strict=True))
    prices.write_text(f'currency = "EUR"\n[per_hour]\n{lines}', encoding="utf-8")
    ended = run(model.parent, *words, "--prices", "prices.toml")
    assert ended.returncode == 0, ended.stderr
    fleet = json.loads(ended.stdout)
    found = {one["kind"]: one for one in fleet["members"]}
    assert set(found) == set(kinds)
    assert sorted(one["nodes"] for one in found.values()) == [1, 2]
    assert all(one["answer"]["batch_size"] >= 1 for one in found.values())
    one_cpu = next(one for kind, one in found.items() if ", 1 CPU, " in kind)
    assert one_cpu["answer"]["device"]["threads"] == 1
    assert all(one["cost"] is not None for one in found.values()) == (
        fleet["critical_batch_size"] is not None
    )


@pytest.mark.skipif(CPUS < 2, reason="a node with one processor is no other kind here")
def test_a_kind_that_fails_is_a_row(cluster: Any, small_node: Any, model: Path) -> None:
    failing = "if os.environ.get('OMP_NUM_THREADS') == '1':\n    raise RuntimeError('not on this one')\n"
    model.write_text(MODEL + failing, encoding="utf-8")
    recipe = messages.Recipe(target=str(model))
    limits = Limits(budget_seconds=10.0, check=False)
    fleet = probe_fleet(recipe, limits, None, address=cluster.address, fresh=False, tell=print)
    ok, failed = fleet.members
    assert ok.answer is not None
    assert failed.answer is None
    assert "not on this one" in failed.detail
    assert failed.nodes == 1


# The guide


def test_the_commands_of_the_guide_work(cluster: Any, tmp_path: Path) -> None:
    """As they stand, but for the address, the budget, and the names of the kinds in the file of prices."""
    (tmp_path / "model.py").write_text(
        Path(digits_cnn.__file__).read_text(encoding="utf-8"), encoding="utf-8"
    )
    with connected(cluster.address, None):
        kind = find_nodes()[0][0].kind.name
    found = list(snippets.parse(GUIDE.read_text(encoding="utf-8")))
    (prices,) = (one for one in found if one.file)
    assert price_file.parse(prices.text, prices.file).currency == "EUR"
    (tmp_path / prices.file).write_text(f'currency = "EUR"\nper_hour = {{ {json.dumps(kind)} = 1 }}\n')
    commands = [line for one in found if "tests/ray" in one.not_run for line in one.commands]
    commands = [line for line in commands if line.startswith("autobatch ")]
    assert {line.split()[1] for line in commands} == {"probe", "fleet"}
    for line in commands:
        words = line.partition(" > ")[0].replace("head:6379", cluster.address).split()
        words = [cluster.address if word == "auto" else word for word in words]
        ended = run(tmp_path, *words[1:], "--budget", "10s")
        assert ended.returncode == 0, ended.stderr
