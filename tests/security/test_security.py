"""What outlives the process is data only, and no name or message steers the terminal that shows it."""

from __future__ import annotations

import ast
import io
import json as stdlib_json
import os
import pickle
import re
import shlex
import stat
import subprocess
import sys
import threading
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import autobatch
from autobatch.engines.base import Opened
from autobatch.progress.display import Display
from autobatch.records.device import Device
from autobatch.records.errors import SavedResultError, TargetError
from autobatch.records.escaping import printable_output
from autobatch.records.recommendation import Recommendation
from autobatch.records.trial import Outcome, Trial
from autobatch.records.workload import Workload
from autobatch.reports.text import table, terminal
from autobatch.reports.text.commands import next_commands
from autobatch.reports.text.lines import paint
from autobatch.storage import codec, result_files
from autobatch.workload.serialization import packed
from tests.storage.test_codec import SMALL
from tests.strategies import devices, recommendations, trials, workloads

PACKAGE = Path(autobatch.__file__).parent
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# What terminals obey: a cleared screen, a title, the clipboard, a link, C1 forms, and what hides text.
ATTACKS = (
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJmIH4=\x07",
    "\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m\x9d0;title\x9c",
    "safe\rover\b\b\b\bbell\x07\x7f",
    "two\nlines\x0b\x0c\x85\u2028\u2029",
    "\u202e\u2066\u2067\u2068\u2069\u202a\u202b\u202c\u202d",
    "zero\u200b\u200c\u200d\u2060\ufeffwidth\U000e0041",
    "[red]markup[/red] [link=https://example.org]x[/link] :bomb: [/]",
    "\ud800lone",
)
HOSTILE = st.text(st.characters(), max_size=60) | st.lists(
    st.sampled_from(ATTACKS) | st.text(max_size=5), max_size=4
).map("".join)


def steers(shown: str, *, allowed: str = "\n") -> set[str]:
    """The characters of `shown` that a terminal would obey or hide."""
    return {
        char
        for char in shown
        if char not in allowed and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }


# Saved results


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_as_a_pickle_runs_none(tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "result.json"
    as_zip = io.BytesIO()
    torch.save(Trap(sprung), as_zip)
    for content in (pickle.dumps(Trap(sprung), 0), pickle.dumps(Trap(sprung)), as_zip.getvalue()):
        path.write_bytes(content)
        with pytest.raises(SavedResultError, match="is not JSON"):
            result_files.load(path)
        assert not sprung.exists()
    # The trap is a real one.
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


def test_nothing_that_outlives_the_process_is_unpickled() -> None:
    """What `find` sends goes to its own child through a file without a name; a snapshot stays in memory.

    A training command writes its snapshot to a folder that only its user can open, and reads it itself.
    """
    runs_code = {"eval", "exec", "pickle", "cPickle", "cloudpickle", "marshal", "shelve", "yaml", "joblib"}
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = {node.id} if isinstance(node, ast.Name) else set()
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                words = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", "")}
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
                words = {"pickle"}
            if words & runs_code:
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {
        "workload/serialization.py",
        "workload/snapshot.py",
        # With `weights_only`, which runs no code.
        "workload/checkpoint.py",
        "scripts/child/snapshot.py",
    }


def changed(**values: Any) -> str:
    return stdlib_json.dumps({**stdlib_json.loads(codec.render(SMALL)), **values})


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (changed()[:-1] + ', "batch_size": 8}', "its field `batch_size` comes more than once"),
        (changed().replace('"ok":', '"a\\u001b": 1, "a\\u001b": 2, "ok":'), r"its field `a\x1b` comes more"),
        (changed().replace('"total_bytes": null', '"total_bytes": -1'), "`total_bytes` is -1"),
        (changed().replace('"parameters": 1', '"parameters": -5'), "`parameters` is -5"),
        (changed().replace("[0.1, 0.11]", "[-Infinity]"), "JSON is malformed"),
        (changed(global_batch_size=10**300), "more than 100 digits"),
        (changed(trials={"0": []}), "Expected `array`"),
        (changed(why={"__reduce__": ["os.system", "true"]}), "Expected `str`"),
        (changed(warnings=[[[[]]]]), "Expected `str`"),
    ],
)
def test_what_no_search_writes_is_refused(content: str, fact: str) -> None:
    with pytest.raises(SavedResultError) as caught:
        codec.parse(content, name="`r.json`")
    assert fact in caught.value.facts[0]
    assert not steers(str(caught.value))


