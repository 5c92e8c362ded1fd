"""`autobatch fleet`: measures a target on every kind of node of a Ray cluster."""

from __future__ import annotations

import sys
from typing import Any

import click

from autobatch.cli import console, options
from autobatch.cli.recipe import recipe_of
from autobatch.records.errors import AutobatchError
from autobatch.records.limits import Limits
from autobatch.storage import codec


@click.command(cls=options.Command)
@options.target
@options.ray_address
@options.option(
    options.CLUSTER,
    "--prices",
    type=click.Path(),
    help="TOML or JSON file with the price per hour of each kind of node.",
)
@options.budget
@options.fresh
@options.precision
@options.json_output
def fleet(target: str, **given: Any) -> None:
    """Measure TARGET on every kind of node of a Ray cluster.

    Each kind gets the whole time of --budget.
    """
    from autobatch.fleet import price_file
    from autobatch.fleet.probe import probe_fleet
    from autobatch.progress.display import Display
    from autobatch.reports.text import fleet_table

    recipe = recipe_of(target, precision=given["precision"])
    prices = None if given["prices"] is None else price_file.load(given["prices"])
    display = Display(sys.stderr, quiet=given["as_json"], colour=console.colour(sys.stderr))
    with display:
        answer = probe_fleet(
            recipe,
            Limits(budget_seconds=given["budget"]),
            prices,
            address=given["ray_address"],
            fresh=given["fresh"],
            tell=display.note,
        )
    if given["as_json"]:
        console.print_out(codec.render_fleet(answer))
    else:
        console.print_laid_out(fleet_table.render, answer)
    if all(member.answer is None for member in answer.members):
        raise SystemExit(AutobatchError.exit_status)
