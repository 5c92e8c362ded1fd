"""`autobatch plan`: predicts which batch sizes fit on devices that need not be here."""

from __future__ import annotations

import sys
from typing import Any

import click

from autobatch.cli import console, options
from autobatch.cli.recipe import recipe_of
from autobatch.records import formatting
from autobatch.reports.text import plan_table
from autobatch.storage import codec


@click.command(cls=options.Command)
@options.target
@options.input_shape
@options.classes
@options.precision
@options.option(
    options.TARGET,
    "--optimizer",
    type=options.ParsedType("optimizer", formatting.parse_optimizer),
    help="sgd, sgd-momentum, adam, adamw, ... Default: that of TARGET, or AdamW.",
)
@options.option(
    options.TARGET,
    "--channels-last",
    is_flag=True,
    help="Images and weights with their channels last in memory.",
)
@options.option(
    options.DEVICE,
    "--on",
    metavar="DEVICES",
    help="Such as rtx3090,a100-80gb,24GiB,here. Default: the whole catalogue.",
)
@options.option(options.SIZES, "--batch", type=options.COUNT, help="A size to find the smallest device for.")
@options.json_output
def plan(target: str, **given: Any) -> None:
    """Estimate the largest batch size on GPUs you don't have.

    The estimate comes from one training step of TARGET without data.
    """
    from autobatch.planning import assembly, catalogue
    from autobatch.progress.display import Display

    names = given["on"]
    devices = catalogue.CATALOGUE if names is None else catalogue.parse_devices(names)
    recipe = recipe_of(
        target,
        input_shape=given["input_shape"],
        classes=given["classes"],
        precision=given["precision"],
        optimizer=given["optimizer"],
    )
    with Display(sys.stderr, quiet=given["as_json"], colour=console.colour(sys.stderr)) as display:
        display.note("tracing a training step without data")
        planned = assembly.plan_recipe(
            recipe,
            devices,
            batch_size=given["batch"],
            channels_last=given["channels_last"],
            on_output=display.print_line,
        )
    if given["as_json"]:
        console.print_out(codec.render_plan(planned))
    else:
        console.print_laid_out(plan_table.render, planned)
