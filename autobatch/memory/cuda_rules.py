"""What a step on CUDA does otherwise than on a CPU, for a step that is traced on CPU tensors.

Which types autocast computes in, which operators keep a mask, and which optimizers go through all parameters
at once decide what a step allocates. `install` sets CUDA's rules for CPU tensors of this process, for good:
it belongs into a process that traces and ends.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

_aten = torch.ops.aten


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The policies of ATen/autocast_mode.h for CUDA. What AutocastCPU has a rule for already keeps that one,
# but for _CPU_ALONE.
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
# These read their own type and write fp32: no copy of the input in fp32 is made or kept.
_FP32_RESULT = _words(
    """
    prod prod.dim_int softmax.int log_softmax.int cumprod cumsum sum sum.dim_IntList linalg_vector_norm
    linalg_matrix_norm linalg_matrix_norm.str_ord
    """
)
# AutocastCPU widens for these, CUDA's leaves their inputs as they are.
_CPU_ALONE = _words("avg_pool3d max_pool3d adaptive_avg_pool3d adaptive_max_pool3d cross_entropy_loss")
_SOFTMAX = {"softmax.int": _aten._softmax, "log_softmax.int": _aten._log_softmax}
_LOW = (torch.float16, torch.bfloat16)
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

# An implementation lives as long as its library.
_installed: list[torch.library.Library] = []


def install() -> None:
    """Lets CPU tensors of this process follow CUDA's rules. Safe to call twice."""
    if _installed:
        return
    library = torch.library.Library("aten", "IMPL")
    _installed.append(library)
    _install_autocast(library)
    library.impl("dropout", _dropout, "AutogradCPU")
    library.impl("scaled_dot_product_attention", _attention, "AutogradCPU")
    library.impl("lstm.input", _lstm, "AutogradCPU")
    _foreach_by_default()
    _autocast_of_cuda_is_ours()


def _install_autocast(library: torch.library.Library) -> None:
    known = set(torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU"))
    for names, rule in ((IN_FP32, _in_fp32), (_FP32_RESULT, _with_fp32_result)):
        for name in names:
            if f"aten::{name}" not in known:
                library.impl(name, rule(name), "AutocastCPU")
    with warnings.catch_warnings():
        # That a kernel takes the place of another one is what is wanted.
        warnings.simplefilter("ignore")
        for name in _CPU_ALONE:
            library.impl(name, torch.library.fallthrough_kernel, "AutocastCPU")


def _operator(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(_aten, base), overload or "default")


def _in_fp32(name: str) -> Callable[..., Any]:
    operator = _operator(name)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return operator(*map(_widened, args), **{key: _widened(one) for key, one in kwargs.items()})

    return run


def _with_fp32_result(name: str) -> Callable[..., Any]:
    operator = _operator(name)

    def run(values: Any, *args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            # A type may be given by its place too, as the third argument of the softmaxes.
            typed = kwargs.get("dtype") is not None or (name in _SOFTMAX and len(args) > 1)
            if values.dtype not in _LOW or typed:
                return operator(values, *args, **kwargs)
            if name in _SOFTMAX and values.dtype == torch.float16 and isinstance(values, FakeTensor):
                # CUDA's kernel reads fp16 and writes fp32, without a copy of its input; a CPU has no such.
                return _SOFTMAX[name](values, args[0], True)
            return operator(values, *args, **{**kwargs, "dtype": torch.float32})

    return run


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _LOW:
        return value.to(torch.float32)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_widened, value))
    return value


def _dropout(values: torch.Tensor, share: float, train: bool) -> torch.Tensor:
    """CUDA keeps a mask of bytes; a CPU a copy of the values' own type."""
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
    """CUDA's fused kernels drop out by a seed; a CPU's can't, and would keep all the attention weights."""
    operator = _aten.scaled_dot_product_attention.default
    return operator.decompose(query, key, value, mask, 0.0, causal, **settings)


def _lstm(*args: Any) -> Any:
    """A CPU's own kernel keeps what it needs to itself; step by step it shows, much as cuDNN's reserve."""
    enabled: bool = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        return _aten.lstm.input.decompose(*args)
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _foreach_by_default() -> None:
    """On CUDA, optimizers go through all parameters at once; `fused` comes for who asks for it."""
    optimizer: Any = importlib.import_module("torch.optim.optimizer")
    optimizer._foreach_supported_types.append(FakeTensor)
    optimizer._get_foreach_kernels_supported_devices = lambda: ["cuda", "cpu"]


def _autocast_of_cuda_is_ours() -> None:
    """A loop of the user's own may name the device of its autocast."""
    autocast: Any = torch.amp.autocast_mode.autocast
    own = autocast.__init__

    def init(self: Any, device_type: str, dtype: torch.dtype | None = None, **settings: Any) -> None:
        if device_type == "cuda":
            device_type, dtype = "cpu", dtype or torch.float16
        own(self, device_type, dtype, **settings)

    autocast.__init__ = init
