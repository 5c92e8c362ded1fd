"""The command line: its commands, and the exit status of each kind of error."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import click

from autobatch._version import __version__
from autobatch.cli import bug_report, console, options, scripts
from autobatch.cli.cache import cached_answers
from autobatch.cli.compare import compare
from autobatch.cli.devices import devices
from autobatch.cli.fleet import fleet
from autobatch.cli.plan import plan
from autobatch.cli.probe import probe
from autobatch.cli.show import show
from autobatch.records.errors import AutobatchError, UsageError


@click.group(
    cls=options.Group,
    invoke_without_command=True,
    context_settings=options.HELP_NAMES,
)
@click.version_option(__version__, prog_name="autobatch")
@click.pass_context
def cli(context: click.Context) -> None:
    """Find the batch size to train a PyTorch model with, by measuring it."""
    if context.invoked_subcommand is None:
        console.print_out(context.get_help())


for command in (probe, scripts.run_script, show, compare, plan, fleet, devices, cached_answers):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit: 0, 1 for an error, 2 for usage, 130 for an interrupt."""
    console.open_standard_streams()
    as_json = "--json" in scripts.arguments_of_autobatch(sys.argv[1:])
    try:
        command, arguments = scripts.chosen(cli, sys.argv[1:])
        name = "autobatch" if command is cli else "autobatch probe"
        command.main(arguments, prog_name=name, standalone_mode=False)
        console.flush()
    except AutobatchError as error:
        console.fail(error, as_json=as_json)
    except click.UsageError as error:
        message = error.format_message().rstrip(".")
        name = "autobatch" if error.ctx is None else error.ctx.command_path
        hint = f"see `{name} --help`"
        console.fail(UsageError(message, code="usage", hint=hint), as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        console.ignore_interrupts()
        interruption = AutobatchError("interrupted", code="interrupted")
        console.fail(interruption, as_json=as_json, status=console.INTERRUPTED)
    except BrokenPipeError:
        console.leave(0)
    except Exception as bug:
        if os.environ.get(bug_report.TRACEBACK_VARIABLE):
            traceback.print_exception(bug)
        console.fail(bug_report.error_of(bug), as_json=as_json)
    raise SystemExit(0)
