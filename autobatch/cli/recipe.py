"""The recipe of a TARGET on the command line: what is trained, and how a worker gets at it."""

from __future__ import annotations

from pathlib import Path

from autobatch.engines import messages
from autobatch.records.errors import UsageError, missing_file
from autobatch.records.escaping import printable
from autobatch.records.limits import Precision
from autobatch.workload import file_watch


def recipe_of(
    target: str,
    *,
    arguments: tuple[str, ...] = (),
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    epochs: float | None = None,
    precision: Precision | None = None,
    optimizer: str | None = None,
    checkpoint: str | None = None,
) -> messages.Recipe:
    """Return the recipe. Raises UsageError for options that don't go together, TargetError for no file."""
    if classes is not None and input_shape is None:
        raise UsageError(
            "`--classes` goes with `--input-shape`",
            code="usage",
            hint="give `--input-shape 3,32,32` for random inputs, or leave `--classes` out",
        )
    path = target.partition(":")[0]
    if path.endswith(".py") and not Path(path).is_file():
        raise missing_file(Path(path))
    weights = None if checkpoint is None else Path(checkpoint).absolute()
    if weights is not None and not weights.is_file():
        raise UsageError(
            f"the checkpoint `{printable(str(weights))}` is not a file",
            code="no_checkpoint",
            hint="save one: `torch.save(model.state_dict(), FILE)`",
        )
    return messages.Recipe(
        target=target,
        arguments=arguments,
        input_shape=input_shape,
        classes=classes,
        epochs=epochs,
        precision=precision,
        optimizer=optimizer,
        checkpoint="" if weights is None else str(weights),
        checkpoint_state="" if weights is None else file_watch.state_of(str(weights)),
    )
