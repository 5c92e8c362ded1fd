"""Public training scripts, unmodified: knob, proof, answer and seconds of each, and the overhead of watching.

    python benchmarks/scripts.py --folder FOLDER [--only NAME ...]
    python benchmarks/scripts.py --overhead

The first run fetches the repositories into FOLDER by git, at the commits of `SCRIPTS`. Nothing of them is
part of this repository. Scripts that read data need it in the folder that they expect. A commit of `HEAD` is
not pinned yet: the row says which commit ran.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Script:
    """A public script: `folder` in a repository of GitHub, the command there, and its known batch size."""

    name: str
    repository: str
    folder: str
    command: tuple[str, ...]
    batch_size: int | None
    commit: str = "HEAD"


EXAMPLES = "pytorch/examples"
SCRIPTS = (
    Script(name="mnist", repository=EXAMPLES, folder="mnist", command=("python", "main.py"), batch_size=64),
    Script(name="vae", repository=EXAMPLES, folder="vae", command=("python", "main.py"), batch_size=128),
    Script(
        name="dcgan",
        repository=EXAMPLES,
        folder="dcgan",
        command=("python", "main.py", "--dataset", "fake"),
        batch_size=64,
    ),
    Script(
        name="super_resolution",
        repository=EXAMPLES,
        folder="super_resolution",
        command=("python", "main.py", "--upscale_factor", "3"),
        batch_size=64,
    ),
    Script(
        name="imagenet_dummy",
        repository=EXAMPLES,
        folder="imagenet",
        command=("python", "main.py", "-a", "resnet18", "--dummy", "-b", "32"),
        batch_size=32,
    ),
    Script(
        name="word_language_model",
        repository=EXAMPLES,
        folder="word_language_model",
        command=("python", "main.py", "--batch_size", "{batch_size=20}"),
        batch_size=None,
    ),
    Script(
        name="time_sequence_prediction",
        repository=EXAMPLES,
        folder="time_sequence_prediction",
        command=("python", "train.py"),
        batch_size=None,
    ),
    Script(
        name="nanogpt",
        repository="karpathy/nanoGPT",
        folder=".",
        command=(
            *("python", "train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False"),
            *("--eval_iters=1", "--block_size=64", "--n_layer=2", "--n_head=2", "--n_embd=64"),
            *("--gradient_accumulation_steps=4", "--batch_size={batch_size=12}"),
        ),
        batch_size=48,
    ),
    Script(
        name="accelerate_nlp",
        repository="huggingface/accelerate",
        folder="examples",
        command=("python", "nlp_example.py", "--cpu"),
        batch_size=16,
    ),
    Script(
        name="keras_mnist",
        repository="keras-team/keras-io",
        folder="examples/vision",
        command=("KERAS_BACKEND=torch", "python", "mnist_convnet.py"),
        batch_size=128,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[script.name for script in SCRIPTS])
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--overhead", action="store_true")
    options = parser.parse_args()
    if options.overhead:
        print_overhead()
        return
    if options.folder is None:
        parser.error("give --folder, or --overhead")
    print("| script | commit | knob | size | proven | answer | seconds |")
    print("|---|---|---|---|---|---|---|")
    for script in SCRIPTS:
        if script.name in options.only:
            print(row(script, options.folder, options.budget), flush=True)


def row(script: Script, folder: Path, budget: str) -> str:
    """The table row of one script, measured now."""
    place, commit = fetched(script, folder)
    words = tuple(sys.executable if word == "python" else word for word in script.command)
    begin = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "autobatch", "probe", "--json", "--budget", budget, "--", *words],
        cwd=place / script.folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    seconds = f"{time.monotonic() - begin:.0f}"
    answer = json.loads(ended.stdout)
    if "error" in answer:
        cells = (f"refused: {answer['error']['code']}", "", "", "")
    else:
        size = answer["workload"]["batch_size"]
        known = script.batch_size
        found = f"{size}" if known in (None, size) else f"{size} (not {known})"
        proven = "yes" if answer["script"]["proven"] else "no"
        cells = (answer["script"]["knob"], found, proven, str(answer["batch_size"]))
    return f"| {' | '.join((script.name, commit[:10], *cells, seconds))} |"


def fetched(script: Script, folder: Path) -> tuple[Path, str]:
    """The checkout of a script's repository, fetched where it is missing, and its commit."""
    place = folder / script.repository.replace("/", "+")
    if not place.exists():
        place.mkdir(parents=True)
        git(place, "init", "--quiet")
        git(place, "remote", "add", "origin", f"https://github.com/{script.repository}")
        git(place, "fetch", "--quiet", "--depth", "1", "origin", script.commit)
        git(place, "checkout", "--quiet", "FETCH_HEAD")
    return place, git(place, "rev-parse", "HEAD")


def git(place: Path, *arguments: str) -> str:
    ended = subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True)
    return ended.stdout.strip()


OVERHEAD = """
import sys, time, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.randn(64 * 400, 64), torch.randint(10, (64 * 400,))), batch_size=64)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
batches = iter(loader)

def seconds(steps):
    # Processor time: other processes don't count.
    begin = time.process_time()
    for _ in range(steps):
        inputs, targets = next(batches)
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.process_time() - begin) / steps
"""
PAIRED = """
from autobatch.scripts.child import hooks
from autobatch.scripts.child.watch import Watch
from statistics import median

class Silent:
    is_mine = True
    def send(self, event, **facts): pass
    def receive(self): return {"do": "end"}

watch = Watch(Silent())
hooks.install(watch, None)
watch._task = type("Endless", (), {"frozen": False, "learning_rate_factor": None, "waits_for_device": False,
                                   "done": False, "take": lambda self, step: None})()
batches = iter(loader)
seconds(5)
ratios, differences = [], []
for _ in range(18):
    watch.released = False
    watched = seconds(10)
    watch.released = True
    alone = seconds(10)
    ratios.append(watched / alone)
    differences.append(watched - alone)
print(f"{median(ratios):.4f} {1e6 * median(differences):.1f}")
"""


def print_overhead() -> None:
    """Watched steps against released ones, in turns within a process; the median over processes."""
    pairs: list[Sequence[float]] = []
    for _ in range(3):
        ended = subprocess.run(
            [sys.executable, "-c", OVERHEAD + PAIRED],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        pairs.append([float(number) for number in ended.stdout.split()])
    print(f"a watched step takes {median(pair[0] for pair in pairs):.3f} times as long as a released one,")
    print(f"{median(pair[1] for pair in pairs):.0f} microseconds more")


if __name__ == "__main__":
    main()
