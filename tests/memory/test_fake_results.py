"""Cached results equal those of fake tensors' dispatch: shape, strides, dtype and storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_leaves

from autobatch.memory import trace
from autobatch.memory.fake_results import FakeResults
from autobatch.memory.trace import trace_step

aten = torch.ops.aten
HALF, FLOAT = torch.float16, torch.float32


Sizes = tuple[int, int, int, int]


def images(dtype: torch.dtype, layout: str, sizes: Sizes = (4, 6, 5, 7)) -> torch.Tensor:
    made = torch.empty(sizes, dtype=dtype)
    if layout == "channels last":
        return made.contiguous(memory_format=torch.channels_last)
    return made.transpose(2, 3) if layout == "transposed" else made


def batch_norm(values: torch.Tensor, training: bool, weight: bool) -> Any:
    channels = values.shape[1]
    of_channels = [torch.empty(channels) if weight else None] * 2
    running = (torch.empty(channels), torch.empty(channels))
    return aten.native_batch_norm.default, (values, *of_channels, *running, training, 0.1, 1e-5)


def batch_norm_backward(values: torch.Tensor, training: bool, weight: bool) -> Any:
    channels = values.shape[1]
    saved = [torch.empty(channels) for _ in range(4)]
    scale = torch.empty(channels) if weight else None
    wanted = [True, weight, weight]
    return aten.native_batch_norm_backward.default, (
        *(torch.empty_like(values), values, scale, *saved, training, 1e-5, wanted),
    )


def layer_norm(values: torch.Tensor, both: bool, weight: bool) -> Any:
    shape = list(values.shape[-2 if both else -1 :])
    scale = torch.empty(shape, dtype=values.dtype) if weight else None
    return aten.native_layer_norm.default, (values, shape, scale, scale, 1e-5)


def backward_of(operator: Any, *more: Any) -> Callable[..., Any]:
    def called(values: torch.Tensor, same: bool, _: bool) -> Any:
        gradient = torch.empty_like(values) if same else torch.empty(values.shape, dtype=values.dtype)
        return operator, (gradient, values, *more)

    return called


def matrix_product(values: torch.Tensor, transposed: bool, whole_bias: bool) -> Any:
    first = values[0, 0]
    columns = first.shape[1]
    second = (
        torch.empty(3, columns, dtype=values.dtype).t()
        if transposed
        else torch.empty(columns, 3, dtype=values.dtype)
    )
    bias = torch.empty((first.shape[0], 3) if whole_bias else 3, dtype=values.dtype)
    return aten.addmm.default, (bias, first, second)


def conversion(values: torch.Tensor, to_half: bool, _: bool) -> Any:
    return aten._to_copy.default, (values,), {"dtype": HALF if to_half else torch.float64}


RULED = (
    *(batch_norm, batch_norm_backward, layer_norm, matrix_product, conversion),
    backward_of(aten.threshold_backward.default, 0),
    *map(backward_of, (aten.gelu_backward.default, aten.silu_backward.default)),
    backward_of(aten.hardswish_backward.default),
)


def description(result: Any, inputs: list[torch.Tensor]) -> list[Any]:
    """The metadata of a result's tensors, and the input whose storage each has."""
    of_inputs = [tensor.untyped_storage()._cdata for tensor in inputs]
    seen: list[Any] = [type(result) if isinstance(result, (list, tuple)) else None]
    for leaf in tree_leaves(result):
        if leaf is None:
            seen.append(None)
            continue
        storage = leaf.untyped_storage()
        source = of_inputs.index(storage._cdata) if storage._cdata in of_inputs else None
        same_input = next((number for number, tensor in enumerate(inputs) if tensor is leaf), None)
        layout = (leaf.shape, leaf.stride(), leaf.storage_offset(), leaf.dtype, leaf.device)
        seen.append((*layout, storage.nbytes(), source, same_input))
    return seen


