"""The private APIs of torch behave as tracing assumes."""

from __future__ import annotations

import torch

from autobatch.devices.tracing_internals import (
    FakeTensorMode,
    cpu_autocast_operators,
    has_out_argument,
    in_backward,
    storage_key,
    without_cpu_autocast,
    without_dispatch_modes,
)

aten = torch.ops.aten


def test_views_share_a_storage_key_and_copies_do_not() -> None:
    values = torch.ones(4)
    assert storage_key(values.view(2, 2).untyped_storage()) == storage_key(values.untyped_storage())
    assert storage_key(values.clone().untyped_storage()) != storage_key(values.untyped_storage())


def test_only_variants_with_an_out_argument_have_one() -> None:
    assert has_out_argument(aten.add.out)
    assert not has_out_argument(aten.add.Tensor)


def test_a_backward_pass_is_recognized() -> None:
    seen: list[bool] = []
    values = torch.ones(2, requires_grad=True)
    values.register_hook(lambda gradient: seen.append(in_backward()))
    assert not in_backward()
    values.sum().backward()
    assert seen == [True]
    assert not in_backward()


def test_operators_past_the_fake_mode_are_on_the_meta_device() -> None:
    with FakeTensorMode():
        assert type(torch.empty(2)) is not torch.Tensor
        with without_dispatch_modes():
            assert type(torch.empty(2, device="meta")) is torch.Tensor


def test_autocast_rules_can_be_passed_by() -> None:
    assert "aten::linear" in cpu_autocast_operators()
    values = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.mm(values, values).dtype == torch.bfloat16
        with without_cpu_autocast():
            assert torch.mm(values, values).dtype == torch.float32
