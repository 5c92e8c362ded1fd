"""`autobatch devices`: lists the devices of this machine."""

from __future__ import annotations

import click

from autobatch.cli import console, options
from autobatch.reports.text import terminal


@click.command(cls=options.Command)
def devices() -> None:
    """List the devices here and their memory limits."""
    from autobatch.engines import opening

    console.print_laid_out(terminal.render_devices, opening.find_devices())
