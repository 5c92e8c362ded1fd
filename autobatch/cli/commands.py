"""The command line: its commands, their options, and what becomes of each kind of error."""

from __future__ import annotations

import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from autobatch._version import __version__
from autobatch.cli import console, scripts
from autobatch.engines.ranks import membership
from autobatch.engines.ranks.membership import Meeting
from autobatch.records import formatting
from autobatch.records.errors import AutobatchError, UsageError, missing_file
from autobatch.records.escaping import printable
from autobatch.records.limits import Limits, Objective
from autobatch.reports.text import cache_list, plan_table, terminal
from autobatch.storage import cache, codec, result_files

_INTERRUPTED = 130
_PACKAGE = str(Path(__file__).parents[1])
# Set to anything, it shows the traceback of a bug in autobatch.
_TRACEBACK = "AUTOBATCH_TRACEBACK"


class _Parsed(click.ParamType):  # type: ignore[type-arg]
    """An option value read by a function of formatting; its error keeps its facts and hint."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._parse(value) if isinstance(value, str) else value


class _Count(click.IntRange):
    name = "integer"


def _shape(value: str) -> tuple[int, ...]:
    words = value.replace("x", ",").split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise UsageError(
            f"`{value}` is not a shape",
            code="bad_shape",
            hint="write the shape of one sample, such as `3,32,32`",
        )
    return tuple(int(word) for word in words)


_BYTES = _Parsed("size", formatting.parse_bytes)
_SECONDS = _Parsed("duration", formatting.parse_seconds)
_SHAPE = _Parsed("shape", _shape)
_PRECISION = _Parsed("precision", formatting.parse_precision)
_OPTIMIZER = _Parsed("optimizer", formatting.parse_optimizer)
_COUNT = _Count(min=1)


_RAY_ADDRESS = "host:port of a Ray cluster, or auto; else RAY_ADDRESS, or one of this machine alone."


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, prog_name="autobatch")
def cli() -> None:
    """Finds the batch size to train with, by measuring it."""


@cli.command()
@click.argument("target")
@click.option("--device", help="cpu, mps, cuda or cuda:1; the accelerator if there is one.")
@click.option("--memory-limit", type=_BYTES, help="What training may take, such as 600MiB or 8GiB.")
@click.option(
    "--memory-fraction",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="The share of that, or of what is available, to use.",
)
@click.option(
    "--ceiling", is_flag=True, help="Climb past a throughput plateau to the largest size that fits."
)
@click.option("--min-batch", type=_COUNT, default=1, show_default=True, help="The smallest size to try.")
@click.option("--max-batch", type=_COUNT, help="The largest size to try.")
@click.option("--multiple-of", type=_COUNT, default=1, show_default=True, help="Try multiples of this only.")
@click.option(
    "--global-batch", type=_COUNT, help="Samples an optimizer step, reached by accumulation if need be."
)
@click.option("--budget", type=_SECONDS, default="60s", show_default=True, help="Time for the measurements.")
@click.option(
    "--trial-timeout",
    type=_SECONDS,
    default="120s",
    show_default=True,
    help="Time for one trial; five times that for importing TARGET and opening its data set.",
)
@click.option(
    "--objective",
    type=click.Choice([str(one) for one in Objective]),
    default="time",
    show_default=True,
    help="time: shortest training; throughput: most samples a second; memory: the largest that fits.",
)
@click.option("--no-check", is_flag=True, help="Skip the generalization check.")
@click.option(
    "--input-shape", type=_SHAPE, help="Random inputs of this shape instead of a data set, as 3,32,32."
)
@click.option("--classes", type=_COUNT, help="With --input-shape: random targets of this many classes.")
@click.option(
    "--epochs",
    type=click.FloatRange(min=0, min_open=True),
    help="How many your training has, if it is fixed.",
)
@click.option(
    "--precision", type=_PRECISION, help="fp32, or autocast to bf16 or fp16; else that of TARGET, or fp32."
)
@click.option(
    "--sizes-per-rank", is_flag=True, help="Under torchrun: sizes of their own for ranks of unequal speed."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--fresh", is_flag=True, help="Measure anew, even where the cache has the answer.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: the check's trainings run on all nodes of a Ray cluster that have this device.",
)
@click.option("--ray-address", metavar="ADDRESS", help=_RAY_ADDRESS)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for errors too.")
@click.option("-q", "--quiet", is_flag=True, help="Print the batch size alone.")
@click.option(
    "--save", "save_to", type=click.Path(), help="Write the result to a file, for `autobatch show`."
)
@click.option("--html", "html_to", type=click.Path(), help="Write a report for the browser to a file.")
def probe(target: str, **options: Any) -> None:
    """Measures TARGET, a `file.py[:model]` or `pkg.module[:model]`, and recommends a batch size."""
    from autobatch import api
    from autobatch.cli.progress import Progress
    from autobatch.records.interruption import Interrupted

    limits = _limits(options)
    recipe = _recipe(target, options)
    meeting = membership.of_environment()
    if meeting is not None and options["engine"] != "local":
        raise UsageError(
            "`--engine ray` can't be used under torchrun",
            code="usage",
            facts=("the ranks of torchrun train in step, and so do the trainings of the check",),
            hint="leave `--engine` out",
        )
    if meeting is not None and meeting.rank:
        return _follow(recipe, limits, options["device"], meeting)
    _check_writable(options, target.partition(":")[0])
    quiet = options["quiet"] or options["as_json"]
    progress = Progress(sys.stderr, quiet=quiet, erase=sys.stdout.isatty(), colour=console.colour(sys.stderr))
    try:
        with progress, _engines(recipe, options, progress.print_line) as chosen:
            found = api.probe(
                recipe,
                limits,
                device=options["device"],
                observer=progress,
                on_output=progress.print_line,
                fresh=options["fresh"],
                meeting=meeting,
                **chosen,
            )
    except Interrupted as stopped:
        _hear_no_more_interrupts()
        console.show_interrupted(stopped.recommendation, options)
        raise SystemExit(_INTERRUPTED) from None
    return console.deliver(found, options)


@cli.command("fleet")
@click.argument("target")
@click.option("--ray-address", metavar="ADDRESS", help=_RAY_ADDRESS)
@click.option("--prices", type=click.Path(), help="TOML or JSON: what an hour of each kind of node costs.")
@click.option(
    "--budget", type=_SECONDS, default="60s", show_default=True, help="Time for each kind's measurements."
)
@click.option(
    "--precision", type=_PRECISION, help="fp32, or autocast to bf16 or fp16; else that of TARGET, or fp32."
)
@click.option("--fresh", is_flag=True, help="Measure anew, even where a node's cache has the answer.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for errors too.")
def probe_kinds(target: str, **options: Any) -> None:
    """Measures TARGET on every kind of node of a Ray cluster, and compares them."""
    from autobatch.cli.progress import Progress
    from autobatch.fleet import price_file
    from autobatch.fleet.probe import probe_fleet
    from autobatch.reports.text import fleet_table

    recipe = _recipe(target, {**options, "epochs": None, "input_shape": None, "classes": None})
    prices = None if options["prices"] is None else price_file.load(options["prices"])
    progress = Progress(sys.stderr, quiet=options["as_json"], colour=console.colour(sys.stderr))
    with progress:
        found = probe_fleet(
            recipe,
            Limits(budget_seconds=options["budget"]),
            prices,
            address=options["ray_address"],
            fresh=options["fresh"],
            tell=progress.checking,
        )
    if options["as_json"]:
        console.print_out(codec.render_fleet(found))
    else:
        console.print_laid_out(fleet_table.render, found)
    if all(one.answer is None for one in found.members):
        raise SystemExit(AutobatchError.exit_status)


@cli.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Print the batch size alone.")
@click.option("--html", "html_to", type=click.Path(), help="Write a report for the browser to a file.")
def show(file: str, **options: Any) -> None:
    """Shows a saved result again."""
    options["save_to"] = None
    found = result_files.load(file)
    _check_writable(options, file)
    console.deliver(found, options)


@cli.command("plan")
@click.argument("target")
@click.option(
    "--on", metavar="DEVICES", help="As rtx3090,a100-80gb,24GiB,here; the whole catalogue if left out."
)
@click.option("--batch", type=_COUNT, help="A size to ask about, and the smallest device that takes it.")
@click.option(
    "--precision", type=_PRECISION, help="fp32, or autocast to bf16 or fp16; else that of TARGET, or fp32."
)
@click.option(
    "--optimizer", type=_OPTIMIZER, help="sgd, sgd-momentum, adam, adamw, ...; else that of TARGET, or AdamW."
)
@click.option("--channels-last", is_flag=True, help="Images and weights with their channels last in memory.")
@click.option("--input-shape", type=_SHAPE, help="Inputs of this shape instead of a data set, as 3,224,224.")
@click.option("--classes", type=_COUNT, help="With --input-shape: targets of this many classes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, for errors too.")
def plan_target(target: str, **options: Any) -> None:
    """Predicts what fits on devices that need not be here, from a step of TARGET without data."""
    from autobatch import api
    from autobatch.planning import catalogue

    on = options["on"]
    devices = catalogue.CATALOGUE if on is None else catalogue.parse_devices(on)
    planned = api.plan_recipe(
        _recipe(target, {**options, "epochs": None}),
        devices,
        batch_size=options["batch"],
        channels_last=options["channels_last"],
    )
    if options["as_json"]:
        console.print_out(codec.render_plan(planned))
    else:
        console.print_laid_out(plan_table.render, planned)


@cli.command()
def devices() -> None:
    """Lists the devices that training can run on here, and what limits them."""
    from autobatch import api

    console.print_laid_out(terminal.render_devices, api.find_devices())


@cli.group("cache", no_args_is_help=False)
def cached_answers() -> None:
    """Lists or clears the answers that are kept for the next time."""


@cached_answers.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_cached(as_json: bool) -> None:
    """Lists the answers in the cache, the newest first."""
    found = cache.list_entries()
    if as_json:
        console.print_out(cache_list.render_json(found))
    else:
        console.print_laid_out(cache_list.render, found)


@cached_answers.command("clear")
def clear_cached() -> None:
    """Removes every answer from the cache."""
    console.print_out(cache_list.render_cleared(cache.clear()))


cli.add_command(scripts.run_script)


def main() -> NoReturn:
    """Runs the command line and exits: 0, 1 for an error, 2 for usage, 130 for an interrupt."""
    console.open_standard_streams()
    as_json = "--json" in scripts.own_arguments(sys.argv[1:])
    try:
        command, arguments = scripts.chosen(cli, sys.argv[1:])
        command.main(arguments, standalone_mode=False)
        console.flush()
    except AutobatchError as error:
        console.fail(error, as_json=as_json)
    except click.UsageError as error:
        message = error.format_message().rstrip(".")
        hint = f"see `autobatch {_command(error.ctx)}--help`"
        console.fail(UsageError(message, code="usage", hint=hint), as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        _hear_no_more_interrupts()
        console.fail(AutobatchError("interrupted", code="interrupted"), as_json=as_json, status=_INTERRUPTED)
    except BrokenPipeError:
        console.leave(0)
    except Exception as bug:
        if os.environ.get(_TRACEBACK):
            traceback.print_exception(bug)
        console.fail(_unforeseen(bug), as_json=as_json)
    raise SystemExit(0)


def _command(context: click.Context | None) -> str:
    """`cache list ` for the context of a command; empty for autobatch itself."""
    if context is None or context.parent is None:
        return ""
    return f"{_command(context.parent)}{context.info_name} "


def _unforeseen(bug: Exception) -> AutobatchError:
    """The error for what no code of autobatch has foreseen."""
    own = [one for one in traceback.extract_tb(bug.__traceback__) if one.filename.startswith(_PACKAGE)]
    place = f"at autobatch{own[-1].filename[len(_PACKAGE) :]}:{own[-1].lineno}, in `{own[-1].name}`"
    return AutobatchError(
        "this is a bug in autobatch",
        code="internal_error",
        facts=(
            f"{type(bug).__name__}: {bug}",
            place,
            f"autobatch {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ),
        hint=f"please report it with what `{_TRACEBACK}=1` prints before this message",
    )


def _hear_no_more_interrupts() -> None:
    """The end has begun: a second Ctrl-C must not cut the report short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _follow(recipe: Any, limits: Limits, device: str | None, meeting: Meeting) -> None:
    from autobatch import api

    api.probe(recipe, limits, device=device, on_output=lambda line: None, meeting=meeting)