BOUNDED = """
import resource, sys
from autobatch.storage import result_files
from autobatch.records.errors import SavedResultError
from autobatch.reports.text import terminal

resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
for path in sys.argv[1:]:
    try:
        print(len(terminal.render(result_files.load(path), colour=True)) < 10**8)
    except SavedResultError as error:
        print(error.code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit holds on Linux only")
def test_the_worst_files_of_the_largest_size_take_bounded_time_and_memory(tmp_path: Path) -> None:
    """A gibibyte and the patience of this suite: quadratic work on any of these would take hours."""
    room = result_files.MAX_BYTES - 20_000
    other = ', "other": '
    worst = {
        "lists": changed()[:-1] + other + "[" + "[]," * (room // 3 - 1) + "[]]}",
        "objects": changed()[:-1] + other + "[" + "{}," * (room // 3 - 1) + "{}]}",
        "fields": changed()[:-1] + other + '{"a":1' + ',"b":1' * (room // 6 - 2) + "}}",
        "nested": changed()[:-1] + other + "[" * room,
        "digits": changed()[:-1] + other + "9" * room + "}",
        "a word": changed(why="x" * room),
        "escapes": changed(why="\x1b" * (room // 6)),
        "blanks": changed(why="a " * (room // 2)),
        "a warning": changed(warnings=["\u202e" * (room // 6)]),
        "bytes": "x" * (result_files.MAX_BYTES + 1),
    }
    for name, content in worst.items():
        (tmp_path / name).write_text(content)
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, *(str(tmp_path / name) for name in worst)],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = dict(zip(worst, done.stdout.split(), strict=True))
    refused = {"fields": "damaged_result", "nested": "damaged_result", "digits": "not_json"}
    assert told == {**dict.fromkeys(worst, "True"), **refused, "bytes": "cannot_load"}


@POSIX
@pytest.mark.timeout(120)
def test_show_waits_for_nothing_and_follows_links_to_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    (tmp_path / "to_itself").symlink_to("to_itself")
    (tmp_path / "to_nothing").symlink_to("nothing")
    (tmp_path / "to_zeros").symlink_to("/dev/zero")
    result_files.save(SMALL, tmp_path / "result.json")
    (tmp_path / "to_result").symlink_to("result.json")
    assert result_files.load(tmp_path / "to_result") == SMALL
    for name, fact in (
        ("pipe", "it is not a regular file"),
        ("to_pipe", "it is not a regular file"),
        ("to_zeros", "it is not a regular file"),
        ("/dev/zero", "it is not a regular file"),
        (".", "it is a directory"),
        ("to_itself", "too many levels of symbolic links"),
        ("to_nothing", "no such file or directory"),
    ):
        command = [sys.executable, "-m", "autobatch", "show", name]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"error: `{name}` can't be read\n       {fact}\n")


UNREADABLE = """
import os, sys
from autobatch.storage import result_files
from autobatch.records.errors import SavedResultError

# Root may read anything.
if os.geteuid() == 0:
    os.setuid(65534)
try:
    result_files.load(sys.argv[1])
except SavedResultError as error:
    print(error.code, *error.facts)
