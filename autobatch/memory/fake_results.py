"""What operators give on fake tensors, remembered by the shapes of what they take.

A fake tensor's own dispatch goes through Python for each call: a fifth of a millisecond where its cache knows
the answer, up to 30 ms where it does not, as with normalisations, which it takes to pieces. A step asks the
same things layer after layer. Here each is asked once; from then on its answer is made anew, storage and all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

_aten = torch.ops.aten
_UNSAFE_VIEW = _aten._unsafe_view.default
_ASKS_DEVICE = torch.ops.prim.device.default
# Within it, operators run past all modes, on tensors of "meta" such as fakes are made of.
_on_inner_tensors = torch._C._DisableTorchDispatch
_CPU = torch.device("cpu")
_SETTINGS = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
)
_DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)
# What depends on more than shapes, or changes what its first argument is.
_UNFIT = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view})


@dataclass(frozen=True, slots=True)
class _Output:
    """One tensor of a result, with its own storage, or (`source`) with that of an input.

    `itself`: it is that input.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    source: int | None = None
    itself: bool = False


@dataclass(frozen=True, slots=True)
class _Recipe:
    """A result: its tensors (None for one that is not there), and the type that holds them, if any does."""

    outputs: tuple[_Output | None, ...]
    holder: type | None = None


class FakeResults:
    """Runs operators on the tensors of a `FakeTensorMode`."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        # None: not to be had from shapes alone.
        self._recipes: dict[Any, _Recipe | None] = {}
        self._fit: dict[Any, bool] = {}

    def run(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result. Raises whatever the operator raises, but where a rule knows the result."""
        if operator is _ASKS_DEVICE and type(args[0]) is FakeTensor:
            return args[0].fake_device
        tensors: list[FakeTensor] = []
        key = self._key(operator, args, kwargs, tensors)
        if key is None:
            return operator(*args, **kwargs)
        if key not in self._recipes and operator in _RULES:
            self._recipes[key] = _RULES[operator](*args, **kwargs)
        recipe = self._recipes.get(key)
        if recipe is not None:
            made = [None if one is None else self._tensor(one, tensors) for one in recipe.outputs]
            return made[0] if recipe.holder is None else recipe.holder(made)
        is_view = operator.is_view or operator is _UNSAFE_VIEW
        result = self._view(operator, args, kwargs) if is_view else operator(*args, **kwargs)
        self._recipes[key] = _recipe(result, tensors)
        return result

    def _key(self, operator: Any, args: Any, kwargs: dict[str, Any], tensors: list[FakeTensor]) -> Any:
        """All that the result depends on; None if that is more than shapes. Adds the inputs to `tensors`."""
        if operator not in self._fit:
            self._fit[operator] = _is_fit(operator)
        # In inference mode a result also depends on where its inputs were made.
        if not self._fit[operator] or torch.is_inference_mode_enabled():
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
        """A view by what torch does to shape, strides and offset on any device."""
        with _on_inner_tensors():
            result = operator(*tree_map_only(FakeTensor, _inner, args), **kwargs)
        return tree_map_only(torch.Tensor, self._fake, result)

    def _tensor(self, output: _Output, tensors: Sequence[FakeTensor]) -> FakeTensor:
        source = None if output.source is None else tensors[output.source]
        if source is not None and output.itself:
            return source
        with _on_inner_tensors():
            if source is None:
                inner = torch.empty_strided(output.shape, output.stride, dtype=output.dtype, device="meta")
            else:
                inner = torch.empty(0, dtype=output.dtype, device="meta")
                inner.set_(source.untyped_storage(), output.offset, output.shape, output.stride)
        return self._fake(inner)

    def _fake(self, inner: torch.Tensor) -> FakeTensor:
        return FakeTensor(self._mode, inner, _CPU)


def _is_fit(operator: Any) -> bool:
    return (
        operator.namespace == "aten"
        and _UNFIT.isdisjoint(operator.tags)
        and not any(argument.is_out for argument in operator._schema.arguments)
    )


def _is_ordinary(tensor: FakeTensor) -> bool:
    return (
        tensor.fake_device == _CPU
        and tensor.constant is None
        and tensor.layout is torch.strided
        and tensor.dtype in _DTYPES
    )


def _describe(values: Iterable[Any], key: list[Any], tensors: list[FakeTensor]) -> bool:
    """Adds to `key` what is known of each value; False if one is neither a plain fake nor a setting."""
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
            # 1, 1.0 and True are one key in a dictionary.
            key += (kind, value)
        else:
            return False
    return True


