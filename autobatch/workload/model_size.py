"""The size of a model: parameters and bytes."""

from __future__ import annotations

import torch
from torch import nn


def is_lazy(tensor: torch.Tensor) -> bool:
    """True for the parameter or buffer of a lazy module, which gets its shape from a first batch."""
    return isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))


def count_parameters(model: nn.Module) -> int:
    """The number of parameters, lazy ones left out."""
    return sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))


def floating_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the model's first weights that are no integers, real for complex ones."""
    for parameter in model.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            return parameter.dtype.to_real()
    return torch.get_default_dtype()


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, shared storage counted once."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
