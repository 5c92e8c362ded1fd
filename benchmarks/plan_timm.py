"""Predicted batch sizes against the largest that trained: timm's published runs on an RTX 3090.

    python benchmarks/plan_timm.py --data FOLDER --save FILE [--count 179] [--kitsune]

FOLDER holds timm's benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv (huggingface/pytorch-image-models,
results/). Each row's `train_batch_size` is the largest of a list of candidates that survived, so the truth
lies between it and the next candidate. Models are drawn by a fixed seed, one from each family in turn. Left
out are rows at the largest candidate, which have no upper end, and the models that rules and constants were
chosen on: the few that the code was written with, and the 120 of results/plan_timm_tuned.json.
The constants below were set before the first model was scored. Each model is traced in a process of its own;
what is there is saved after each, and a run goes on where the last one ended.

timm trained with torch 1.12 and CUDA 11.3: fp16 autocast around the step, SGD with Nesterov momentum one
parameter at a time, gradients zeroed and kept, attention without fused kernels. The models are those of
timm 0.6.7, of the month of the runs: some names stand for other models today.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
from timm_table import Row, drawn, read, tuned

from autobatch.memory import cuda_rules
from autobatch.memory.storage_log import align
from autobatch.memory.trace import trace_step
from autobatch.planning.capacity import StepMemory

# 23.69 GiB less what CUDA 11 and a process of its time hold of them: chosen on the models that are left out,
# where all from 21.86 to 21.96 does as well.
ROOM_BYTES = int(21.9 * 2**30)
SHARE = 0.92
SIZES = (4, 8)
SCALES = (0.9, 0.95, 1.0, 1.05, 1.1)
SEED = 6
TIMM = "0.6.7"
# torch 1.12 had no rule of autocast for these.
LATER_RULES = frozenset(
    {"rms_norm", "logsumexp", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"}
    | {f"{kind}upsample_nearest{exact}{n}d" for n in (1, 2, 3) for kind, exact in (("", ""), ("_", "_exact"))}
    | {"upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"}
)
MODEL_SECONDS = 1200
KITSUNE_SECONDS = 120

Asked = Callable[[str, int], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with timm's figures")
    parser.add_argument("--save", type=Path, required=True, help="write the figures as JSON")
    parser.add_argument("--count", type=int, default=179, help="models to draw")
    parser.add_argument(
        "--kitsune", action="store_true", help="ask torch-kitsune instead, which must be installed"
    )
    options = parser.parse_args()
    if timm.__version__ != TIMM:
        parser.error(f"needs timm {TIMM}, found {timm.__version__}: names stand for other models there")
    rows = drawn(read(options.data), options.count, SEED)
    known = json.loads(options.save.read_text())["models"] if options.save.exists() else {}
    for number, row in enumerate(rows, start=1):
        told = known.setdefault(row.model, {})
        if options.kitsune and "kitsune" not in told:
            told["kitsune"] = in_child(by_kitsune, row, KITSUNE_SECONDS)
        elif not options.kitsune and "image_size" not in told:
            told |= scored(row, in_child(predicted, row, MODEL_SECONDS))
        save(options.save, known, rows)
        print(f"{number}/{len(rows)} {row.model}: {told}", file=sys.stderr, flush=True)


def in_child(asked: Asked, row: Row, seconds: float) -> dict[str, Any]:
    """The answer from a process of its own; its error where it came to none in time."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, asked, row, _file_bytes()))
    process.start()
    theirs.close()
    try:
        return dict(ours.recv()) if ours.poll(seconds) else {"error": f"no end after {seconds} s"}
    except EOFError:
        return {"error": "its process died"}
    finally:
        process.kill()
        process.join()


def _answer(answers: Connection, asked: Asked, row: Row, libraries_bytes: int) -> None:
    begin = time.perf_counter()
    try:
        found = asked(row.model, row.image_size)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"[:300]}
    # A fork has the libraries' pages as far as it has touched them; a program of its own has them all.
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answers.send(
        found
        | {
            "seconds": round(time.perf_counter() - begin, 1),
            "processor_seconds": round(time.process_time(), 1),
            "peak_rss_bytes": peak_bytes + max(0, libraries_bytes - _file_bytes()),
        }
    )


def _file_bytes() -> int:
    """The memory of this process that files stand for."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    return 0


def predicted(name: str, image_size: int) -> dict[str, Any]:
    """The largest size for a model in ROOM_BYTES by two traces."""
    cuda_rules.IN_FP32 = tuple(one for one in cuda_rules.IN_FP32 if one not in LATER_RULES)
    cuda_rules.install()
    model = built_model(name, image_size)
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
    lifetimes = align(traces[0].events, SIZES[0], traces[1].events, SIZES[1])
    if lifetimes is None:
        raise ValueError("the step has another structure at another size")
    memory = StepMemory(lifetimes)
    return {
        "predicted": memory.largest(ROOM_BYTES),
        "ceiling": memory.ceiling(ROOM_BYTES),
        "millions": round(sum(one.numel() for one in model.parameters()) / 1e6, 2),
        "events": len(traces[0].events),
    }


def built_model(name: str, image_size: int) -> Any:
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
        low, high = int(SHARE * found["predicted"]), found["ceiling"]
        told["verdict"] = row.verdict(found["predicted"])
        told["low_end_fits"] = low < row.next_size
        told["in_range"] = low < row.next_size and high >= row.batch_size
    return told


def save(path: Path, known: dict[str, Any], rows: list[Row]) -> None:
    """Writes what is there so far, with the counts."""
    told = [row for row in rows if "verdict" in known.get(row.model, {})]
    theirs = [row for row in rows if "kitsune" in known.get(row.model, {})]
    answered = [row for row in theirs if "predicted" in known[row.model]["kitsune"]]
    late = [row for row in theirs if "no end" in known[row.model]["kitsune"].get("error", "")]
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "constants": {"room_bytes": ROOM_BYTES, "share": SHARE, "sizes": SIZES, "seed": SEED},
        "tuned": sorted(tuned()),
        "counts": {
            **counted([(row, known[row.model]["predicted"]) for row in told]),
            "range_holds": sum(known[row.model]["in_range"] for row in told),
            "low_end_fits": sum(known[row.model]["low_end_fits"] for row in told),
            "failed": sum("error" in known.get(row.model, {}) for row in rows),
        },
        "inside_by_scale": {
            str(scale): counted([(row, scale * known[row.model]["predicted"]) for row in told])["inside"]
            for scale in SCALES
        },
        "torch_kitsune": {
            **counted([(row, known[row.model]["kitsune"]["predicted"]) for row in answered]),
            "no_end": len(late),
            "failed": len(theirs) - len(answered) - len(late),
        },
        "models": known,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def counted(sizes: list[tuple[Row, float]]) -> dict[str, Any]:
    """How many sizes lie where, and the lower end of the 95% interval of Wilson for those inside."""
    verdicts = [row.verdict(size) for row, size in sizes]
    counts = {name: verdicts.count(name) for name in ("inside", "under", "over")}
    return {"models": len(sizes), **counts, "inside_at_least": wilson_low(counts["inside"], len(sizes))}


def wilson_low(hits: int, count: int, z: float = 1.96) -> float:
    """The lower end of the score interval of a share (E. B. Wilson, 1927)."""
    if not count:
        return 0.0
    share = hits / count
    middle = share + z * z / (2 * count)
    width = z * (share * (1 - share) / count + (z / (2 * count)) ** 2) ** 0.5
    return round((middle - width) / (1 + z * z / count), 3)


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
