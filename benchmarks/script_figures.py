"""How exact the measurement of an unmodified script is: overhead, sizes in place, gradient noise.

python benchmarks/script_figures.py overhead    a watched step against one that is not watched
python benchmarks/script_figures.py in-place    sizes changed in place against restarted processes
python benchmarks/script_figures.py noise       the noise of a script against that of the same model file
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
STEPS = """
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

watch = Watch(Silent(), None, 10)
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
CONVOLUTIONS = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
data = TensorDataset(torch.randn(8192, 3, 16, 16), torch.randint(10, (8192,)))
loader = DataLoader(data, batch_size=64, shuffle=True)
model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(),
                      nn.Linear(32 * 144, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
while True:
    for inputs, targets in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
"""
DIGITS = """
from torch.utils.data import DataLoader
from autobatch.examples.digits_cnn import build_dataset, build_model, loss_fn, make_optimizer
model = build_model()
optimizer = make_optimizer(model.parameters())
loader = DataLoader(build_dataset(), batch_size=32, shuffle=True)
for epoch in range(10_000):
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
"""
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = {"overhead": print_overhead, "in-place": print_in_place, "noise": print_noise}
    parser.add_argument("figure", choices=commands)
    commands[parser.parse_args().figure]()


def print_overhead() -> None:
    """Watched steps against released ones, in turns within a process; the median over processes."""
    pairs: list[Sequence[float]] = []
    for _ in range(3):
        ended = subprocess.run(
            [sys.executable, "-c", STEPS + PAIRED],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        pairs.append([float(number) for number in ended.stdout.split()])
    print(f"a watched step takes {median(pair[0] for pair in pairs):.3f} times as long as a released one,")
    print(f"{median(pair[1] for pair in pairs):.0f} microseconds more")


def print_in_place() -> None:
    """Step time and peak of sizes in one process, against a process for each; in turns, ratios of medians."""
    sys.path.insert(0, str(ROOT))
    from autobatch.scripts.command import Command
    from autobatch.scripts.process import ScriptProcess
    from autobatch.scripts.scratch import scratch_folder

    sizes = (32, 64, 128, 256)
    times: dict[tuple[str, int], list[float]] = {}
    peaks: dict[tuple[str, int], list[int]] = {}

    def measure(process: ScriptProcess, how: str, size: int) -> None:
        (result,) = process.ask(order(size), 120)
        times.setdefault((how, size), []).append(median(result["round_seconds"]))
        peaks.setdefault((how, size), []).append(result["peak_bytes"])

    with scratch_folder() as folder, tempfile.TemporaryDirectory() as place:
        script = Path(place) / "train.py"
        script.write_text(CONVOLUTIONS)
        command = Command(words=(sys.executable, str(script)), variables=("OMP_NUM_THREADS=1",))
        line = 1 + CONVOLUTIONS.splitlines().index("loader = DataLoader(data, batch_size=64, shuffle=True)")
        for _ in range(ROUNDS):
            together = ScriptProcess(command, folder)
            together.observe(120)
            for size in sizes:
                measure(together, "in place", size)
                in_code = {"file": str(script.resolve()), "line": line, "current": 64, "batch_size": size}
                alone = ScriptProcess(command, folder, in_code=in_code)
                alone.observe(120)
                measure(alone, "restarted", size)
                alone.close()
            together.close()
    print("| batch size | step, in place | restarted | ratio | peak, in place | restarted | ratio |")
    print("|---|---|---|---|---|---|---|")
    for size in sizes:
        first, second = (median(times[how, size]) for how in ("in place", "restarted"))
        most, other = (median(peaks[how, size]) / 2**20 for how in ("in place", "restarted"))
        print(
            f"| {size} | {1e3 * first:.1f} ms | {1e3 * second:.1f} ms | {first / second:.2f} "
            f"| {most:.0f} MiB | {other:.0f} MiB | {most / other:.2f} |"
        )


def order(size: int) -> dict[str, Any]:
    rounds = {"rounds": 9, "round_steps": 3, "warm_up": 3}
    return {
        "do": "measure",
        "batch_size": size,
        "in_place": True,
        "dimension": 0,
        "settle": None,
        "seconds": 100,
        **rounds,
    }


def print_noise() -> None:
    """The critical batch size and its interval, of a script and of the same training as a model file."""
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "train.py"
        script.write_text(DIGITS)
        targets = {
            "script": ["--budget", "60s", "--", sys.executable, str(script)],
            "model file": ["--budget", "30s", "--fresh", "autobatch.examples.digits_cnn"],
        }
        for name, arguments in targets.items():
            ended = subprocess.run(
                [sys.executable, "-m", "autobatch", "probe", "--json", *arguments],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
            )
            check = json.loads(ended.stdout)["check"]
            points = [f"{p['batch_size']:.0f} (low {p['low']:.0f})" for p in check["noise_points"]]
            scale, interval = check["noise_scale"], check["interval"]
            print(f"{name}: noise scale {scale:.0f}, critical batch size in {interval}; points {points}")


if __name__ == "__main__":
    main()
