"""The number goes into a shell variable, a Makefile and a Hydra configuration; real ones each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

import autobatch
from autobatch.integrations import hydra
from tests.cli import console

QUICK = "--device cpu --max-batch 8 --budget 2s --no-check"

MAKEFILE = f"""\
MODEL ?= model.py

train: batch_size.txt
\t@echo training at $$(cat batch_size.txt)

batch_size.txt: $(MODEL)
\tautobatch probe $(MODEL) {QUICK} -q > $@.part
\tmv $@.part $@
"""

APP = """\
import hydra
from autobatch.integrations.hydra import register

register()


@hydra.main(version_base=None, config_path=".", config_name="config")
def main(config):
    print("training at", config.batch_size, config.accumulate, config.lr)


main()
"""

CONFIG = """\
batch_size: ${autobatch:result.json,32}
accumulate: ${autobatch.accumulation_steps:result.json,1}
lr: ${autobatch.learning_rate:result.json,0.001}
"""


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def with_command() -> dict[str, str]:
    """An environment whose PATH begins with the folder of the installed command."""
    return {"PATH": f"{Path(console.autobatch()).parent}{os.pathsep}{os.environ['PATH']}"}


@dataclass
class Pipeline:
    """A folder, and how the commands ended that ran there side by side."""

    folder: Path
    shell: console.Ended
    make: console.Ended
    broken: console.Ended
    wrong: console.Ended

    @property
    def result(self) -> Path:
        return self.folder / "result.json"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "model.py").write_text(console.MODEL)
    (folder / "broken.py").write_text("raise ValueError('not today')\n")
    (folder / "Makefile").write_text(MAKEFILE)
    ended = console.run(
        folder,
        sh(f'BS=$(autobatch probe model.py {QUICK} --save result.json -q) && echo "<$BS>"'),
        ["make", "train"],
        sh('BS=$(autobatch probe broken.py -q 2>error.txt) || echo $?; echo "<$BS>"; cat error.txt'),
        sh('BS=$(autobatch probe model.py --no-such -q 2>/dev/null) || echo $?; echo "<$BS>"'),
        environment=with_command(),
    )
    return Pipeline(folder, *ended)


def test_a_shell_gets_the_number_alone(pipeline: Pipeline):
    assert pipeline.shell.stdout == f"<{autobatch.load(pipeline.result).batch_size}>\n"
    assert (pipeline.shell.status, pipeline.shell.stderr) == (0, "")


def test_an_error_is_1_and_a_wrong_call_2_and_neither_gives_a_number(pipeline: Pipeline):
    assert pipeline.broken.stdout.startswith("1\n<>\nerror: ")
    assert pipeline.wrong.stdout == "2\n<>\n"


def test_make_keeps_the_number_in_a_file(pipeline: Pipeline):
    kept = pipeline.folder / "batch_size.txt"
    number = kept.read_text()
    assert int(number) in {1, 2, 4, 8}
    assert pipeline.make.status == 0
    assert pipeline.make.stdout.splitlines()[-1] == f"training at {number.strip()}"
    again, failed = console.run(
        pipeline.folder,
        ["make", "train"],
        ["make", "-B", "train", "MODEL=broken.py"],
        environment=with_command(),
    )
    # Nothing is measured twice, and a failure leaves the file as it was.
    assert again.stdout == f"training at {number.strip()}\n"
    assert "error: `broken.py` raised an error" in failed.stderr
    assert failed.status == 2
    assert kept.read_text() == number


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a process group")
def test_an_interrupt_is_130_and_no_number(tmp_path: Path):
    (tmp_path / "model.py").write_text(
        f"import time, pathlib\npathlib.Path('started').touch()\ntime.sleep(60)\n{console.MODEL}"
    )
    process = subprocess.Popen(
        sh("exec autobatch probe model.py --device cpu -q"),
        cwd=tmp_path,
        env={**os.environ, **with_command()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "error: interrupted\n"


def resolved(text: str) -> object:
    hydra.register()
    return OmegaConf.create({"value": text}).value


def test_the_resolver_reads_a_saved_result(pipeline: Pipeline):
    result = pipeline.result
    found = autobatch.load(result)
    assert resolved(f"${{autobatch:{result},3}}") == found.batch_size
    assert resolved(f"${{autobatch:{result}}}") == found.batch_size
    assert resolved(f"${{autobatch.accumulation_steps:{result},7}}") == found.accumulation_steps
    # There was no check, so it has no learning rate of its own.
    assert found.learning_rate is None
    assert resolved(f"${{autobatch.learning_rate:{result},0.5}}") == 0.5
    with_rate = result.with_name("with_rate.json")
    autobatch.save(replace(found, learning_rate=0.25), with_rate)
    assert resolved(f"${{autobatch.learning_rate:{with_rate},0.5}}") == 0.25


def test_without_a_file_the_resolver_gives_the_default_or_an_error(tmp_path: Path):
    missing = tmp_path / "missing.json"
    assert resolved(f"${{autobatch:{missing},32}}") == 32
    with pytest.raises(InterpolationResolutionError, match=r"missing\.json` can't be read"):
        resolved(f"${{autobatch:{missing}}}")


def test_a_damaged_file_is_an_error_though_there_is_a_default(tmp_path: Path):
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(InterpolationResolutionError, match=r"damaged\.json"):
        resolved(f"${{autobatch:{tmp_path / 'damaged.json'},32}}")


def test_a_hydra_program_takes_it_also_where_hydra_changes_the_folder(tmp_path: Path, pipeline: Pipeline):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "config.yaml").write_text(CONFIG)
    command = [sys.executable, "app.py", "hydra.output_subdir=null", "hydra.job.chdir=true"]
    (before,) = console.run(tmp_path, command)
    assert before.stdout == "training at 32 1 0.001\n", before.stderr
    (tmp_path / "result.json").write_bytes(pipeline.result.read_bytes())
    after, given = console.run(tmp_path, command, [*command, "batch_size=5"])
    size = json.loads(pipeline.result.read_text())["batch_size"]
    assert after.stdout == f"training at {size} 1 0.001\n", after.stderr
    assert given.stdout == "training at 5 1 0.001\n"
