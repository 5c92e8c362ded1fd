"""Results of operators on fake tensors, cached by the shapes of their inputs.

Fake tensors dispatch each call through Python: 0.2 ms where their cache has the result, up to 30 ms where it
hasn't, as with normalisations, which they decompose. A step repeats the same calls layer after layer. Here
each operator runs once for its inputs' shapes; later calls build the same result again, with new storages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from autobatch.devices.tracing_internals import (
    FakeTensor,
    FakeTensorMode,
    has_out_argument,
    storage_key,
    tree_map_only,
    without_dispatch_modes,
)
from autobatch.memory.operator_rules import DTYPES, RULES, Output, Recipe

_aten = torch.ops.aten
_UNSAFE_VIEW = _aten._unsafe_view.default
_READS_DEVICE = torch.ops.prim.device.default
_CPU = torch.device("cpu")
_SETTINGS = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
)
# Results that depend on more than shapes, or operators that change the metadata of their first argument.
_NOT_CACHEABLE = frozenset(
    {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
)


class FakeResults:
    """Run operators on the tensors of a `FakeTensorMode`."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        # None: the result depends on more than shapes.
        self._recipes: dict[Any, Recipe | None] = {}
        self._cacheable: dict[Any, bool] = {}

    def run(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result. Raises what the operator raises, except where a rule gives the result."""
        if operator is _READS_DEVICE and type(args[0]) is FakeTensor:
            return args[0].fake_device
        tensors: list[FakeTensor] = []
        key = self._key(operator, args, kwargs, tensors)
        if key is None:
            return operator(*args, **kwargs)
        if key not in self._recipes and operator in RULES:
            self._recipes[key] = RULES[operator](*args, **kwargs)
        recipe = self._recipes.get(key)
        if recipe is not None:
            made = [None if output is None else self._tensor(output, tensors) for output in recipe.outputs]
            return made[0] if recipe.sequence_type is None else recipe.sequence_type(made)
        is_view = operator.is_view or operator is _UNSAFE_VIEW
        result = self._view(operator, args, kwargs) if is_view else operator(*args, **kwargs)
        self._recipes[key] = _recipe(result, tensors)
        return result

    def _key(self, operator: Any, args: Any, kwargs: dict[str, Any], tensors: list[FakeTensor]) -> Any:
        """Everything that the result depends on; None if it depends on data. Adds the inputs to `tensors`."""
        if operator not in self._cacheable:
            self._cacheable[operator] = _is_cacheable(operator)
        # In inference mode a result also depends on the mode in which its inputs were made.
        if not self._cacheable[operator] or torch.is_inference_mode_enabled():
            return None
        key: list[Any] = [operator, torch.get_default_dtype()]
        if not _describe(args, key, tensors):
            return None
        for name, value in kwargs.items():
            key.append(name)
            if not _describe((value,), key, tensors):
                return None
        return tuple(key)

    def _view(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A view, with the shape, strides and offset that torch gives it on any device."""
        with without_dispatch_modes():
            result = operator(*tree_map_only(FakeTensor, _inner, args), **kwargs)
        return tree_map_only(torch.Tensor, self._fake, result)

    def _tensor(self, output: Output, tensors: Sequence[FakeTensor]) -> FakeTensor:
        source = None if output.source is None else tensors[output.source]
        if source is not None and output.is_input:
            return source
        with without_dispatch_modes():
            if source is None:
                inner = torch.empty_strided(output.shape, output.stride, dtype=output.dtype, device="meta")
            else:
                inner = torch.empty(0, dtype=output.dtype, device="meta")
                inner.set_(source.untyped_storage(), output.offset, output.shape, output.stride)
        return self._fake(inner)

    def _fake(self, inner: torch.Tensor) -> FakeTensor:
        return FakeTensor(self._mode, inner, _CPU)


def _is_cacheable(operator: Any) -> bool:
    return (
        operator.namespace == "aten"
        and _NOT_CACHEABLE.isdisjoint(operator.tags)
        and not has_out_argument(operator)
    )


def _is_ordinary(tensor: FakeTensor) -> bool:
    return (
        tensor.fake_device == _CPU
        and tensor.constant is None
        and tensor.layout is torch.strided
        and tensor.dtype in DTYPES
    )


def _describe(values: Iterable[Any], key: list[Any], tensors: list[FakeTensor]) -> bool:
    """Add a description of each value to `key`; False if a value is neither a plain fake nor a setting."""
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            if not _is_ordinary(value):
                return False
            key += (value.shape, value.stride(), value.storage_offset(), value.dtype)
            tensors.append(value)
        elif kind is list or kind is tuple:
            key += (kind, len(value))
            if not _describe(value, key, tensors):
                return False
        elif kind in _SETTINGS:
            # A dictionary takes 1, 1.0 and True for the same key.
            key += (kind, value)
        else:
            return False
    return True


def _inner(tensor: FakeTensor) -> torch.Tensor:
    """The same view of the same storage, without the fake tensor's dispatch."""
    inner = torch.empty(0, dtype=tensor.dtype, device="meta")
    return inner.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _recipe(result: Any, tensors: Sequence[FakeTensor]) -> Recipe | None:
    """The recipe of a result; None where its tensors share storage in a way that Output can't hold."""
    sequence_type = type(result) if isinstance(result, (list, tuple)) else None
    sources = {storage_key(tensor.untyped_storage()): number for number, tensor in enumerate(tensors)}
    outputs: list[Output | None] = []
    for leaf in (result,) if sequence_type is None else result:
        output = None if leaf is None else _output(leaf, tensors, sources)
        if leaf is not None and output is None:
            return None
        if output is not None and output.source is None:
            # A second tensor in this storage could not refer to the first.
            sources[storage_key(leaf.untyped_storage())] = len(tensors)
        outputs.append(output)
    return Recipe(tuple(outputs), sequence_type)


def _output(leaf: Any, tensors: Sequence[FakeTensor], sources: dict[int, int]) -> Output | None:
    if type(leaf) is not FakeTensor or not _is_ordinary(leaf):
        return None
    source = sources.get(storage_key(leaf.untyped_storage()))
    if source == len(tensors):
        return None
    input_number = next((number for number, tensor in enumerate(tensors) if tensor is leaf), None)
    output = Output(
        tuple(leaf.shape),
        leaf.stride(),
        int(leaf.storage_offset()),
        leaf.dtype,
        source if input_number is None else input_number,
        input_number is not None,
    )
    whole = output.offset == 0 and leaf.untyped_storage().nbytes() == _bytes_of(output)
    return output if whole or output.source is not None else None


def _bytes_of(output: Output) -> int:
    """The bytes of a storage that is allocated for this shape and these strides."""
    if 0 in output.shape:
        return 0
    reach = sum((size - 1) * stride for size, stride in zip(output.shape, output.stride, strict=True))
    return (reach + 1) * output.dtype.itemsize
