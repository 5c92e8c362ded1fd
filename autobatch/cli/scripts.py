"""`autobatch probe -- COMMAND` and `autobatch run -- COMMAND`: unmodified training commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from autobatch.cli import console, options
from autobatch.cli.probe import probe
from autobatch.records.errors import AutobatchError
from autobatch.records.escaping import printable
from autobatch.records.interruption import Interrupted
from autobatch.records.limits import Limits

_ONE_WARNING_CHARACTERS = 300


def chosen(commands: click.Command, arguments: Sequence[str]) -> tuple[click.Command, list[str]]:
    """The command to execute and its arguments.

    `probe` with nothing but options before a `--` is about a training command; a target there has its own
    arguments after it.
    """
    if arguments[:1] == ["probe"] and "--" in arguments and not _names_target(arguments):
        return probe_script, list(arguments[1:])
    return commands, list(arguments)


def _names_target(arguments: Sequence[str]) -> bool:
    """True where a word before the first `--` is no option and no value of one."""
    parser = probe.make_parser(click.Context(probe, ignore_unknown_options=True))
    try:
        values, rest, _ = parser.parse_args(arguments_of_autobatch(arguments)[1:])
    except click.UsageError:
        return False
    # Unknown options are among the words.
    words = [values.get("target"), *rest]
    return any(isinstance(word, str) and not word.startswith("-") for word in words)


def arguments_of_autobatch(arguments: Sequence[str]) -> list[str]:
    """The arguments before the first `--`: those behind it belong to a training command."""
    return list(arguments[: arguments.index("--")]) if "--" in arguments else list(arguments)


def _measuring_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the command's words, and the options of a measurement that apply to a command."""
    decorators = (
        click.argument("words", metavar="-- COMMAND...", nargs=-1, type=click.UNPROCESSED),
        options.budget,
        options.option(
            options.DEVICE,
            "--memory-limit",
            type=options.MEMORY,
            help="Memory that training may use, such as 600MiB or 8GiB.",
        ),
        options.option(options.SIZES, "--max-batch", type=options.COUNT, help="Largest size to try."),
        options.option(
            options.TARGET,
            "--epochs",
            type=click.FloatRange(min=0, min_open=True),
            help="Epochs you will train for. Default: those that the script shows.",
        ),
        options.option(
            options.MEASUREMENT, "--no-check", is_flag=True, help="Skip the generalization check."
        ),
    )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def limits_of(values: Mapping[str, Any]) -> Limits:
    """The limits by the options of `probe` or `run`: the decision is under exactly what will be applied."""
    prints_number = values.get("quiet", False)
    return Limits(
        budget_seconds=values["budget"],
        memory_bytes=values["memory_limit"],
        max_batch=values["max_batch"],
        check=not values["no_check"],
        keep_learning_rate=prints_number or not values.get("apply_lr", True),
        number_alone=prints_number,
    )


@click.command("probe", cls=options.Command, context_settings=options.HELP_NAMES)
@_measuring_options
@options.json_output
@options.quiet
@options.verbose
@options.option(options.OUTPUT, "--save", "save_to", type=click.Path(), help="Write the result to a file.")
@options.html_report
def probe_script(words: tuple[str, ...], **values: Any) -> None:
    """Measure an unmodified training COMMAND, and recommend a batch size for it."""
    from autobatch.progress.display import Display
    from autobatch.scripts.command import parse
    from autobatch.scripts.probe import probe_command

    command = parse(words)
    output = console.Output(
        values["as_json"], values["quiet"], values["save_to"], values["html_to"], values["verbose"]
    )
    output.check_writable(None)
    quiet, limits = output.quiet or output.as_json, limits_of(values)
    shown = Display(
        sys.stderr, budget_seconds=limits.budget_seconds, quiet=quiet, colour=console.colour(sys.stderr)
    )
    try:
        with shown as display:
            answer = probe_command(command, limits, display, epochs=values["epochs"])
    except Interrupted as interruption:
        console.ignore_interrupts()
        console.show_interrupted(interruption.recommendation, output)
        raise SystemExit(console.INTERRUPTED) from None
    console.deliver(answer.recommendation, output, answer)


@click.command("run", cls=options.Command)
@_measuring_options
@options.option(
    options.OUTPUT, "--apply-lr", is_flag=True, help="Apply the recommended learning rate as well."
)
@options.fresh
def run_script(words: tuple[str, ...], **values: Any) -> None:
    """Run a training COMMAND with the batch size measured for it."""
    from autobatch.progress.display import Display
    from autobatch.scripts import run
    from autobatch.scripts.command import parse
    from autobatch.scripts.probe import probe_command

    command, limits, epochs = parse(words), limits_of(values), values["epochs"]
    recipe = {"epochs": epochs}
    tuned = None if values["fresh"] else run.cached(command, limits, recipe)
    if tuned is None:
        try:
            with Display(
                sys.stderr, budget_seconds=limits.budget_seconds, colour=console.colour(sys.stderr)
            ) as display:
                answer = probe_command(command, limits, display, epochs=epochs)
            run.keep(command, limits, recipe, answer)
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
