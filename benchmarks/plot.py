"""Draw docs/batch-size.svg: time to the same loss over batch size, as measured by regret.py.

pip install matplotlib
python benchmarks/plot.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "batch-size.svg"
TASK = "digits_mlp"
INK, BLUE, GREY, GREEN = "#222222", "#2563eb", "#9ca3af", "#16803c"


def main() -> None:
    measured = json.loads((HERE / "results" / "regret.json").read_text())
    # Text stays text, and the same figures give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "autobatch", "font.family": "sans-serif"})
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7.2, 6.4), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    answers = [row["batch_size"] for row in measured["rows"] if row["task"] == TASK]
    draw_time(above, measured["tasks"][TASK], answers)
    draw_steps(below, measured["tasks"][TASK])
    figure.savefig(PICTURE, metadata={"Date": None})


def draw_time(axes: Any, task: dict[str, Any], answers: list[int]) -> None:
    """The time to the target, with the common choices and autobatch's answers."""
    seconds = {int(size): row["seconds"] for size, row in task["sizes"].items()}
    sizes = list(seconds)
    axes.plot(sizes, list(seconds.values()), color=BLUE, marker="o", linewidth=2)
    for size, text in ((32, "what many take: 32"), (sizes[-1], "the largest")):
        axes.annotate(
            f"{text}\n{seconds[size] / seconds[task['best']]:.1f} times as long as the best",
            (size, seconds[size]),
            xytext=(8, 10),
            textcoords="offset points",
            ha="left" if size != sizes[-1] else "right",
            color=INK,
        )
    low = 0.78 * min(seconds.values())
    axes.plot(answers, [low] * len(answers), "^", color=GREEN, markersize=9, clip_on=False)
    axes.text(
        min(answers) / 1.2,
        low,
        f"autobatch's answers ({len(answers)} runs)",
        color=GREEN,
        ha="right",
        va="center",
    )
    axes.set_ylabel("seconds to the same validation loss")
    axes.set_ylim(0.7 * min(seconds.values()), 1.6 * max(seconds.values()))
    _logarithmic(axes, sizes)


def draw_steps(axes: Any, task: dict[str, Any]) -> None:
    """Its two factors, each relative to its value at the smallest size."""
    sizes = [int(size) for size in task["sizes"]]
    rows = list(task["sizes"].values())
    for name, label, colour in (
        ("steps", "steps to that loss: fewer, then no fewer", INK),
        ("step_seconds", "seconds a step: the same, then more", GREY),
    ):
        axes.plot(
            sizes,
            [row[name] / rows[0][name] for row in rows],
            color=colour,
            marker="o",
            label=label,
            linewidth=2,
        )
    axes.set_xlabel("batch size")
    axes.set_ylabel(f"times that at {sizes[0]}")
    axes.legend(frameon=False, loc="upper center")
    axes.set_ylim(0.03, 60)
    _logarithmic(axes, sizes)


def _logarithmic(axes: Any, sizes: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


if __name__ == "__main__":
    main()
