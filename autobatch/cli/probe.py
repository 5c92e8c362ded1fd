"""`autobatch probe`: measures a target and recommends a batch size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from autobatch.cli import console, options
from autobatch.cli.recipe import recipe_of
from autobatch.engines import messages
from autobatch.engines.ranks import membership
from autobatch.records.errors import UsageError
from autobatch.records.limits import Limits, Objective
from autobatch.records.preview import Preview
from autobatch.storage import codec


@click.command(cls=options.Command)
@options.target
@click.argument("arguments", metavar="[-- ARGS...]", nargs=-1, type=click.UNPROCESSED)
@options.input_shape
@options.classes
@options.option(
    options.TARGET,
    "--epochs",
    type=click.FloatRange(min=0, min_open=True),
    help="Epochs you will train for: sizes are compared at their end.",
)
@options.precision
@options.option(
    options.TARGET,
    "--checkpoint",
    type=click.Path(),
    metavar="FILE",
    help="Weights to start from: the check measures the training from there on.",
)
@options.option(
    options.DEVICE, "--device", help="cpu, mps, cuda or cuda:1. Default: the accelerator, if there is one."
)
@options.option(
    options.DEVICE, "--memory-limit", type=options.MEMORY, help="Memory for the training: 600MiB, 8GiB."
)
@options.option(
    options.DEVICE,
    "--memory-fraction",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Fraction of the memory limit to use.",
)
@options.option(
    options.SIZES,
    "--objective",
    type=click.Choice([str(objective) for objective in Objective]),
    default="time",
    show_default=True,
    help="time: shortest training of the same epochs with the same final loss. time-to-loss: shortest "
    "time to the same loss, in any number of epochs. throughput: most samples per second. memory: largest "
    "that fits.",
)
@options.option(
    options.SIZES,
    "--min-batch",
    type=options.COUNT,
    default=1,
    show_default=True,
    help="Smallest size to try.",
)
@options.option(options.SIZES, "--max-batch", type=options.COUNT, help="Largest size to try.")
@options.option(
    options.SIZES,
    "--multiple-of",
    type=options.COUNT,
    default=1,
    show_default=True,
    help="Try only multiples of this.",
)
@options.group
@options.option(
    options.SIZES,
    "--global-batch",
    type=options.COUNT,
    help="Samples per optimizer step; accumulates gradients if needed.",
)
@options.option(
    options.SIZES,
    "--ceiling",
    is_flag=True,
    help="Find the largest size that fits, even if throughput stops improving before it.",
)
@options.option(
    options.SIZES,
    "--sizes-per-rank",
    is_flag=True,
    help="Under torchrun: allow a different batch size per rank.",
)
@options.budget
@options.option(
    options.MEASUREMENT,
    "--trial-timeout",
    type=options.SECONDS,
    default="120s",
    show_default=True,
    help="Time for one trial, and five times that to import TARGET and open its data set.",
)
@options.option(options.MEASUREMENT, "--no-check", is_flag=True, help="Skip the generalization check.")
@options.fresh
@options.option(
    options.MEASUREMENT,
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of samples and first weights.",
)
@options.option(
    options.CLUSTER,
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: run the check's trainings on all nodes of a Ray cluster that have this device.",
)
@options.ray_address
@options.json_output
@options.quiet
@options.verbose
@options.option(
    options.OUTPUT,
    "--save",
    "save_to",
    type=click.Path(),
    help="Write the result to a file, for `autobatch show`.",
)
@options.html_report
@options.option(
    options.OUTPUT,
    "--fallback",
    type=options.COUNT,
    metavar="SIZE",
    help="Print this size and exit with 0 if no answer can be found.",
)
@options.option(
    options.OUTPUT,
    "--dry-run",
    is_flag=True,
    help="Show what would be measured, how, and for how long; measure nothing.",
)
def probe(target: str, arguments: tuple[str, ...], **given: Any) -> None:
    """Measure TARGET and recommend a batch size.

    TARGET is `file.py[:model]` or `pkg.module[:model]`, and ARGS are its own arguments. For an unmodified
    training script write `autobatch probe -- COMMAND`, as in `autobatch probe -- python train.py`.
    """
    from autobatch import api
    from autobatch.progress.display import Display
    from autobatch.records.interruption import Interrupted

    limits, device = _limits(given), given["device"]
    recipe = recipe_of(
        target,
        arguments=arguments,
        input_shape=given["input_shape"],
        classes=given["classes"],
        epochs=given["epochs"],
        precision=given["precision"],
        checkpoint=given["checkpoint"],
    )
    output = console.Output(
        given["as_json"], given["quiet"], given["save_to"], given["html_to"], given["verbose"]
    )
    _check_output(given)
    meeting = membership.of_environment()
    if meeting is not None:
        _refuse_cluster(given["engine"])
        if meeting.rank:
            if not given["dry_run"]:
                with console.fallback_to(given["fallback"]):
                    api.probe(recipe, limits, device=device, on_output=lambda line: None, meeting=meeting)
            return
    output.check_writable(target.partition(":")[0])
    if given["dry_run"]:
        _show_preview(api.preview(recipe, limits, device=device), as_json=output.as_json)
        return
    display = Display(
        sys.stderr,
        budget_seconds=limits.budget_seconds,
        quiet=output.quiet or output.as_json,
        colour=console.colour(sys.stderr),
    )
    try:
        with (
            console.fallback_to(given["fallback"]),
            display,
            _engine(recipe, given, display.print_line) as engine,
        ):
            answer = api.probe(
                recipe,
                limits,
                device=device,
                observer=display,
                on_output=display.print_line,
                fresh=given["fresh"],
                meeting=meeting,
                **engine,
            )
    except Interrupted as interruption:
        console.ignore_interrupts()
        console.show_interrupted(interruption.recommendation, output)
        raise SystemExit(console.INTERRUPTED) from None
    console.deliver(answer, output)


def _check_output(given: dict[str, Any]) -> None:
    """Raise UsageError for options of the output that exclude each other."""
    excluded = {
        "--fallback": ("--json", "--dry-run"),
        "--dry-run": ("--quiet", "--save", "--html"),
    }
    names = {"--json": "as_json", "--save": "save_to", "--html": "html_to"}
    for option, others in excluded.items():
        for other in others:
            if all(given[names.get(each, each[2:].replace("-", "_"))] for each in (option, other)):
                raise UsageError(
                    f"`{option}` and `{other}` exclude each other", code="usage", hint="leave one of them out"
                )


def _show_preview(preview: Preview, *, as_json: bool) -> None:
    from autobatch.reports.text import preview_table

    if as_json:
        console.print_out(codec.render_preview(preview))
    else:
        console.print_laid_out(preview_table.render, preview)


def _limits(given: dict[str, Any]) -> Limits:
    return Limits(
        memory_bytes=given["memory_limit"],
        memory_fraction=given["memory_fraction"],
        min_batch=given["min_batch"],
        max_batch=given["max_batch"],
        multiple_of=given["multiple_of"],
        group=given["group"],
        global_batch=given["global_batch"],
        budget_seconds=given["budget"],
        trial_timeout_seconds=given["trial_timeout"],
        objective=Objective(given["objective"]),
        ceiling=given["ceiling"],
        check=not given["no_check"],
        sizes_per_rank=given["sizes_per_rank"],
        # Whoever prints the number alone applies it without the learning rate.
        keep_learning_rate=given["quiet"],
        number_alone=given["quiet"],
        seed=given["seed"],
    )


def _refuse_cluster(engine: str) -> None:
    if engine != "local":
        raise UsageError(
            "`--engine ray` can't be used under torchrun",
            code="usage",
            facts=("the ranks of torchrun train in step, and so do the trainings of the check",),
            hint="leave `--engine` out",
        )


@contextmanager
def _engine(
    recipe: messages.Recipe, given: dict[str, Any], print_line: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Give the argument of `api.probe` for the chosen engine; none for the engine of this machine."""
    if given["engine"] == "local":
        if given["ray_address"] is not None:
            raise UsageError(
                "`--ray-address` goes with `--engine ray`", code="usage", hint="give both, or neither"
            )
        yield {}
        return
    from autobatch.engines.ray.engine import ray_engines

    with ray_engines(given["ray_address"], recipe, given["device"], print_line) as make_engine:
        yield {"make_engine": make_engine}
