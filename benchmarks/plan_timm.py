"""Predicted batch sizes against the largest that trained: timm's published runs on an RTX 3090.

    python benchmarks/plan_timm.py --data FOLDER --save FILE [--count 179] [--kitsune]

FOLDER holds timm's benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv (huggingface/pytorch-image-models,
results/). Each row's `train_batch_size` is the largest of a list of candidates that trained, so the true size
lies between it and the next candidate. A fixed seed draws the models, one from each family in turn. Left out
are rows at the largest candidate, which have no upper end, and the models that rules and constants were tuned
on: a few from development, and the 120 of results/plan_timm_tuned.json. The constants below were set before
the first model was scored. Each model is traced in a separate process. The results are saved after each
model, and a run continues where the last run ended.

timm trained with torch 1.12 and CUDA 11.3: fp16 autocast around the step, SGD with Nesterov momentum
parameter by parameter, gradients zeroed and kept, attention without fused kernels. The models are those of
timm 0.6.7, from the month of the runs: some names stand for other models today.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
from timm_table import Row, draw, read, tuned

from autobatch.memory import cuda_rules
from autobatch.memory.storage_log import align
from autobatch.memory.trace import trace_step
from autobatch.planning.capacity import StepMemory

# 23.69 GiB without the memory of CUDA 11 and of a process at that time. Tuned on the left-out models, where
# all values from 21.86 to 21.96 do equally well.
ROOM_BYTES = int(21.9 * 2**30)
SHARE = 0.92
SIZES = (4, 8)
SCALES = (0.9, 0.95, 1.0, 1.05, 1.1)
SEED = 6
TIMM = "0.6.7"
# torch 1.12 had no autocast rule for these.
LATER_RULES = frozenset(
    {"rms_norm", "logsumexp", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"}
    | {f"{kind}upsample_nearest{exact}{n}d" for n in (1, 2, 3) for kind, exact in (("", ""), ("_", "_exact"))}
    | {"upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"}
)
MODEL_SECONDS = 1200
KITSUNE_SECONDS = 120

Prediction = Callable[[str, int], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with timm's figures")
    parser.add_argument("--save", type=Path, required=True, help="write the figures as JSON")
    parser.add_argument("--count", type=int, default=179, help="models to draw")
    parser.add_argument(
        "--kitsune", action="store_true", help="predict with torch-kitsune, which must be installed"
    )
    options = parser.parse_args()
    if timm.__version__ != TIMM:
        parser.error(f"needs timm {TIMM}, found {timm.__version__}: names stand for other models there")
    rows = draw(read(options.data), options.count, SEED)
    models = json.loads(options.save.read_text())["models"] if options.save.exists() else {}
    for number, row in enumerate(rows, start=1):
        result = models.setdefault(row.model, {})
        if options.kitsune and "kitsune" not in result:
            result["kitsune"] = in_child(by_kitsune, row, KITSUNE_SECONDS)
        elif not options.kitsune and "image_size" not in result:
            result |= score(row, in_child(predict, row, MODEL_SECONDS))
        save(options.save, models, rows)
        print(f"{number}/{len(rows)} {row.model}: {result}", file=sys.stderr, flush=True)


def in_child(predict_size: Prediction, row: Row, seconds: float) -> dict[str, Any]:
    """The prediction from a separate process; an error where it failed or took too long."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, predict_size, row, _file_bytes()))
    process.start()
    sender.close()
    try:
        return dict(receiver.recv()) if receiver.poll(seconds) else {"error": f"no end after {seconds} s"}
    except EOFError:
        return {"error": "its process died"}
    finally:
        process.kill()
        process.join()


def _answer(sender: Connection, predict_size: Prediction, row: Row, libraries_bytes: int) -> None:
    begin = time.perf_counter()
    try:
        prediction = predict_size(row.model, row.image_size)
    except Exception as error:
        prediction = {"error": f"{type(error).__name__}: {error}"[:300]}
    # A fork holds only the library pages that it has touched; a separate program holds them all.
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sender.send(
        prediction
        | {
            "seconds": round(time.perf_counter() - begin, 1),
            "processor_seconds": round(time.process_time(), 1),
            "peak_rss_bytes": peak_bytes + max(0, libraries_bytes - _file_bytes()),
        }
    )


