"""Options that several commands share: their types, their headings in `--help`, and their texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from autobatch.cli import configuration
from autobatch.records import formatting
from autobatch.records.errors import UsageError
from autobatch.records.escaping import printable

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# Headings of `--help`.
SOURCE = "Source"
TARGET = "Target"
DEVICE = "Device and memory"
SIZES = "Batch sizes"
MEASUREMENT = "Measurement"
CLUSTER = "Cluster"
OUTPUT = "Output"
OTHER = "Other"

# The long names of all options that may be configured, of every command.
SETTINGS: set[str] = set()
_HELP = ["-h", "--help"]
# The settings of a command that no group hands on.
HELP_NAMES = {"help_option_names": _HELP}
# A limit below this can't hold a step of any model: a bare number was meant in a larger unit.
_MIN_BARE_BYTES = 2**20


class Option(click.Option):
    """An option with the heading that `--help` lists it under.

    It is a `setting` (see `configuration`) by its long name, unless it is about the output of a single call.
    """

    def __init__(self, *names: Any, heading: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.heading = heading
        long_name = next(name for name in self.opts if name.startswith("--"))
        self.setting = "" if heading in (SOURCE, OUTPUT) else long_name.removeprefix("--")
        if self.setting:
            self.envvar = configuration.variable_of(self.setting)
            SETTINGS.add(self.setting)

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """See click. An error of a value from elsewhere than the command line names its source."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except (click.BadParameter, UsageError) as error:
            source = self._source(ctx)
            if not source:
                raise
            if isinstance(error, click.BadParameter):
                raise UsageError(error.format_message().rstrip("."), code="usage", facts=(source,)) from None
            facts = (*error.facts, source)
            raise UsageError(error.message, code=error.code, facts=facts, hint=error.hint) from None

    def _source(self, context: click.Context) -> str:
        """The place of a value that is not from the command line, as a fact; else empty."""
        match context.get_parameter_source(self.name or ""):
            case ParameterSource.ENVIRONMENT:
                return f"from the variable `{self.envvar}`"
            case ParameterSource.DEFAULT_MAP:
                return f"from {configuration.place_in_file(self.setting)}"
        return ""


class Command(click.Command):
    """A command whose `--help` lists its options under headings, and whose defaults may be configured."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """See click. Completion and `--help` read no configuration, so they work with a wrong one."""
        if not extra.get("resilient_parsing") and set(_HELP).isdisjoint(args):
            extra.setdefault("default_map", self._configured())
        return super().make_context(info_name, args, parent, **extra)

    def _configured(self) -> dict[str, str]:
        """Values of this command's options from the file. Raises UsageError for a wrong configuration."""
        configuration.check_variables(os.environ, SETTINGS)
        table = configuration.read_file(Path.cwd(), sorted(SETTINGS))
        own = (each for each in self.params if isinstance(each, Option) and each.setting in table)
        return {option.name or "": table[option.setting] for option in own}

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        parameters = [each for each in self.get_params(context) if isinstance(each, click.Option)]
        # The options that click adds, such as --help, come last.
        for parameter in sorted(parameters, key=lambda each: not isinstance(each, Option)):
            record = parameter.get_help_record(context)
            if record is not None:
                heading = parameter.heading if isinstance(parameter, Option) else OTHER
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class Group(click.Group):
    """A group of commands of that kind."""

    command_class = Command


class ParsedType(click.ParamType):  # type: ignore[type-arg]
    """A value that a function parses; an error of it keeps its facts and its hint."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._parse(value) if isinstance(value, str) else value


class CountType(click.IntRange):
    """A whole number from 1 on."""

    name = "integer"

    def __init__(self) -> None:
        super().__init__(min=1)


def option(heading: str, *names: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    """Return the decorator for an option under a heading of `--help`."""
    return click.option(*names, cls=Option, heading=heading, **settings)


def _parse_memory(text: str) -> int:
    """Parse a memory limit in bytes. Raises UsageError for a bare number that needs a unit."""
    amount_bytes = formatting.parse_bytes(text)
    if text.strip().isdigit() and amount_bytes < _MIN_BARE_BYTES:
        number = text.strip()
        raise UsageError(
            f"`--memory-limit {number}` needs a unit",
            code="bad_bytes",
            facts=(f"without one it means {formatting.format_bytes(amount_bytes)}",),
            hint=f"write `{number}GiB` or `{number}MiB`",
        )
    return amount_bytes


def _parse_shape(text: str) -> tuple[int, ...]:
    words = text.replace("x", ",").split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise UsageError(
            f"`{printable(text)}` is not a shape",
            code="bad_shape",
            hint="write the shape of one sample, such as `3,32,32`",
        )
    return tuple(int(word) for word in words)


def _complete_file(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete a path; a module is typed."""
    return [CompletionItem(incomplete, type="file")]


COUNT = CountType()
MEMORY = ParsedType("size", _parse_memory)
SECONDS = ParsedType("duration", formatting.parse_seconds)
SHAPE = ParsedType("shape", _parse_shape)

target = click.argument("target", shell_complete=_complete_file)
json_output = option(
    OUTPUT, "--json", "as_json", is_flag=True, help="Print one JSON object, for an error too."
)
quiet = option(OUTPUT, "-q", "--quiet", is_flag=True, help="Print the batch size only.")
verbose = option(OUTPUT, "-v", "--verbose", is_flag=True, help="Print every measurement, and all warnings.")
html_report = option(
    OUTPUT, "--html", "html_to", type=click.Path(), help="Write a report for the browser to a file."
)
budget = option(
    MEASUREMENT,
    "--budget",
    type=SECONDS,
    default="60s",
    show_default=True,
    help="Time for the measurements.",
)
fresh = option(MEASUREMENT, "--fresh", is_flag=True, help="Measure again, even if the cache has an answer.")
group = option(
    SIZES,
    "--group",
    type=COUNT,
    default=1,
    show_default=True,
    help="Samples that belong together, as in GRPO: the global batch is a multiple of it.",
)
input_shape = option(
    TARGET, "--input-shape", type=SHAPE, help="Random inputs of this shape instead of a data set: 3,32,32."
)
classes = option(
    TARGET, "--classes", type=COUNT, help="With --input-shape: random targets of this many classes."
)
precision = option(
    TARGET,
    "--precision",
    type=ParsedType("precision", formatting.parse_precision),
    help="fp32, or autocast to bf16 or fp16. Default: that of TARGET, or fp32.",
)
ray_address = option(
    CLUSTER,
    "--ray-address",
    metavar="ADDRESS",
    help="host:port of a Ray cluster, or auto. Default: RAY_ADDRESS, or a cluster on this machine.",
)
