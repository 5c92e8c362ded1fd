"""A character transformer with a context of 96: attention and many tensors of middling size."""

from __future__ import annotations

import torch
from torch.utils.data import TensorDataset

from autobatch.examples.charlm import CONTEXT, VOCABULARY, build_model, loss_fn, make_optimizer

SAMPLES = 20_000

codes = torch.randint(VOCABULARY, (SAMPLES, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
dataset = TensorDataset(codes[:, :-1].contiguous(), codes[:, 1:].contiguous())

__all__ = ["build_model", "dataset", "loss_fn", "make_optimizer"]
