"""A Keras model on its way to the worker: in Keras' format, with the code that the format only names.

Keras saves the user's classes and functions as names, which mean nothing in another process, so the code
travels beside the model.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

from autobatch.records.errors import TargetError, UsageError, message_of

_INNER = "Exception encountered: "
_HINT = "pass a function that makes and compiles the model, as in `find(build_model, (x, y))`"


class Archive:
    """Pickles as its model, with weights, loss, metrics, and the compiled optimizer with its state."""

    def __init__(self, model: Any) -> None:
        """Only reads the model. Raises UsageError where Keras can't save it."""
        import keras

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._rebuild, (buffer,) = model.__reduce__()
        except Exception as error:
            raise UsageError(
                "`model` can't be sent to the worker process",
                code="not_picklable",
                facts=(f"Keras can't save it: {_describe(error)}",),
                hint=_HINT,
            ) from None
        self._data: bytes = buffer.getvalue()
        code = list(_user_code(model))
        _refuse_lambdas(code)
        self._user_code = {keras.saving.get_registered_name(item): item for item in code}
        self._floatx: str = keras.config.floatx()
        self._compiled = bool(model.compiled)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return load, (self._rebuild, self._data, self._user_code, self._floatx, self._compiled)


def load(
    rebuild: Callable[[io.BytesIO], Any],
    data: bytes,
    user_code: Mapping[str, Any],
    floatx: str,
    compiled: bool,
) -> Any:
    """The model of an Archive, in the worker. Raises TargetError where Keras can't make it again."""
    import keras

    keras.config.set_floatx(floatx)
    with warnings.catch_warnings(record=True) as caught, keras.saving.custom_object_scope(dict(user_code)):
        try:
            model = rebuild(io.BytesIO(data))
        except Exception as error:
            raise _not_rebuilt(_describe(error)) from None
    # Where Keras can't compile a model again, it leaves it uncompiled, with a warning.
    if compiled and not model.compiled:
        messages = [warning.message for warning in caught[-1:]]
        raise _not_rebuilt(*(_describe(message) for message in messages if isinstance(message, Warning)))
    return model


def _not_rebuilt(*facts: str) -> TargetError:
    return TargetError(
        "the Keras model can't be made again in the worker process",
        code="keras_not_rebuilt",
        facts=facts,
        hint=_HINT,
    )


def _refuse_lambdas(code: Iterable[Any]) -> None:
    """Raises UsageError for a lambda that uses globals: Keras saves its code without them."""
    for item in code:
        lost = inspect.getclosurevars(item).globals if getattr(item, "__name__", "") == "<lambda>" else {}
        if lost:
            names = ", ".join(f"`{name}`" for name in lost)
            raise UsageError(
                "`model` can't be sent to the worker process",
                code="not_picklable",
                facts=(f"Keras saves a lambda of it without {names}, which it needs",),
                hint=f"make the lambda a function with a name, or {_HINT}",
            )


def _user_code(model: Any) -> Iterator[Any]:
    """The classes and functions beside those of Keras that a model is built from or compiled with."""
    given = getattr(getattr(model, "_compile_config", None), "config", None)
    held = [*model._flatten_layers(), getattr(model, "optimizer", None), *_flat(given)]
    for holder in held:
        for value in (holder, *(_flat(list(vars(holder).values())) if hasattr(holder, "__dict__") else ())):
            code = value if isinstance(value, FunctionType) else type(value)
            named = isinstance(value, FunctionType) or hasattr(value, "get_config")
            if named and code.__module__.split(".")[0] not in ("keras", "builtins"):
                yield code


def _flat(value: Any) -> list[Any]:
    """The leaves of lists, tuples and dicts of any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _flat(part)]
    return [value]


def _describe(error: BaseException) -> str:
    """`Type: message` in a line, for the innermost of the errors that Keras wraps into one another."""
    lines = message_of(error).strip().splitlines() or [""]
    inner = [line for line in lines if line.startswith(_INNER)]
    return f"{type(error).__name__}: {(inner or lines[:1])[-1].removeprefix(_INNER)}"
