"""The snippets of a Markdown file, and a program that runs them in order in the current folder.

    python snippets.py docs/pipelines.md

- ```python blocks run in one namespace, so a snippet may use what those above it made.
- ```console blocks: lines that begin with `$ ` are commands, the others show what comes of them.
- ```sh blocks are scripts.
- `<!-- file: NAME -->` above any block: it is that file's content, and is written, not run.
- `<!-- not run: REASON -->` above any block: it is not run, and says so.

Where no snippet defines them, `model`, `dataset`, `optimizer` and `DataLoader` stand for the reader's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

RUN = ("python", "console", "sh")
STAND_INS = {
    "model": "from autobatch.examples.digits_cnn import build_model; model = build_model()",
    "dataset": "from autobatch.examples.digits_cnn import build_dataset; dataset = build_dataset()",
    "optimizer": "import torch; optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)",
    "DataLoader": "from torch.utils.data import DataLoader",
}
# They set up the checkout itself, which is done wherever a test runs.
SETS_UP = re.compile(r"(make (demo|test)|pip install)\b")

_FENCE = re.compile(r"^```([\w{}-]*)(?: .*)?$")
_MARKER = re.compile(r"^<!-- (file|not run): (.+) -->$")


@dataclass(frozen=True)
class Snippet:
    """A block of code: its language, the line of the file that it begins on, and what is above it."""

    language: str
    line: int
    text: str
    file: str = ""
    not_run: str = ""

    @property
    def commands(self) -> list[str]:
        """The commands of a console block; one that ends in a backslash goes on in the next line."""
        joined = self.text.replace("\\\n", " ")
        return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def parse(text: str) -> Iterator[Snippet]:
    """The blocks that are to be run or written, and those that say why they are not."""
    lines = text.splitlines()
    number, marker = 0, ("", "")
    while number < len(lines):
        fence, found = _FENCE.match(lines[number]), _MARKER.match(lines[number])
        number += 1
        if found:
            marker = found[1], found[2]
        elif fence:
            begin = number
            while lines[number] != "```":
                number += 1
            code = "\n".join(lines[begin:number]) + "\n"
            number += 1
            kind, said = marker
            if fence[1] in RUN or kind:
                yield Snippet(
                    fence[1],
                    begin,
                    code,
                    file=said if kind == "file" else "",
                    not_run=said if kind == "not run" else "",
                )
            marker = "", ""
        elif lines[number - 1].strip():
            marker = "", ""


def run(text: str) -> None:
    """Runs all snippets in the current folder; raises what one raises, and names its line on stderr."""
    snippets = list(parse(text))
    namespace = sys.modules["__main__"] = ModuleType("__main__")
    namespace.__dict__["__builtins__"] = __builtins__
    used = {name for one in snippets if _is_python(one) for name in compile(one.text, "", "exec").co_names}
    for name, made in STAND_INS.items():
        if name in used or (name == "model" and "optimizer" in used):
            exec(made, namespace.__dict__)
    for snippet in snippets:
        try:
            _run_one(snippet, namespace)
        except BaseException:
            print(f"in the snippet of line {snippet.line}", file=sys.stderr)
            raise


def _is_python(snippet: Snippet) -> bool:
    return snippet.language == "python" and not snippet.file and not snippet.not_run


def _run_one(snippet: Snippet, namespace: ModuleType) -> None:
    if snippet.not_run:
        print(f"line {snippet.line}: not run: {snippet.not_run}")
    elif snippet.file:
        path = Path(snippet.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(snippet.text, encoding="utf-8")
    elif snippet.language == "python":
        exec(compile(snippet.text, f"line {snippet.line}", "exec"), namespace.__dict__)
    elif snippet.language == "sh":
        _shell(snippet.text)
    else:
        for command in snippet.commands:
            if not SETS_UP.match(command):
                _shell(command)


def _shell(script: str) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(
        ["sh", "-ec", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    print(ended.stdout, end="")
    if ended.returncode:
        raise RuntimeError(f"`{script.strip()}` ended with status {ended.returncode}:\n{ended.stderr}")


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    try:
        run(Path(sys.argv[1]).read_text(encoding="utf-8"))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
