"""Files of a measured command: what it writes, reads back, renames and removes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autobatch.scripts.command import Command
from autobatch.scripts.process import injection
from autobatch.scripts.scratch import changes, listing, scratch_folder


def run(program: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[dict[str, str]]]:
    """A Python program in `folder` under protection, and the events that it sent."""
    import socket

    command = Command(words=(sys.executable,))
    with scratch_folder() as scratch, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(scratch / "link"))
        server.listen()
        server.settimeout(0.2)
        (scratch / "tmp").mkdir()
        settings = {"socket": str(scratch / "link"), "scratch": str(scratch), "steps": 10}
        environment = os.environ | injection(command, settings) | {"TMPDIR": str(scratch / "tmp")}
        ended = subprocess.run(
            [sys.executable, "-B", "-c", program],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        events = []
        try:
            link, _ = server.accept()
            with link, link.makefile() as lines:
                events = [json.loads(line) for line in lines]
        except TimeoutError:
            pass
    return ended, events


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kept.txt").write_text("before")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "old.pt").write_bytes(b"old weights")
    return tmp_path


WRITES = {
    "a new file": "open('new.txt', 'w').write('x'); assert open('new.txt').read() == 'x'",
    "over a file": "open('kept.txt', 'w').write('x'); assert open('kept.txt').read() == 'x'",
    "at its end": "open('kept.txt', 'a').write('x'); assert open('kept.txt').read() == 'beforex'",
    "by pathlib": "from pathlib import Path; p = Path('kept.txt'); p.write_text('x'); "
    "assert p.read_text() == 'x' and p.stat().st_size == 1",
    "by a descriptor": "import os; f = os.open('kept.txt', os.O_WRONLY | os.O_TRUNC); os.write(f, b'x'); "
    "os.close(f); assert open('kept.txt').read() == 'x'",
    "into new folders": "import os; os.makedirs('a/b/c'); open('a/b/c/d', 'w').write('x'); "
    "assert os.path.exists('a/b/c/d')",
    "by renaming a new file": "import os; open('t', 'w').write('x'); os.replace('t', 'runs/old.pt'); "
    "assert open('runs/old.pt').read() == 'x' and not os.path.exists('t')",
    "by copying": "import shutil; shutil.copy2('kept.txt', 'copy.txt'); "
    "assert open('copy.txt').read() == 'before'",
    "and removes what it wrote": "import os; open('n', 'w').close(); os.remove('n'); "
    "assert not os.path.exists('n')",
    "to a temporary folder": "import tempfile\nwith tempfile.TemporaryDirectory() as t: "
    "open(t + '/x', 'w').write('x')",
    "by a child": "import subprocess, sys; subprocess.run([sys.executable, '-c', "
    "\"open('kept.txt', 'w').write('x')\"], check=True)",
    "links": "import os; os.symlink('kept.txt', 'latest')",
    "dates and rights": "import os; os.utime('kept.txt', (1, 1)); os.chmod('kept.txt', 0)",
}


@pytest.mark.parametrize("what", WRITES)
def test_nothing_changes_for_whoever_looks_from_outside(what: str, folder: Path):
    before, dates = listing(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ended, events = run(WRITES[what], folder)
    assert ended.returncode == 0, ended.stderr
    assert not events
    assert changes(before, listing(folder)) == ()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == dates
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == contents


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ("import os; os.remove('kept.txt')", "removes"),
        ("import os; os.rename('kept.txt', 'moved.txt')", "renames"),
        ("import shutil; shutil.rmtree('runs')", "removes"),
        ("from pathlib import Path; Path('kept.txt').unlink()", "removes"),
    ],
)
def test_what_existed_is_neither_removed_nor_renamed(program: str, what: str, folder: Path):
    before = listing(folder)
    ended, events = run(program, folder)
    assert ended.returncode == 1
    assert [(event["event"], event["what"]) for event in events] == [("touches_file", what)]
    assert changes(before, listing(folder)) == ()


def test_errors_of_files_stay_those_of_python(folder: Path):
    program = """
import os
for attempt, error in [
    (lambda: open('missing.txt'), FileNotFoundError),
    (lambda: open('missing/new.txt', 'w'), FileNotFoundError),
    (lambda: open('kept.txt', 'x'), FileExistsError),
    (lambda: os.remove('missing.txt'), FileNotFoundError),
    (lambda: os.mkdir('runs'), FileExistsError),
]:
    try:
        attempt()
    except error:
        continue
    raise SystemExit(f'{error} did not come')
"""
    ended, _ = run(program, folder)
    assert ended.returncode == 0, ended.stderr


def test_the_users_own_sitecustomize_still_runs(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text("import builtins; builtins.of_the_user = 42")
    command = Command(words=(sys.executable,), variables=(f"PYTHONPATH={site}",))
    environment = os.environ | injection(command, {})
    ended = subprocess.run(
        [sys.executable, "-c", "print(of_the_user)"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == "42\n", ended.stderr


def test_a_module_that_the_script_writes_can_be_imported(folder: Path):
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        "import os; os.makedirs('made/inner')\n"
        "open('made/inner/part.py', 'w').write('value = 5')\n"
        "from made.inner.part import value\n"
        "print(value)\n"
    )
    before = listing(folder)
    ended, events = run(program, folder)
    assert (ended.stdout, events) == ("5\n", []), ended.stderr
    assert changes(before, listing(folder)) == ()


def test_compiled_readers_find_what_the_script_has_written(folder: Path):
    program = (
        "import torch\n"
        "from safetensors.torch import save_file\n"
        "save_file({'a': torch.ones(3)}, 'made.safetensors')\n"
        "import safetensors\n"
        "with safetensors.safe_open('made.safetensors', 'pt') as kept:\n"
        "    print(kept.get_tensor('a').sum().item())\n"
    )
    ended, _ = run(program, folder)
    assert ended.stdout == "3.0\n", ended.stderr
    assert not (folder / "made.safetensors").exists()


def test_a_tracker_that_the_script_turns_on_writes_nothing(folder: Path):
    pytest.importorskip("wandb", reason="Weights & Biases is missing (`pip install wandb`)")
    before = listing(folder)
    program = (
        "import wandb\n"
        "with wandb.init(mode='offline', project='first', config={'lr': 1}) as run:\n"
        "    run.log({'loss': 1.0})\n"
        "    assert run.config['lr'] == 1"
    )
    ended, events = run(program, folder)
    assert (ended.returncode, events) == (0, []), ended.stderr
    assert changes(before, listing(folder)) == ()