"""


@POSIX
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    result_files.save(SMALL, tmp_path / "r.json")
    (tmp_path / "r.json").chmod(0)
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE, str(tmp_path / "r.json")],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "cannot_load permission denied\n"


def test_who_reads_while_it_is_saved_sees_all_or_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    long = replace(SMALL, warnings=("w" * 1000,) * 300)
    result_files.save(SMALL, path)
    over = threading.Event()

    def save() -> None:
        for number in range(40):
            result_files.save(SMALL if number % 2 else long, path)
        over.set()

    writer = threading.Thread(target=save)
    writer.start()
    try:
        while not over.is_set():
            assert result_files.load(path) in (SMALL, long)
    finally:
        writer.join()
    assert os.listdir(tmp_path) == ["r.json"]


# Temporary files


@POSIX
def test_what_find_sends_lies_in_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        with packed({"model": torch.nn.Linear(2, 2)}) as path:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            names = os.listdir(tmp_path)
            if sys.platform == "linux":
                assert names == []
            else:
                assert len(names) == 1
                assert re.fullmatch(r"autobatch-\w{8,}\.pt", names[0])
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == []
    assert not os.path.exists(path)


# What is shown


@settings(max_examples=60, deadline=None)
@given(recommendations(texts=HOSTILE), st.booleans())
def test_no_report_steers(recommendation: Recommendation, colour: bool) -> None:
    shown = terminal.render(recommendation, colour=colour)
    assert not steers(COLOURS.sub("", shown) if colour else shown)
    document = codec.render(recommendation)
    assert not steers(document)
    # A lone surrogate, which JSON can't hold, is told by its escape.
    assert (
        r"\ud800" in document
        or stdlib_json.loads(document)["why"] == recommendation.why
        or any("\ud800" <= char <= "\udfff" for char in recommendation.why)
    )


@settings(max_examples=100, deadline=None)
@given(devices(HOSTILE), workloads(HOSTILE), trials(HOSTILE), st.booleans(), st.integers(1, 120))
def test_no_row_steers(device: Device, workload: Workload, trial: Trial, colour: bool, width: int) -> None:
    for shown in (
        terminal.header(device, workload, colour=colour, width=width),
        paint(table.trial_row(trial, table.layout(workload, width)), colour=colour),
        terminal.render_devices((device, device), colour=colour, width=width),
    ):
        assert not steers(COLOURS.sub("", shown))


@settings(max_examples=100, deadline=None)
@given(HOSTILE, st.lists(HOSTILE, max_size=3), st.booleans(), st.integers(1, 120))
def test_no_error_steers(word: str, facts: list[str], colour: bool, width: int) -> None:
    error = TargetError(word, code="step_fails", facts=tuple(facts), hint=word)
    assert not steers(COLOURS.sub("", terminal.render_error(error, colour=colour, width=width)))
    assert not steers(str(error))
    assert not steers(codec.render_error(error))


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_reaches_the_painter_unescaped_is_escaped_there(attack: str, colour: bool) -> None:
    assert not steers(COLOURS.sub("", paint([((attack, "bold"), ("x", ""))], colour=colour)))


@given(
    HOSTILE
    | st.sampled_from(["a.py;rm -rf ~", "$(id).py", "`id`.py", "--save.py", "a b.py", "a.py\n", "a'.py"])
    | st.from_regex(r"[\w./\\:~+ -]{0,12}(\.py|:\w+)", fullmatch=True)
)
def test_a_suggested_command_is_one_command_with_the_target_as_its_argument(target: str) -> None:
    for command in next_commands(replace(SMALL, workload=replace(SMALL.workload, target=target))):
        program, verb, argument, *options = shlex.split(command)
        assert (program, verb, argument) == ("autobatch", "probe", target)
        assert options == ["--save", "result.json"]
        assert not target.startswith(("-", "~"))
        assert not set(command) & set(";&|$`<>(){}*?!#\n")


def test_markup_is_shown_as_it_is() -> None:
    names = "[red]Net[/red] [link=https://example.org]x[/link] :bomb: [/]"
    found = replace(SMALL, workload=replace(SMALL.workload, model=names), why=names)
    for colour in (False, True):
        shown = COLOURS.sub("", terminal.render(found, colour=colour, width=200))
        assert f"  {names} · convergence not checked" in shown


@settings(max_examples=200)
@given(HOSTILE, st.booleans())
def test_what_the_worker_prints_steers_nothing(line: str, colour: bool) -> None:
    shown = printable_output(line, colour=colour)
    assert not steers(COLOURS.sub("", shown) if colour else shown, allowed="\t")


@pytest.mark.parametrize(
    ("line", "in_colour", "plain"),
    [
        ("loss\t0.5 \x1b[1;32mgood\x1b[0m", "loss\t0.5 \x1b[1;32mgood\x1b[0m\x1b[0m", "loss\t0.5 good"),
        ("\r  0%|    |\r 50%|##  |\r100%|####|", "100%|####|", "100%|####|"),
        ("from Windows\r", "from Windows", "from Windows"),
        ("\x1b[31mred to the end", "\x1b[31mred to the end\x1b[0m", "red to the end"),
        ("\x1b[2J\x1b]52;c;eA==\x07", r"\x1b[2J\x1b]52;c;eA==\x07", r"\x1b[2J\x1b]52;c;eA==\x07"),
        ("\x1b[1A\x1b[K", r"\x1b[1A\x1b[K", r"\x1b[1A\x1b[K"),
        ("", "", ""),
        ("\r\r", "", ""),
    ],
)
def test_what_is_kept_of_what_the_worker_prints(line: str, in_colour: str, plain: str) -> None:
    assert printable_output(line, colour=True) == in_colour
    assert printable_output(line, colour=False) == plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_prints_do_not_disturb_the_live_line() -> None:
    screen = Terminal()
    with Display(screen, colour=True) as display:
        display.opened(Opened(device=SMALL.device, workload=SMALL.workload, torch="2"))
        display.trying(8)
        for attack in ATTACKS:
            display.print_line(attack.replace("\n", " "))
        display.tried(Trial(batch_size=8, outcome=Outcome.FAILED, detail="".join(ATTACKS)))
        display.checking("".join(ATTACKS))
    drawn = screen.getvalue()
    assert drawn.count("2/3 throughput  batch size 8") >= len(ATTACKS)
    drawn = re.sub(r"[^\n\r]*\r\x1b\[K", "", drawn)
    assert not steers(COLOURS.sub("", drawn))
    assert "throughput" not in drawn
    assert [line for line in drawn.split("\n") if line.endswith("red\x1b[0m")]


def test_errors_that_python_prints_by_itself_steer_nothing() -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "from autobatch.records.errors import TargetError\n"
            "raise TargetError('\\x1b[2Jx', code='c', facts=('a\\x9bb\\n  c\\rd',), hint='\\u202e')",
        ],
        cwd=PACKAGE.parent,
        capture_output=True,
        check=False,
    )
    shown = ended.stderr.decode()
    assert not steers(shown)
    assert shown.endswith("TargetError: \\x1b[2Jx\n  a\\x9bb\n    c\n  d\n\nhint: \\u202e\n")


MODEL = r"""
import sys
import torch
from torch import nn
from torch.utils.data import TensorDataset