def _inner(tensor: FakeTensor) -> torch.Tensor:
    """The same piece of the same storage without the fake's own dispatch."""
    inner = torch.empty(0, dtype=tensor.dtype, device="meta")
    return inner.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _recipe(result: Any, tensors: Sequence[FakeTensor]) -> _Recipe | None:
    """How to make such a result again; None for one that shares storage in a way that is not told here."""
    holder = type(result) if isinstance(result, (list, tuple)) else None
    sources = {tensor.untyped_storage()._cdata: number for number, tensor in enumerate(tensors)}
    outputs: list[_Output | None] = []
    for leaf in (result,) if holder is None else result:
        output = None if leaf is None else _output(leaf, tensors, sources)
        if leaf is not None and output is None:
            return None
        if output is not None and output.source is None:
            # A second one in this storage would have to be told of the first.
            sources[leaf.untyped_storage()._cdata] = len(tensors)
        outputs.append(output)
    return _Recipe(tuple(outputs), holder)


def _output(leaf: Any, tensors: Sequence[FakeTensor], sources: dict[int, int]) -> _Output | None:
    if type(leaf) is not FakeTensor or not _is_ordinary(leaf):
        return None
    source = sources.get(leaf.untyped_storage()._cdata)
    if source == len(tensors):
        return None
    itself = next((number for number, tensor in enumerate(tensors) if tensor is leaf), None)
    output = _Output(
        tuple(leaf.shape),
        leaf.stride(),
        int(leaf.storage_offset()),
        leaf.dtype,
        source if itself is None else itself,
        itself is not None,
    )
    whole = output.offset == 0 and leaf.untyped_storage().nbytes() == _bytes_of(output)
    return output if whole or output.source is not None else None


def _bytes_of(output: _Output) -> int:
    """The storage of a tensor that is made for this shape and these strides."""
    if 0 in output.shape:
        return 0
    reach = sum((size - 1) * stride for size, stride in zip(output.shape, output.stride, strict=True))
    return (reach + 1) * output.dtype.itemsize


def _new(shape: Iterable[int], dtype: torch.dtype) -> _Output:
    """A contiguous tensor."""
    sizes = tuple(shape)
    strides = itertools.accumulate((max(1, size) for size in sizes[:0:-1]), mul, initial=1)
    return _Output(sizes, tuple(strides)[::-1] if sizes else (), 0, dtype)


def _like(tensor: FakeTensor, dtype: torch.dtype | None = None) -> _Output:
    return _Output(tuple(tensor.shape), tensor.stride(), 0, dtype or tensor.dtype)


def _is_plain(tensor: FakeTensor) -> bool:
    """What is made like this one has its strides. Where a size is 1 they may be others, to the same end."""
    return min(tensor.shape, default=2) > 1 and (
        tensor.is_contiguous()
        or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    )


def _batch_norm(
    values: FakeTensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *_: Any
) -> _Recipe | None:
    if not training or not _is_plain(values):
        return None
    statistic = _new(values.shape[1:2], values.dtype)
    return _Recipe((_like(values), statistic, statistic), tuple)


def _batch_norm_backward(gradient: FakeTensor, values: FakeTensor, weight: Any, *rest: Any) -> _Recipe | None:
    training, wanted = rest[4], rest[6]
    if not training or weight is None or not all(wanted) or not _are_alike(gradient, values):
        return None
    of_weight = _new(weight.shape, weight.dtype)
    return _Recipe((_like(values), of_weight, of_weight), tuple)


def _layer_norm(
    values: FakeTensor, shape: Sequence[int], weight: Any, bias: Any, epsilon: float
) -> _Recipe | None:
    if not _is_plain(values) or not values.is_contiguous():
        return None
    statistic = _new((*values.shape[: -len(shape)], *(1 for _ in shape)), values.dtype)
    return _Recipe((_new(values.shape, values.dtype), statistic, statistic), tuple)


def _matrix_product(bias: FakeTensor, first: FakeTensor, second: FakeTensor, **_: Any) -> _Recipe | None:
    if first.shape[1:] != second.shape[:1] or not bias.dtype == first.dtype == second.dtype:
        return None
    return _Recipe((_new((*first.shape[:1], *second.shape[1:]), first.dtype),))


def _elementwise_backward(gradient: FakeTensor, values: FakeTensor, *_: Any, **__: Any) -> _Recipe | None:
    return _Recipe((_like(values),)) if _are_alike(gradient, values) else None


def _are_alike(one: FakeTensor, other: FakeTensor) -> bool:
    same = one.shape == other.shape and one.stride() == other.stride() and one.dtype == other.dtype
    return same and _is_plain(one)


def _conversion(values: FakeTensor, **settings: Any) -> _Recipe | None:
    if settings.keys() != {"dtype"} or not _is_plain(values) or settings["dtype"] not in _DTYPES:
        return None
    return _Recipe((_like(values, settings["dtype"]),))


# What takes longest to ask, and what models have at dozens of shapes; None where it had better be asked.
_RULES: dict[Any, Callable[..., _Recipe | None]] = {
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_batch_norm_backward.default: _batch_norm_backward,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.addmm.default: _matrix_product,
    _aten._to_copy.default: _conversion,
    _aten.threshold_backward.default: _elementwise_backward,
    _aten.gelu_backward.default: _elementwise_backward,
    _aten.silu_backward.default: _elementwise_backward,
    _aten.hardswish_backward.default: _elementwise_backward,
}
