"""`autobatch compare`: the changes between two saved results, and their cause."""

from __future__ import annotations

import click

from autobatch.cli import console, options
from autobatch.decision.comparison import compare_results
from autobatch.reports.text import comparison
from autobatch.storage import codec, result_files


@click.command(cls=options.Command)
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@options.json_output
def compare(before: str, after: str, as_json: bool) -> None:
    """Show what changed between two saved results, and why.

    BEFORE and AFTER are files that `autobatch probe --save` wrote.
    """
    compared = compare_results(result_files.load(before), result_files.load(after))
    if as_json:
        console.print_out(codec.render_comparison(compared))
    else:
        console.print_laid_out(comparison.render, compared)