def check(results: FakeResults, operator: Any, args: Any, kwargs: Any) -> None:
    """At the first and at the second call the result equals the operator's."""
    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    expected = description(operator(*args, **kwargs), inputs)
    for _ in range(2):
        assert description(results.run(operator, args, kwargs), inputs) == expected


@pytest.mark.parametrize("called", RULED)
@settings(max_examples=30, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 4),
    dtype=st.sampled_from((HALF, FLOAT)),
    layout=st.sampled_from(("contiguous", "channels last", "transposed")),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_a_rule_gives_the_result_of_the_operator(
    called: Any, sizes: Sizes, dtype: torch.dtype, layout: str, flags: tuple[bool, bool]
) -> None:
    # The decomposition itself divides by zero where a channel has one value.
    assume(called is not batch_norm or sizes[0] * sizes[2] * sizes[3] > 1)
    with FakeTensorMode() as mode:
        operator, args, *kwargs = called(images(dtype, layout, sizes), *flags)
        check(FakeResults(mode), operator, args, kwargs[0] if kwargs else {})


VIEWS: tuple[tuple[Any, ...], ...] = (
    (aten.view.default, [4, 30, 7]),
    (aten._unsafe_view.default, [24, 35]),
    (aten.transpose.int, 1, 3),
    (aten.permute.default, [3, 0, 2, 1]),
    (aten.slice.Tensor, 1, 2, 5),
    (aten.select.int, 2, 3),
    (aten.unsqueeze.default, 0),
    (aten.expand.default, [2, 4, 6, 5, 7]),
    (aten.as_strided.default, [3, 3], [7, 1], 11),
    (aten.split.Tensor, 4, 1),
    (aten.unbind.int, 1),
    (aten.detach.default,),
    (aten.diagonal.default,),
)
OTHERS: tuple[tuple[Any, ...], ...] = (
    (aten.relu_.default,),
    (aten.zero_.default,),
    (aten.sum.dim_IntList, [0], True),
    (aten.max.dim, 1),
    (aten.clone.default,),
    (aten.max_pool2d_with_indices.default, [2, 2]),
    (aten.new_empty.default, [3, 0, 2]),
    (aten.repeat.default, [1, 2, 1, 1]),
    (aten.add.Scalar, 1),
    (aten.mean.default,),
)


@pytest.mark.parametrize(("operator", "more"), [(call[0], call[1:]) for call in (*VIEWS, *OTHERS)], ids=str)
def test_a_cached_result_equals_the_first(operator: Any, more: Any) -> None:
    with FakeTensorMode() as mode:
        results = FakeResults(mode)
        for piece in (images(FLOAT, "contiguous"), torch.empty(9, 6, 5, 7)[3:7]):
            check(results, operator, (piece, *more), {})


def test_an_input_that_is_a_view_keeps_its_storage_and_its_place() -> None:
    with FakeTensorMode() as mode:
        results = FakeResults(mode)
        for start in (0, 2):
            check(results, aten.transpose.int, (torch.empty(8, 6)[start : start + 4], 0, 1), {})


def test_equal_numbers_of_different_types_are_different_calls() -> None:
    with FakeTensorMode() as mode:
        results = FakeResults(mode)
        whole = torch.empty(3, dtype=torch.int64)
        for number in (1, 1.0, True):
            check(results, aten.add.Scalar, (whole, number), {})
            check(results, aten.full.default, ([2], number), {})


def test_the_default_dtype_is_part_of_the_key() -> None:
    with FakeTensorMode() as mode:
        results = FakeResults(mode)
        for default in (torch.float32, torch.float64):
            torch.set_default_dtype(default)
            try:
                check(results, aten.zeros.default, ([2, 3],), {})
            finally:
                torch.set_default_dtype(torch.float32)


def test_a_result_that_depends_on_data_is_not_cached() -> None:
    with FakeTensorMode() as mode:
        results = FakeResults(mode)
        for _ in range(2):
            with pytest.raises(DynamicOutputShapeException):
                results.run(aten.nonzero.default, (torch.empty(4),), {})


