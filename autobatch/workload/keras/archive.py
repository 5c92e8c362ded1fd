"""A Keras model on its way to the worker: in Keras' own format, with the code that the format only names.

Keras writes the classes and functions of the user down as names, which mean nothing in another process: they
travel beside the model.
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
    """Pickles as the model that it was made of: weights, compiled optimizer with its state, loss, metrics."""

    def __init__(self, model: Any) -> None:
        """Only reads the model. Raises UsageError where Keras can't write it down."""
        import keras

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._rebuild, (buffer,) = model.__reduce__()
        except Exception as error:
            raise UsageError(
                "`model` can't be sent to the worker process",
                code="not_picklable",
                facts=(f"Keras can't save it: {_told(error)}",),
                hint=_HINT,
            ) from None
        self._data: bytes = buffer.getvalue()
        own = list(_own_code(model))
        _refuse_lambdas(own)
        self._own = {keras.saving.get_registered_name(one): one for one in own}
        self._floatx: str = keras.config.floatx()
        self._compiled = bool(model.compiled)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return load, (self._rebuild, self._data, self._own, self._floatx, self._compiled)


def load(
    rebuild: Callable[[io.BytesIO], Any], data: bytes, own: Mapping[str, Any], floatx: str, compiled: bool
) -> Any:
    """The model of an Archive, in the worker. Raises TargetError where Keras can't make it again."""
    import keras

    keras.config.set_floatx(floatx)
    with warnings.catch_warnings(record=True) as said, keras.saving.custom_object_scope(dict(own)):
        try:
            model = rebuild(io.BytesIO(data))
        except Exception as error:
            raise _not_rebuilt(_told(error)) from None
    # What Keras can't compile again it leaves uncompiled, with a warning.
    if compiled and not model.compiled:
        raise _not_rebuilt(*(_told(one.message) for one in said[-1:] if isinstance(one.message, Warning)))
    return model


def _not_rebuilt(*facts: str) -> TargetError:
    return TargetError(
        "the Keras model can't be made again in the worker process",
        code="keras_not_rebuilt",
        facts=facts,
        hint=_HINT,
    )


def _refuse_lambdas(own: Iterable[Any]) -> None:
    """Keras writes down the code of a lambda, but not the globals that it needs."""
    for one in own:
        lost = inspect.getclosurevars(one).globals if getattr(one, "__name__", "") == "<lambda>" else {}
        if lost:
            names = ", ".join(f"`{name}`" for name in lost)
            raise UsageError(
                "`model` can't be sent to the worker process",
                code="not_picklable",
                facts=(f"Keras saves a lambda of it without {names}, which it needs",),
                hint=f"make the lambda a function with a name, or {_HINT}",
            )


def _own_code(model: Any) -> Iterator[Any]:
    """The classes and functions that a model is made of or compiled with and that are not Keras' own."""
    given = getattr(getattr(model, "_compile_config", None), "config", None)
    held = [*model._flatten_layers(), getattr(model, "optimizer", None), *_flat(given)]
    for one in held:
        for value in (one, *(_flat(list(vars(one).values())) if hasattr(one, "__dict__") else ())):
            code = value if isinstance(value, FunctionType) else type(value)
            named = isinstance(value, FunctionType) or hasattr(value, "get_config")
            if named and code.__module__.split(".")[0] not in ("keras", "builtins"):
                yield code


def _flat(value: Any) -> list[Any]:
    """What lists, tuples and dicts hold, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [inner for one in value for inner in _flat(one)]
    return [value]


def _told(error: BaseException) -> str:
    """`Type: message` in one line: of errors that Keras wraps into one another, the innermost."""
    lines = message_of(error).strip().splitlines() or [""]
    inner = [line for line in lines if line.startswith(_INNER)]
    return f"{type(error).__name__}: {(inner or lines[:1])[-1].removeprefix(_INNER)}"