NAME = "Evil\x1b[2J\x9b31m\u202e\r\n[red]"
print("\x1b]0;title\x07\x1b[31mprinted\x1b[0m\x9b2J")
print("\r10%\r99%", file=sys.stderr)

Net = type("Net" + NAME, (nn.Linear,), {})
Data = type("Data" + NAME, (TensorDataset,), {})
Adam = type("Adam" + NAME, (torch.optim.Adam,), {})
dataset = Data(torch.randn(32, 4), torch.randint(3, (32,)))

def build_model():
    return Net(4, 3)

def make_optimizer(params):
    return Adam(params)

def loss_fn(output, target):
    if FAILS:
        raise ValueError(NAME)
    return nn.functional.cross_entropy(output, target)

loss_fn.__name__ = "loss" + NAME
"""


@POSIX
@pytest.mark.slow
def test_names_of_a_model_file_through_the_real_command(tmp_path: Path) -> None:
    good, bad = tmp_path / "good\x1b[2J.py", tmp_path / "bad.py"
    good.write_text(MODEL + "\nFAILS = False\n")
    bad.write_text(MODEL + "\nFAILS = True\n")
    quick = ("--device", "cpu", "--max-batch", "2", "--budget", "5s", "--no-check")
    probe = [sys.executable, "-m", "autobatch", "probe"]
    ended = _side_by_side(
        tmp_path, [*probe, good.name, *quick, "--save", "r.json"], [*probe, bad.name, *quick]
    )
    (status, answer, progress), (failed_status, nothing, told) = ended
    assert (status, failed_status, nothing) == (0, 1, "")
    for shown in (answer, progress, told):
        assert not steers(shown)
    assert r"NetEvil\x1b[2J\x9b31m\u202e [red], 15 parameters" in answer
    assert r"DataEvil\x1b[2J\x9b31m\u202e [red]" in answer
    assert r"\x1b]0;title\x07printed\x9b2J" in progress
    assert "\n99%\n" in f"\n{progress}"
    assert "ValueError: Evil" in told
    assert stdlib_json.loads((tmp_path / "r.json").read_text())["workload"]["model"].startswith("NetEvil\x1b")
    ((_, shown, _), (_, as_json, _)) = _side_by_side(
        tmp_path, *([sys.executable, "-m", "autobatch", "show", "r.json", *more] for more in ([], ["--json"]))
    )
    assert shown == answer
    assert not steers(as_json)
    assert stdlib_json.loads(as_json) == stdlib_json.loads((tmp_path / "r.json").read_text())


def _side_by_side(folder: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "200"}
    started = [
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    printed = [one.communicate(timeout=120) for one in started]
    return [(one.returncode, *told) for one, told in zip(started, printed, strict=True)]