def _file_bytes() -> int:
    """The resident memory of this process that files back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    return 0


def predict(name: str, image_size: int) -> dict[str, Any]:
    """The largest size of a model in ROOM_BYTES, from two traces."""
    cuda_rules.IN_FP32 = tuple(name for name in cuda_rules.IN_FP32 if name not in LATER_RULES)
    cuda_rules.install()
    model = build_model(name, image_size)
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
        raise ValueError("the step's structure changes with its size")
    memory = StepMemory(lifetimes)
    return {
        "predicted": memory.largest(ROOM_BYTES),
        "ceiling": memory.ceiling(ROOM_BYTES),
        "millions": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2),
        "events": len(traces[0].events),
    }


def build_model(name: str, image_size: int) -> Any:
    try:
        model = timm.create_model(name, pretrained=False, img_size=image_size)
    except TypeError:
        # Models for images of any size have no such argument.
        model = timm.create_model(name, pretrained=False)
    return model.train()


def by_kitsune(name: str, image_size: int) -> dict[str, Any]:
    """The largest size by torch-kitsune, whose estimate is linear in the size, in the same ROOM_BYTES.

    In float32: torch-kitsune has no autocast, and answers hundreds of GiB for float16 inputs to fp32 weights.
    """
    from kitsune.predict import predict_memory

    model = build_model(name, image_size)
    bytes_at_1, bytes_at_2 = (
        predict_memory(model, (3, image_size, image_size), size, "float32", "sgd").total_bytes
        for size in (1, 2)
    )
    fixed_bytes, sample_bytes = 2 * bytes_at_1 - bytes_at_2, bytes_at_2 - bytes_at_1
    return {"predicted": max(0, int((ROOM_BYTES - fixed_bytes) // sample_bytes))}


def score(row: Row, prediction: dict[str, Any]) -> dict[str, Any]:
    """The prediction beside the true size: inside, under or over."""
    result = {"image_size": row.image_size, "true": row.batch_size, "next": row.next_size, **prediction}
    if "millions" in prediction and abs(prediction["millions"] / row.millions - 1) > 0.01:
        # The name stands for another model today.
        result["millions_then"] = row.millions
    if "predicted" in prediction:
        low, high = int(SHARE * prediction["predicted"]), prediction["ceiling"]
        result["verdict"] = row.verdict(prediction["predicted"])
        result["low_end_fits"] = low < row.next_size
        result["in_range"] = low < row.next_size and high >= row.batch_size
    return result


def save(path: Path, models: dict[str, Any], rows: list[Row]) -> None:
    """Write the results so far, with their counts."""
    scored = [row for row in rows if "verdict" in models.get(row.model, {})]
    by_other = [row for row in rows if "kitsune" in models.get(row.model, {})]
    answered = [row for row in by_other if "predicted" in models[row.model]["kitsune"]]
    late = [row for row in by_other if "no end" in models[row.model]["kitsune"].get("error", "")]
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment(),
        "constants": {"room_bytes": ROOM_BYTES, "share": SHARE, "sizes": SIZES, "seed": SEED},
        "tuned": sorted(tuned()),
        "counts": {
            **count_verdicts([(row, models[row.model]["predicted"]) for row in scored]),
            "range_holds": sum(models[row.model]["in_range"] for row in scored),
            "low_end_fits": sum(models[row.model]["low_end_fits"] for row in scored),
            "failed": sum("error" in models.get(row.model, {}) for row in rows),
        },
        "inside_by_scale": {
            str(scale): count_verdicts([(row, scale * models[row.model]["predicted"]) for row in scored])[
                "inside"
            ]
            for scale in SCALES
        },
        "torch_kitsune": {
            **count_verdicts([(row, models[row.model]["kitsune"]["predicted"]) for row in answered]),
            "no_end": len(late),
            "failed": len(by_other) - len(answered) - len(late),
        },
        "models": models,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def count_verdicts(sizes: list[tuple[Row, float]]) -> dict[str, Any]:
    """The number of sizes by verdict, and the lower end of Wilson's 95% interval for the share inside."""
    verdicts = [row.verdict(size) for row, size in sizes]
    counts = {name: verdicts.count(name) for name in ("inside", "under", "over")}
    return {"models": len(sizes), **counts, "inside_at_least": wilson_low(counts["inside"], len(sizes))}


def wilson_low(hits: int, count: int, z: float = 1.96) -> float:
    """The lower end of the score interval of a share (E. B. Wilson, 1927)."""
    if not count:
        return 0.0
    share = hits / count
    middle = share + z * z / (2 * count)
    width = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return round((middle - width) / (1 + z * z / count), 3)


def environment() -> dict[str, str]:
    from importlib.metadata import distributions, version

    names = ("torch", "torchvision", "timm", "torch-kitsune")
    installed = {distribution.metadata["Name"] for distribution in distributions()}
    return {
        **{name: version(name) for name in names if name in installed},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


if __name__ == "__main__":
    main()
