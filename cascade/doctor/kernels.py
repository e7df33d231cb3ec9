"""The tensors that a device's kernels save for the backward pass, reproduced on `meta`.

`meta` has neither autocast nor fused kernels, so this module imitates both: autocast's rules for
CUDA (`ATen/autocast_mode.h`), attention that saves its output and one number per query but no
scores (flash, memory-efficient and cuDNN kernels, and torch's own on the CPU), and RMSNorm that
saves its input and one number per row.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: The function of `tensor.is_cuda`; each access makes another object, equal to the last.
IS_CUDA = cast(Any, Tensor.is_cuda).__get__
#: Names of functions whose inputs autocast casts to half precision,
HALF = frozenset(
    (
        *("linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "vecdot"),
        *("conv1d", "conv2d", "conv3d"),
    )
)
#: to float32,
SINGLE = frozenset(
    (
        *("layer_norm", "rms_norm", "group_norm", "softmax", "mse_loss", "interpolate"),
        *("exp", "log", "reciprocal", "rsqrt", "pow", "__pow__", "sum", "cumsum", "vector_norm"),
    )
)
#: or to the widest dtype among them.
WIDEST = frozenset(("addcmul", "addcdiv", "index_put"))
#: All functions that are imitated.
IMITATED = HALF | SINGLE | WIDEST | {"scaled_dot_product_attention", "backward"}


class _RmsNorm(torch.autograd.Function):
    """Fused RMSNorm without a gain."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        return torch.empty_like(ctx.saved_tensors[0])


class Kernels(TorchFunctionMode):
    """A context in which tensors on `meta` behave as on the CPU or, with `cuda`, as on CUDA.

    `half` is autocast's dtype on CUDA; None without autocast.
    """

    def __init__(self, *, cuda: bool, half: torch.dtype | None) -> None:
        super().__init__()
        self.cuda, self.half = cuda, half
        self._weights: dict[int, Tensor] = {}

    def forget(self) -> None:
        """Drop the cached half-precision weights, as autocast does when its context ends."""
        self._weights.clear()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" and func == IS_CUDA:
            return self.cuda and args[0].is_meta
        if name not in IMITATED:
            return func(*args, **kwargs)
        if func is torch.autograd.backward:
            with self:  # torch leaves the mode here, but checkpointing runs forward passes inside
                (value,) = args[0] if isinstance(args[0], tuple) else args
                start = torch.ones_like(value)
                return _engine_run_backward((value,), (start,), False, False, (), True, True)
        on_meta = any(isinstance(a, Tensor) and a.is_meta for a in args)
        if not on_meta:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            q, k, v = (self._to_half(a) for a in args[:3])
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
        args = self._cast(name, args)
        if name == "rms_norm" and self.cuda and kwargs.get("weight") is None:
            return cast(Any, _RmsNorm).apply(args[0])
        return func(*args, **kwargs)

    def _cast(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.half is None:
            return args
        if name in HALF:
            return tuple(self._to_half(a) for a in args)
        if name in SINGLE:
            return tuple(_to_single(a) for a in args)
        if name in WIDEST and any(_floats(a, torch.float32) for a in args):
            return tuple(_to_single(a) for a in args)
        return args

    def _to_half(self, value: Any) -> Any:
        if self.half is None or not _floats(value, torch.float32):
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self.half)
        if id(value) not in self._weights:  # autocast casts a weight once in a context
            self._weights[id(value)] = value.to(self.half)
        return self._weights[id(value)]


def _floats(value: Any, *dtypes: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.dtype in dtypes


def _to_single(value: Any) -> Any:
    return value.float() if _floats(value, torch.bfloat16, torch.float16) else value
