"""`autobatch cache`: lists and clears the answers of earlier searches."""

from __future__ import annotations

import click

from autobatch.cli import console, options
from autobatch.reports.text import cache_list
from autobatch.storage import cache


@click.group("cache", cls=options.Group, no_args_is_help=False)
def cached_answers() -> None:
    """List or clear the answers in the cache."""


@cached_answers.command("list")
@options.json_output
def list_answers(as_json: bool) -> None:
    """List the answers in the cache, the newest first."""
    listing = cache.list_entries()
    if as_json:
        console.print_out(cache_list.render_json(listing))
    else:
        console.print_laid_out(cache_list.render, listing)


@cached_answers.command("clear")
def clear_answers() -> None:
    """Remove every answer and every journal from the cache."""
    console.print_out(cache_list.render_cleared(cache.clear()))
