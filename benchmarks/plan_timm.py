"""Predicted batch sizes against the largest that trained: timm's published runs on an RTX 3090.

    python benchmarks/plan_timm.py --data FOLDER --save FILE [--count 120] [--kitsune]

FOLDER holds timm's benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv (huggingface/pytorch-image-models,
results/). Each row's `train_batch_size` is the largest of a list of candidates that survived, so the truth
lies between it and the next candidate. Models are drawn by a fixed seed, one from each family in turn. Left
out are rows at the largest candidate, which have no upper end, and the models that the code was written with
(TUNED).
The constants below were set before the first model was scored. Each model is traced in a process of its own;
what is there is saved after each, and a run goes on where the last one ended.

timm trained with torch 1.12 and CUDA 11.3: fp16 autocast around the step, SGD with Nesterov momentum one
parameter at a time, gradients zeroed and kept, attention without fused kernels.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# 23.69 GiB less what CUDA 11 and a process of its time hold of them, fixed before any model was seen.
ROOM_BYTES = int(22.5 * 2**30)
SHARE = 0.95
SIZES = (4, 8)
SCALES = (0.9, 0.95, 1.0, 1.05, 1.1)
# The rules were found on these.
TUNED = ("resnet101", "vit_base_patch16_224", "convnext_tiny", "resnet50", "resnet18")
# torch 1.12 had no rule of autocast for these.
LATER_RULES = frozenset(
    {"rms_norm", "logsumexp", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"}
    | {f"{kind}upsample_nearest{exact}{n}d" for n in (1, 2, 3) for kind, exact in (("", ""), ("_", "_exact"))}
    | {"upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"}
)
MODEL_SECONDS = 1200


@dataclass(frozen=True)
class Row:
    """A model as timm trained it, its parameters in millions, and the largest candidate that survived."""

    model: str
    image_size: int
    batch_size: int
    millions: float

    @property
    def family(self) -> str:
        found = re.match(r"(tf_)?[a-z]+", self.model)
        return found[0] if found else self.model

    @property
    def next_size(self) -> int:
        return CANDIDATES[CANDIDATES.index(self.batch_size) + 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with timm's figures")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    parser.add_argument("--count", type=int, default=120, help="models to draw")
    parser.add_argument(
        "--kitsune", action="store_true", help="ask torch-kitsune too, which must be installed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        ask = by_kitsune if options.kitsune else predicted
        print(json.dumps(ask(options.one[0], int(options.one[1]))))
        return
    rows = drawn(read(options.data), options.count, options.seed)
    known = json.loads(options.save.read_text())["models"] if options.save.exists() else {}
    for number, row in enumerate(rows, start=1):
        if row.model not in known:
            known[row.model] = scored(row, in_child(row))
            save(options.save, known, rows)
        if options.kitsune and "verdict" in known[row.model] and "kitsune" not in known[row.model]:
            known[row.model]["kitsune"] = in_child(row, "--kitsune").get("predicted")
            save(options.save, known, rows)
        print(f"{number}/{len(rows)} {row.model}: {known[row.model]}", file=sys.stderr, flush=True)
    save(options.save, known, rows)


def read(folder: Path) -> list[Row]:
    """The rows whose truth has two ends."""
    with (folder / "benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv").open() as file:
        found = [
            Row(
                line["model"],
                int(line["train_img_size"]),
                int(line["train_batch_size"]),
                float(line["param_count"]),
            )
            for line in csv.DictReader(file)
        ]
    return [row for row in found if row.batch_size < CANDIDATES[-1] and row.model not in TUNED]


def drawn(rows: list[Row], count: int, seed: int) -> list[Row]:
    """`count` rows: one of each family in turn, in an order that the seed decides."""
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    chance = random.Random(seed)
    decks = [families[name] for name in sorted(families)]
    for deck in decks:
        chance.shuffle(deck)
    chance.shuffle(decks)
    found: list[Row] = []
    while len(found) < count and any(decks):
        found += [deck.pop() for deck in decks if deck]
    return found[:count]


def in_child(row: Row, *options: str) -> dict[str, Any]:
    """The prediction from a process of its own; its error where it came to none."""
    command = [sys.executable, __file__, "--one", row.model, str(row.image_size), *options]
    environment = {**os.environ, "TIMM_FUSED_ATTN": "0"}
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=MODEL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {MODEL_SECONDS} s"}
    if ended.returncode:
        return {"error": (ended.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def predicted(name: str, image_size: int) -> dict[str, Any]:
    """The largest size for a model in ROOM_BYTES by two traces, with what they took."""
    import torch

    from autobatch.memory import cuda_rules
    from autobatch.memory.storage_log import align
    from autobatch.memory.trace import trace_step
    from autobatch.planning.capacity import StepMemory

    cuda_rules.IN_FP32 = tuple(one for one in cuda_rules.IN_FP32 if one not in LATER_RULES)
    cuda_rules.install()
    begin = time.perf_counter()
    model = built_model(name, image_size)
    built = time.perf_counter()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, foreach=False)
    loss_fn = torch.nn.CrossEntropyLoss()

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cpu", torch.float16):
            output = model(batch[0])
            output = output[0] if isinstance(output, tuple) else output
            loss_fn(output, batch[1]).backward()
        optimizer.step()

    traces = [
        trace_step(
            model,
            [optimizer],
            (torch.zeros(size, 3, image_size, image_size), torch.zeros(size, dtype=torch.long)),
            step,
            fake=True,
            channels_last=True,
        )
        for size in SIZES
    ]
    traced = time.perf_counter()
    lifetimes = align(traces[0].events, SIZES[0], traces[1].events, SIZES[1])
    if lifetimes is None:
        raise ValueError("the step has another structure at another size")
    memory = StepMemory(lifetimes)
    size = memory.largest(ROOM_BYTES)
    return {
        "predicted": size,
        "ceiling": memory.ceiling(ROOM_BYTES),
        "millions": round(sum(one.numel() for one in model.parameters()) / 1e6, 2),
        "events": len(traces[0].events),
        "build_seconds": round(built - begin, 1),
        "trace_seconds": round(traced - built, 1),
        "search_seconds": round(time.perf_counter() - traced, 1),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def built_model(name: str, image_size: int) -> Any:
    import timm

    try:
        model = timm.create_model(name, pretrained=False, img_size=image_size)
    except TypeError:
        # What takes images of any size has no such argument.
        model = timm.create_model(name, pretrained=False)
    return model.train()


def by_kitsune(name: str, image_size: int) -> dict[str, Any]:
    """The largest size by torch-kitsune, whose estimate is a straight line, in the same ROOM_BYTES.

    In float32: it knows no autocast, and with float16 inputs to weights in fp32 it answers hundreds of GiB.
    """
    from kitsune.predict import predict_memory

    model = built_model(name, image_size)
    one, two = (
        predict_memory(model, (3, image_size, image_size), size, "float32", "sgd").total_bytes
        for size in (1, 2)
    )
    return {"predicted": max(0, int((ROOM_BYTES - (2 * one - two)) // (two - one)))}


def scored(row: Row, found: dict[str, Any]) -> dict[str, Any]:
    """The prediction beside the truth: inside, under or over."""
    told = {"image_size": row.image_size, "true": row.batch_size, "next": row.next_size, **found}
    if "millions" in found and abs(found["millions"] / row.millions - 1) > 0.01:
        # The name stands for another model by now.
        told["millions_then"] = row.millions
    if "predicted" in found:
        told["verdict"] = verdict(row, found["predicted"])
        low, high = int(SHARE * found["predicted"]), found["ceiling"]
        told["in_range"] = low < row.next_size and high >= row.batch_size
    return told


def verdict(row: Row, size: float) -> str:
    return "under" if size < row.batch_size else "over" if size >= row.next_size else "inside"


def save(path: Path, known: dict[str, Any], rows: list[Row]) -> None:
    """Writes what is there so far, with the counts."""
    there = [row for row in rows if row.model in known]
    told = [row for row in there if "verdict" in known[row.model]]
    counts = {
        "models": len(told),
        **{
            name: sum(known[row.model]["verdict"] == name for row in told)
            for name in ("inside", "under", "over")
        },
        "range_holds": sum(known[row.model]["in_range"] for row in told),
        "low_end_fits": sum(int(SHARE * known[row.model]["predicted"]) < row.next_size for row in told),
        "failed": len(there) - len(told),
    }
    scaled = {
        str(scale): sum(verdict(row, scale * known[row.model]["predicted"]) == "inside" for row in told)
        for scale in SCALES
    }
    others = [
        (row, known[row.model]["kitsune"]) for row in told if known[row.model].get("kitsune") is not None
    ]
    theirs = {
        "models": len(others),
        **{
            name: sum(verdict(row, size) == name for row, size in others)
            for name in ("inside", "under", "over")
        },
    }
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "constants": {"room_bytes": ROOM_BYTES, "share": SHARE, "sizes": SIZES, "tuned": TUNED},
        "counts": counts,
        "inside_by_scale": scaled,
        "torch_kitsune": theirs,
        "models": known,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def environment() -> dict[str, str]:
    from importlib.metadata import distributions, version

    names = ("torch", "torchvision", "timm", "torch-kitsune")
    installed = {one.metadata["Name"] for one in distributions()}
    return {
        **{name: version(name) for name in names if name in installed},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


if __name__ == "__main__":
    main()
