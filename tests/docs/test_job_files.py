"""The job script for Slurm and the manifest for Kubernetes, as far as a machine without them can check."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cli.console import MODEL
from tests.docs.test_snippets import TRAIN

DOCS = Path(__file__).resolve().parents[2] / "docs"
SLURM = DOCS / "slurm.sh"
SCHEMA = json.loads((Path(__file__).parent / "job.schema.json").read_text(encoding="utf-8"))
# Runs its command, as Slurm's own does where a job has one task.
SRUN = '#!/bin/sh\nexec "$@"\n'


def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCS / "kubernetes.yaml").read_text(encoding="utf-8"))
    return found


def run(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command where `autobatch`, `python` and the stand-in of srun are found first."""
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    srun = folder / "bin" / "srun"
    srun.parent.mkdir(exist_ok=True)
    srun.write_text(SRUN)
    srun.chmod(0o755)
    path = os.pathsep.join((str(srun.parent), str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PATH": path, "BUDGET": "5s", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def run_slurm(folder: Path) -> subprocess.CompletedProcess[str]:
    return run([str(SLURM), "model.py"], folder, SLURM_JOB_NAME="train", SLURM_JOB_ID="17")


def run_container(container: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """The shell of a container, with a folder in the place of the volume that it mounts."""
    (mount,) = container["volumeMounts"]
    volume = folder / "volume"
    volume.mkdir(exist_ok=True)
    scripts = [one.replace(f"{mount['mountPath']}/", f"{volume}/") for one in container["args"]]
    return run([*container["command"], *scripts], folder)


# Slurm


@pytest.mark.parametrize("linter", [["bash", "-n"], ["shellcheck"]], ids=lambda words: words[0])
def test_the_job_script_is_sound_shell(linter: list[str]) -> None:
    if shutil.which(linter[0]) is None:
        pytest.skip(f"{linter[0]} is not installed")
    subprocess.run([*linter, str(SLURM)], check=True)
    assert os.access(SLURM, os.X_OK)


def test_the_options_for_sbatch_stand_before_the_first_command() -> None:
    lines = SLURM.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert options
    assert max(options) < first, "sbatch reads none after a command"
    assert all(lines[number].split()[1].startswith("--") for number in options)


@pytest.mark.slow
def test_the_job_script_trains_at_what_it_has_measured(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    ended = run_slurm(tmp_path)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "train-17.json").read_text(encoding="utf-8"))
    assert ended.stdout.splitlines()[-1] == f"training at {result['batch_size']}"


def test_the_job_script_does_not_train_where_nothing_was_measured(tmp_path: Path) -> None:
    ended = run_slurm(tmp_path)
    assert ended.returncode == 1
    assert "`model.py` does not exist" in ended.stderr
    assert "training" not in ended.stdout


# Kubernetes


def test_the_manifest_is_a_job() -> None:
    jsonschema.validate(job(), SCHEMA)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [("spec", "backofLimit", 2), ("pod", "restartPolicy", "Always"), ("container", "comand", ["sh"])],
)
def test_a_mistake_in_a_manifest_is_seen(place: str, name: str, value: object) -> None:
    wrong = job()
    pod = wrong["spec"]["template"]["spec"]
    {"spec": wrong["spec"], "pod": pod, "container": pod["containers"][0]}[place][name] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_what_is_measured_is_what_trains() -> None:
    pod = job()["spec"]["template"]["spec"]
    (init,), (main,) = pod["initContainers"], pod["containers"]
    assert init["image"] == main["image"]
    assert init["resources"] == main["resources"]
    assert [one["name"] for one in pod["volumes"]] == ["answer"]
    mounts = [one["volumeMounts"][0] for one in (init, main)]
    assert mounts[1] == {**mounts[0], "readOnly": True}


@pytest.mark.slow
def test_the_init_container_writes_what_the_main_one_trains_at(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    pod = job()["spec"]["template"]["spec"]
    measured = run_container(pod["initContainers"][0], tmp_path)
    assert measured.returncode == 0, measured.stderr
    size = json.loads((tmp_path / "volume" / "result.json").read_text(encoding="utf-8"))["batch_size"]
    trained = run_container(pod["containers"][0], tmp_path)
    assert (trained.returncode, trained.stdout) == (0, f"training at {size}\n"), trained.stderr


def test_the_containers_fail_where_nothing_was_measured(tmp_path: Path) -> None:
    pod = job()["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        ended = run_container(container, tmp_path)
        assert ended.returncode != 0
        assert "training" not in ended.stdout
