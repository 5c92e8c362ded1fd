"""`autobatch probe -- COMMAND` and `autobatch run -- COMMAND`: unmodified training commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from autobatch.cli import console
from autobatch.records import formatting
from autobatch.records.errors import AutobatchError
from autobatch.records.escaping import printable
from autobatch.records.limits import Limits
from autobatch.reports.html import document
from autobatch.reports.text import terminal
from autobatch.storage import codec, result_files

_ONE_WARNING_CHARACTERS = 300


def chosen(commands: click.Command, arguments: Sequence[str]) -> tuple[click.Command, list[str]]:
    """The command to execute and its arguments: `probe` with a `--` is about a training command."""
    if arguments[:1] == ["probe"] and "--" in arguments:
        return probe_script, list(arguments[1:])
    return commands, list(arguments)


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of autobatch itself: those of a training command stand after the first `--`."""
    return list(arguments[: arguments.index("--")]) if "--" in arguments else list(arguments)


def _parsed(parse: Callable[[str], Any]) -> Callable[..., Any]:
    return lambda context, parameter, value: None if value is None else parse(value)


def _measuring_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a measurement that mean something for a command."""
    for option in reversed(
        (
            click.argument("words", metavar="-- COMMAND...", nargs=-1, type=click.UNPROCESSED),
            click.option(
                "--budget",
                default="60s",
                show_default=True,
                callback=_parsed(formatting.parse_seconds),
                help="Wall time for the measurement.",
            ),
            click.option(
                "--memory-limit",
                callback=_parsed(formatting.parse_bytes),
                help="What training may take, such as 600MiB or 8GiB.",
            ),
            click.option("--max-batch", type=click.IntRange(min=1), help="The largest size to try."),
            click.option("--no-check", is_flag=True, help="Skip the generalization check."),
        )
    ):
        command = option(command)
    return command


def _limits(options: dict[str, Any]) -> Limits:
    return Limits(
        budget_seconds=options["budget"],
        memory_bytes=options["memory_limit"],
        max_batch=options["max_batch"],
        check=not options["no_check"],
    )


@click.command("probe")
@_measuring_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for errors too.")
@click.option("-q", "--quiet", is_flag=True, help="Print the batch size alone.")
@click.option("--save", "save_to", type=click.Path(), help="Write the result to a file.")
@click.option("--html", "html_to", type=click.Path(), help="Write a report for the browser to a file.")
def probe_script(words: tuple[str, ...], **options: Any) -> None:
    """Measure an unmodified training COMMAND, and recommend a batch size for it."""
    from autobatch.cli.progress import Progress
    from autobatch.scripts.command import parse
    from autobatch.scripts.probe import probe_command

    command = parse(words)
    quiet = options["quiet"] or options["as_json"]
    progress = Progress(sys.stderr, quiet=quiet, erase=sys.stdout.isatty(), colour=console.colour(sys.stderr))
    with progress:
        answer = probe_command(command, _limits(options), progress)
    recommendation = answer.recommendation
    if options["save_to"]:
        result_files.save(recommendation, options["save_to"])
    if options["html_to"]:
        result_files.write(document.render(recommendation), options["html_to"], result_files.REPORT)
    if options["as_json"]:
        facts = json.loads(codec.render(recommendation)) | {"script": answer.facts}
        console.print_out(json.dumps(facts))
    elif options["quiet"]:
        console.print_out(str(recommendation.batch_size))
    else:
        render = partial(terminal.render, next_steps=answer.application.lines)
        console.print_laid_out(render, recommendation)


@click.command("run")
@_measuring_options
@click.option("--apply-lr", is_flag=True, help="Apply the learning rate of the answer as well.")
@click.option("--fresh", is_flag=True, help="Measure anew, even where the cache has the answer.")
def run_script(words: tuple[str, ...], **options: Any) -> None:
    """Measure an unmodified training COMMAND, then run it with the batch size that was found."""
    from autobatch.cli.progress import Progress
    from autobatch.scripts import run
    from autobatch.scripts.command import parse
    from autobatch.scripts.probe import probe_command

    command, limits, applies_rate = parse(words), _limits(options), options["apply_lr"]
    tuned = None if options["fresh"] else run.cached(command, limits, applies_rate=applies_rate)
    if tuned is None:
        try:
            with Progress(sys.stderr, quiet=False, colour=console.colour(sys.stderr)) as progress:
                answer = probe_command(command, limits, progress, keeps_rate=not applies_rate)
            run.keep(command, limits, answer, applies_rate=applies_rate)
            tuned = run.tuned(answer)
        except Exception as error:
            why = error.message if isinstance(error, AutobatchError) else f"{type(error).__name__}: {error}"
            note = printable(" ".join(why.split()))[:_ONE_WARNING_CHARACTERS]
            print(f"warning: autobatch leaves the command as it is: {note}", file=sys.stderr)
            tuned = run.untouched(command)
    if tuned.summary:
        print(f"autobatch: {tuned.summary}", file=sys.stderr)
    try:
        run.execute(tuned)
    except OSError as error:
        raise AutobatchError(
            f"`{command.words[0]}` can't be started", code="cannot_start", facts=(str(error),)
        ) from error