def _limits(options: dict[str, Any]) -> Limits:
    return Limits(
        memory_bytes=options["memory_limit"],
        memory_fraction=options["memory_fraction"],
        min_batch=options["min_batch"],
        max_batch=options["max_batch"],
        multiple_of=options["multiple_of"],
        global_batch=options["global_batch"],
        budget_seconds=options["budget"],
        trial_timeout_seconds=options["trial_timeout"],
        objective=Objective(options["objective"]),
        ceiling=options["ceiling"],
        check=not options["no_check"],
        sizes_per_rank=options["sizes_per_rank"],
        seed=options["seed"],
    )


@contextmanager
def _engines(recipe: Any, options: dict[str, Any], tell: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The argument of `api.probe` for the engine that was asked for; nothing for the one that is here."""
    if options["engine"] == "local":
        if options["ray_address"] is not None:
            raise UsageError(
                "`--ray-address` goes with `--engine ray`", code="usage", hint="give both, or neither"
            )
        yield {}
        return
    from autobatch.engines.ray.engine import ray_engines

    with ray_engines(options["ray_address"], recipe, options["device"], tell) as make_engine:
        yield {"make_engine": make_engine}


def _recipe(target: str, options: dict[str, Any]) -> Any:
    from autobatch.engines import messages

    if options["classes"] is not None and options["input_shape"] is None:
        raise UsageError(
            "`--classes` goes with `--input-shape`",
            code="usage",
            hint="give `--input-shape 3,32,32` for random inputs, or leave `--classes` out",
        )
    path = target.partition(":")[0]
    if path.endswith(".py") and not Path(path).is_file():
        raise missing_file(Path(path))
    return messages.Recipe(
        target=target,
        input_shape=options["input_shape"],
        classes=options["classes"],
        epochs=options["epochs"],
        precision=options["precision"],
        optimizer=options.get("optimizer"),
    )


def _check_writable(options: dict[str, Any], source: str) -> None:
    """Raises an error for a file that can't be written; `source` is the one that is read."""
    taken = {os.path.realpath(source): f"`{printable(source)}`"}
    for option, path, kind in (
        ("--save", options["save_to"], result_files.RESULT),
        ("--html", options["html_to"], result_files.REPORT),
    ):
        if not path:
            continue
        place = os.path.realpath(path)
        if place in taken:
            raise UsageError(
                f"`{option}` would write over {taken[place]}",
                code="usage",
                hint=f"give it a file of its own: `{kind.option}`",
            )
        taken[place] = f"the file of `{option}`"
        result_files.check_writable(path, kind)
