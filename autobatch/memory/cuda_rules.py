"""CUDA's rules for a step that is traced on CPU tensors.

A step on CUDA allocates other tensors than on a CPU: autocast computes in other dtypes, other operators keep
a mask, and optimizers update all parameters at once. `install` sets CUDA's rules for CPU tensors of this
process, permanently: call it in a process that traces and then ends.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from autobatch.devices.tracing_internals import (
    FakeTensor,
    cpu_autocast_operators,
    use_foreach,
    without_cpu_autocast,
)

_aten = torch.ops.aten


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The policies of ATen/autocast_mode.h for CUDA. Operators with a rule for AutocastCPU keep that rule, except
# _ONLY_ON_CPU.
IN_FP32 = _words(
    """
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar
    pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm frobenius_norm.dim
    nuclear_norm nuclear_norm.dim cosine_similarity dist pdist renorm logsumexp upsample_nearest1d
    _upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa norm.Scalar norm.ScalarOpt_dim
    """
)
# These read the input's dtype and write fp32, so no copy of the input in fp32 is made or kept.
_FP32_RESULT = _words(
    """
    prod prod.dim_int softmax.int log_softmax.int cumprod cumsum sum sum.dim_IntList linalg_vector_norm
    linalg_matrix_norm linalg_matrix_norm.str_ord
    """
)
# AutocastCPU widens the inputs of these, autocast for CUDA doesn't.
_ONLY_ON_CPU = _words("avg_pool3d max_pool3d adaptive_avg_pool3d adaptive_max_pool3d cross_entropy_loss")
_SOFTMAX = {"softmax.int": _aten._softmax, "log_softmax.int": _aten._log_softmax}
_LOW = (torch.float16, torch.bfloat16)

# An implementation ends with its library.
_installed: list[torch.library.Library] = []


def install() -> None:
    """Let CPU tensors of this process follow CUDA's rules. Safe to call twice."""
    if _installed:
        return
    library = torch.library.Library("aten", "IMPL")
    _installed.append(library)
    _install_autocast(library)
    library.impl("dropout", _dropout, "AutogradCPU")
    library.impl("scaled_dot_product_attention", _attention, "AutogradCPU")
    library.impl("lstm.input", _lstm, "AutogradCPU")
    # On CUDA, optimizers update all parameters at once by default; `fused` only where the user asks for it.
    use_foreach()
    _redirect_cuda_autocast()


def _install_autocast(library: torch.library.Library) -> None:
    registered = cpu_autocast_operators()
    for names, rule in ((IN_FP32, _in_fp32), (_FP32_RESULT, _with_fp32_result)):
        for name in names:
            if f"aten::{name}" not in registered:
                library.impl(name, rule(name), "AutocastCPU")
    with warnings.catch_warnings():
        # torch warns that a kernel replaces another, which is intended here.
        warnings.simplefilter("ignore")
        for name in _ONLY_ON_CPU:
            library.impl(name, torch.library.fallthrough_kernel, "AutocastCPU")


def _operator(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(_aten, base), overload or "default")


def _in_fp32(name: str) -> Callable[..., Any]:
    operator = _operator(name)

    def run(*args: Any, **kwargs: Any) -> Any:
        widened = {name: _widen(value) for name, value in kwargs.items()}
        with without_cpu_autocast():
            return operator(*map(_widen, args), **widened)

    return run


def _with_fp32_result(name: str) -> Callable[..., Any]:
    operator = _operator(name)

    def run(values: Any, *args: Any, **kwargs: Any) -> Any:
        with without_cpu_autocast():
            # The softmaxes take a dtype also by position, as the third argument.
            typed = kwargs.get("dtype") is not None or (name in _SOFTMAX and len(args) > 1)
            if values.dtype not in _LOW or typed:
                return operator(values, *args, **kwargs)
            if name in _SOFTMAX and values.dtype == torch.float16 and isinstance(values, FakeTensor):
                # CUDA's kernel reads fp16 and writes fp32, without a copy of its input; the CPU's can't.
                return _SOFTMAX[name](values, args[0], True)
            return operator(values, *args, **{**kwargs, "dtype": torch.float32})

    return run


def _widen(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _LOW:
        return value.to(torch.float32)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_widen, value))
    return value


def _dropout(values: torch.Tensor, share: float, train: bool) -> torch.Tensor:
    """CUDA keeps a mask of bytes, a CPU a mask of the values' dtype."""
    if share == 0 or not train or values.numel() == 0:
        return values
    return torch.native_dropout(values, share, train)[0]


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    **settings: Any,
) -> Any:
    """Attention without dropout: CUDA's fused kernels keep a seed, a CPU would keep all attention weights."""
    operator = _aten.scaled_dot_product_attention.default
    return operator.decompose(query, key, value, mask, 0.0, causal, **settings)


def _lstm(*args: Any) -> Any:
    """An LSTM step by step, which shows about as much memory as cuDNN's reserve.

    The oneDNN kernel of a CPU hides the tensors that it keeps.
    """
    with torch.backends.mkldnn.flags(enabled=False):
        return _aten.lstm.input.decompose(*args)


def _redirect_cuda_autocast() -> None:
    """Let autocast for CUDA, which a training loop may name, apply to CPU tensors."""
    autocast: Any = torch.amp.autocast_mode.autocast
    original = autocast.__init__

    def init(self: Any, device_type: str, dtype: torch.dtype | None = None, **settings: Any) -> None:
        if device_type == "cuda":
            device_type, dtype = "cpu", dtype or torch.float16
        original(self, device_type, dtype, **settings)

    autocast.__init__ = init
