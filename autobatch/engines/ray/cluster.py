"""A connection to a Ray cluster, and the nodes that it has. Ray is imported when it is used."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autobatch.decision.fleet import kind_of
from autobatch.engines.ray.nodes import read_node
from autobatch.engines.ray.tasks import Place, run_each
from autobatch.engines.worker_process import interrupts_held
from autobatch.records.errors import AutobatchError, UsageError
from autobatch.records.escaping import printable
from autobatch.records.fleet import NodeKind, NodeReport

ADDRESS_VARIABLE = "RAY_ADDRESS"
_REPORT_SECONDS = 120.0
_CONNECT_SECONDS = 5.0
_LONGEST_TEMP = 24
_TOO_LARGE = "exceeds the maximum size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the cluster with its kind; `places`: one for each of its devices."""

    kind: NodeKind
    places: tuple[Place, ...]


@contextlib.contextmanager
def connected(address: str | None, folder: Path | None) -> Iterator[None]:
    """Connected to the cluster at `address` (else that of RAY_ADDRESS), or to a new one on this machine.

    `folder` goes to every node, where it is the current one. A cluster that was started here ends with
    the block, and leaves neither a process nor a file; any other stays as it was. No output of Ray reaches
    standard output. Raises AutobatchError where there is no connection.
    """
    ray = import_ray()
    address = address or os.environ.get(ADDRESS_VARIABLE)
    runtime_env = {} if folder is None else {"working_dir": str(folder)}
    asked: dict[str, Any] = {"runtime_env": runtime_env, "log_to_driver": False, "logging_level": "CRITICAL"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        if address is None:
            scratch = Path(stack.enter_context(_scratch_folder()))
            stack.enter_context(_variables(_of_local_cluster(scratch)))
            asked |= {"address": "local", "include_dashboard": False, "_temp_dir": str(scratch)}
        else:
            _check_reachable(address)
            asked["address"] = address
        stack.callback(_disconnect)
        try:
            ray.init(**asked)
        except (Exception, SystemExit) as error:
            raise _not_connected(address, folder, error) from error
        yield


def find_nodes(*, accelerated: bool = True) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """The nodes that can be used, without their GPUs unless `accelerated`; and why others can't be.

    Those others can't be asked, or have other versions than this machine.
    """
    alive = [node for node in import_ray().nodes() if node["Alive"]]
    asking = [Place(node=node["NodeID"], name=node["NodeManagerHostname"], cpus=0, gpus=0) for node in alive]
    reports = run_each(read_node, [()] * len(alive), [[place] for place in asking], _REPORT_SECONDS)
    here = read_node()
    nodes: list[Node] = []
    left_out: list[str] = []
    for ray_node, place, report in zip(alive, asking, reports, strict=True):
        if why := _why_unusable(report, here):
            left_out.append(f"the node `{printable(place.name)}` is left out: {why}")
        else:
            nodes.append(_node(ray_node, place, report, accelerated))
    return tuple(nodes), tuple(left_out)


def import_ray() -> Any:
    """Ray itself. Raises AutobatchError where it is not installed."""
    if find_spec("ray") is None:
        raise AutobatchError(
            "Ray is not installed", code="no_ray", hint="run `pip install 'torch-autobatch[ray]'`"
        )
    import ray

    return ray


def _disconnect() -> None:
    # A second Ctrl-C would leave a cluster that was started here behind.
    with interrupts_held():
        import_ray().shutdown()


def _node(ray_node: dict[str, Any], asked: Place, report: NodeReport, accelerated: bool) -> Node:
    cpus = int(ray_node["Resources"].get("CPU", 0))
    gpus = int(ray_node["Resources"].get("GPU", 0)) if accelerated else 0
    # Of a node without accelerators all processors: they are its device.
    share = cpus // gpus if gpus else cpus
    place = Place(node=asked.node, name=asked.name, cpus=share, gpus=1 if gpus else 0)
    places = (place,) * (gpus or min(cpus, 1))
    return Node(kind=kind_of(report, cpus=cpus, gpus=gpus), places=places)


def _why_unusable(report: NodeReport | AutobatchError, here: NodeReport) -> str:
    """Empty for a node that would measure the same training as this machine."""
    if isinstance(report, AutobatchError):
        return ": ".join((report.message, *report.facts))
    if (report.autobatch, report.torch) == (here.autobatch, here.torch):
        return ""
    return (
        f"it has autobatch {report.autobatch} and torch {report.torch}, "
        f"not {here.autobatch} and {here.torch} as here"
    )


@contextlib.contextmanager
def _scratch_folder() -> Iterator[str]:
    """A folder for Ray's sessions, which only this user can read."""
    # Sockets lie in it, whose paths may have 107 bytes; 60 of them are what Ray adds.
    place = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="autobatch-ray-", dir=place if len(place) <= _LONGEST_TEMP else "/tmp")
    # The processes of a cluster that did not come up end only with this one, and write until then. What is
    # registered first runs last.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _of_local_cluster(scratch: Path) -> dict[str, str]:
    """Keeps Ray from a token in the user's home, and from reports about its use."""
    token = scratch / "token"
    token.write_text(secrets.token_hex(32), encoding="ascii")
    chosen = {} if "RAY_AUTH_TOKEN" in os.environ else {"RAY_AUTH_TOKEN_PATH": str(token)}
    return {**chosen, "RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def _variables(chosen: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the block, and restores them afterwards."""
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_reachable(address: str) -> None:
    """Raises an error at once for an address that nothing answers at: Ray would try for a minute."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise UsageError(
            f"`{printable(address)}` is not the address of a Ray cluster",
            code="bad_address",
            hint="write the `host:port` of its head node (mostly port 6379), or `auto` on one of its nodes",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _not_connected(address, None, error) from error


def _not_connected(address: str | None, folder: Path | None, error: BaseException) -> AutobatchError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # The first line says what Ray was doing, the last one why it failed.
    facts = tuple(dict.fromkeys((lines[0], lines[-1])))
    if folder is not None and _TOO_LARGE in str(error):
        return UsageError(
            f"the folder of the model file, `{printable(str(folder))}`, is too large to send to the nodes",
            code="folder_too_large",
            facts=tuple(line.partition(". To exclude")[0] for line in lines if _TOO_LARGE in line)[-1:],
            hint="move the model file to a folder of its own, and its data to a path that all nodes share",
        )
    if address is None:
        return AutobatchError("no Ray cluster can be started on this machine", code="no_cluster", facts=facts)
    return AutobatchError(
        f"there is no connection to a Ray cluster at `{printable(address)}`",
        code="no_cluster",
        facts=facts,
        hint="`ray status` on one of its nodes says whether it runs; its Ray and Python have to be of the "
        "versions that are here",
    )