def test_a_change_of_shape_in_place_changes_the_tensor_itself_each_time() -> None:
    with FakeTensorMode() as mode:
        results = FakeResults(mode)
        for _ in range(2):
            values = torch.empty(2, 3)
            result = results.run(aten.t_.default, (values,), {})
            assert result is values
            assert values.shape == (3, 2)


def test_errors_are_those_of_the_operator() -> None:
    with FakeTensorMode() as mode:
        results = FakeResults(mode)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="shape"):
                results.run(aten.view.default, (torch.empty(4), [3]), {})
            with pytest.raises(RuntimeError, match="reduction dim"):
                results.run(aten.addmm.default, (torch.empty(2), torch.empty(4, 3), torch.empty(5, 2)), {})


def test_a_tensor_of_another_device_stays_there() -> None:
    with FakeTensorMode() as mode:
        check(FakeResults(mode), aten.view.default, (torch.empty(4, 8, device="meta"), [32]), {})


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.permutations(range(4)),
    st.sampled_from((HALF, FLOAT)),
)
def test_any_strides_are_kept_apart(sizes: list[int], order: list[int], dtype: torch.dtype) -> None:
    with FakeTensorMode() as mode:
        results = FakeResults(mode)
        places = [place for place in order if place < len(sizes)]
        for values in (torch.empty(sizes, dtype=dtype), torch.empty(sizes, dtype=dtype).permute(places)):
            check(results, aten.mul.Tensor, (values, values), {})
            check(results, aten.clone.default, (values,), {})
            check(results, aten._to_copy.default, (values,), {"dtype": torch.float64})
            check(results, aten.gelu_backward.default, (values, values), {})


class Mixed(nn.Module):
    """Convolutions, norms, attention, an embedding with sparse gradients, branches and a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(20, 8, sparse=True)
        self.convolution = nn.Sequential(nn.Conv1d(8, 16, 3, padding=1), nn.BatchNorm1d(16), nn.GELU())
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.1)
        self.recurrent = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        hidden = self.convolution(self.codes(codes).transpose(1, 2)).transpose(1, 2)
        hidden = self.block(hidden) + self.recurrent(hidden)[0]
        left, right = hidden.chunk(2, dim=-1)
        joined: torch.Tensor = self.head(torch.cat([left * right.sigmoid(), right], dim=-1))
        return joined.mean(1)


class Uncached(FakeResults):
    """Leave each call to fake tensors' dispatch."""

    def run(self, operator: Any, args: Any, kwargs: Any) -> Any:
        return operator(*args, **kwargs)


def of_images() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(2, 8), nn.SiLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 5)),
    )


class Inferring(nn.Module):
    """Makes constants in inference mode, where operators arrive whole and views remember where they began."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        weights = self.layer.weight
        with torch.inference_mode():
            values = codes.float().view(12, -1).view(4, 12)
            scale = self.layer(values).to(values.device).cpu().reshape(-1).mean()
        joined: torch.Tensor = self.layer(values.clone()) * scale.clone()
        return joined + weights.view(-1).mean()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("make", [Mixed, Inferring, of_images])
def test_a_trace_has_the_same_events(
    make: Callable[[], nn.Module], autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def traced() -> Any:
        model = make()
        plain = [parameter for name, parameter in model.named_parameters() if "codes" not in name]
        optimizer = torch.optim.AdamW(plain)

        def step(batch: Any) -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            loss.item()
            optimizer.step()

        inputs = torch.zeros(4, 3, 12, 12) if make is of_images else torch.zeros(4, 12, dtype=torch.long)
        batch = (inputs, torch.zeros(4, dtype=torch.long))
        return trace_step(model, [optimizer], batch, step, fake=True, channels_last=make is of_images)

    cached = traced()
    monkeypatch.setattr(trace, "FakeResults", Uncached)
    assert cached == traced()
