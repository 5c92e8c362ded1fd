"""`autobatch show`: shows a saved result, or the trials of a search that ended too early."""

from __future__ import annotations

from dataclasses import replace

import click

from autobatch.cli import console, options
from autobatch.decision.recommender import recommend
from autobatch.decision.trial_set import TrialSet
from autobatch.records.errors import SavedResultError
from autobatch.records.recommendation import INTERRUPTED, Recommendation
from autobatch.records.trial import Ceiling, Curve, LimitedBy
from autobatch.storage import journal, result_files
from autobatch.storage.journal import UnfinishedSearch

INTERRUPTION_WARNING = (
    "the search was interrupted or failed, or still runs: only the sizes shown were measured"
)
_MAX_FACTS = 5


@click.command(cls=options.Command)
@click.argument("file", type=click.Path(), required=False)
@options.option(
    options.SOURCE,
    "--last",
    is_flag=True,
    help="The last search that ended without an answer, not FILE.",
)
@options.json_output
@options.quiet
@options.verbose
@options.html_report
def show(
    file: str | None, last: bool, as_json: bool, quiet: bool, verbose: bool, html_to: str | None
) -> None:
    """Show a saved result again.

    FILE is a file that `autobatch probe --save` wrote. With --last: the trials of the last search that was
    interrupted or failed, or that still runs. -q and --json give the batch size that follows from them.
    """
    if last == (file is not None):
        message = "`--last` and FILE exclude each other" if last else "Missing argument 'FILE'"
        raise click.UsageError(message, click.get_current_context())
    answer = decide_unfinished(journal.load_newest()) if file is None else result_files.load(file)
    output = console.Output(as_json, quiet, html_to=html_to, verbose=verbose)
    output.check_writable(file)
    console.deliver(answer, output)


def decide_unfinished(unfinished: UnfinishedSearch) -> Recommendation:
    """Recommend a batch size from the trials so far, with a warning that there should be more.

    Raises SavedResultError, with the trials, if no size has passed.
    """
    largest = TrialSet(unfinished.trials).largest_passed
    if largest is None:
        raise _nothing_passed(unfinished)
    curve = Curve(
        trials=unfinished.trials,
        ceiling=Ceiling(batch_size=largest, limited_by=LimitedBy.BUDGET, verified=False, detail=INTERRUPTED),
        workload=unfinished.workload,
        device=unfinished.device,
        warnings=(INTERRUPTION_WARNING,),
        world_size=unfinished.world_size,
    )
    return replace(recommend(curve, None, unfinished.limits), environment=unfinished.environment)


def _nothing_passed(unfinished: UnfinishedSearch) -> SavedResultError:
    facts = (
        f"batch size {trial.batch_size}: {trial.outcome.replace('_', ' ')}" for trial in unfinished.trials
    )
    error = SavedResultError(
        "no batch size has passed in the last search",
        code="nothing_passed",
        facts=tuple(facts)[:_MAX_FACTS],
        hint="probe again",
    )
    error.trials = unfinished.trials
    return error
