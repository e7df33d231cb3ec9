"""The cost of a network: its parameters, the FLOPs of a call, and the peak speed of a device."""

import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from cascade.recall import recall

# Dense peaks of matrix products in bfloat16 with float32 accumulation, in FLOP/s, by words of the
# device's name (NVIDIA data sheets; half of the values "with sparsity"). First match counts.
BF16_PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "A10": 125e12,
    "L4": 121e12,
}
# Memory bandwidth in bytes/s, by the same rule (NVIDIA data sheets).
BANDWIDTHS = {
    "B200": 8.0e12,
    "GH200": 4.0e12,
    "H200": 4.8e12,
    "H100 PCIe": 2.0e12,
    "H100": 3.35e12,
    "A100-SXM4-40GB": 1.555e12,
    "A100": 2.0e12,
    "L40S": 0.864e12,
    "RTX 4090": 1.008e12,
    "RTX 3090": 0.936e12,
    "A10": 0.6e12,
    "L4": 0.3e12,
}


def _attention_flops(q: tuple[int, ...], k: tuple[int, ...], products: int) -> int:
    batch, heads, queries, width = q
    return products * 2 * batch * heads * queries * k[2] * width


def _cpu_attention(q: tuple[int, ...], k: tuple[int, ...], *_: Any, **__: Any) -> int:
    return _attention_flops(q, k, 2)


def _cpu_attention_backward(
    _grad: tuple[int, ...], q: tuple[int, ...], k: tuple[int, ...], *_: Any, **__: Any
) -> int:
    return _attention_flops(q, k, 5)  # as torch counts on CUDA: the scores are recomputed


def _formulas() -> Mapping[Any, Callable[..., int]]:
    # torch counts attention on CUDA and on the meta device, but not the CPU's kernel.
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    mapping = {kernel: _cpu_attention, backward: _cpu_attention_backward}
    return FlopCounterMode(display=False, custom_mapping=mapping).flop_registry


#: FLOPs of an operation, by its name in torch: called with its arguments and `out_val`.
FORMULAS = _formulas()


class _Counter(TorchDispatchMode):
    """Counts the FLOPs of operations; `again`: of those that checkpointing computes again.

    Faster than torch's `FlopCounterMode`, which also follows modules, and equal.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.flops: int = 0
        self.again: int = 0
        self.backward = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        formula = FORMULAS.get(func.overloadpacket)
        if formula is None and _composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        out = recall(func, args, kwargs)
        if formula is not None:
            flops = int(formula(*args, **kwargs, out_val=out))
            self.flops += flops
            if self.backward and torch.is_grad_enabled():
                self.again += flops
        return out


@cache
def _composite(func: Any) -> bool:
    """Whether torch makes an operation of others; they are counted."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return bool(func.has_kernel_for_dispatch_key(key))


def forward_flops(call: Callable[[], object]) -> int:
    """FLOPs of matrix products, convolutions and attention in a call, without gradients.

    Modules and inputs may be on the meta device, where nothing is computed or stored.
    """
    counter = _Counter()
    with counter, torch.no_grad():
        call()
    return counter.flops


def training_flops(loss: Callable[[], Tensor]) -> int:
    """FLOPs of a call that returns a loss and of its backward pass, which leaves gradients."""
    return training_and_recomputed_flops(loss)[0]


def training_and_recomputed_flops(loss: Callable[[], Tensor]) -> tuple[int, int]:
    """`training_flops`, and those of them that activation checkpointing computes again."""
    counter = _Counter()
    with counter:
        value = loss()
        counter.backward = True
        torch.autograd.backward(value)
    return counter.flops, counter.again


def parameter_count(module: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def device_peak(device: torch.device | str, dtype: torch.dtype) -> float | None:
    """The data sheet's dense matrix peak in FLOP/s; None if the device is not in the table."""
    device = torch.device(device)
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    return named(BF16_PEAKS, torch.cuda.get_device_name(device))


def named(table: Mapping[str, float], device: str) -> float | None:
    """The first value of a table whose key has the words of a device's name; None if none has.

    An L40 is not an L4, nor an A100 an A10.
    """
    return next((value for words, value in table.items() if has_words(device, words)), None)


def has_words(device: str, words: str) -> bool:
    """Whether a device's name contains these words, whole."""
    return re.search(rf"\b{re.escape(words)}\b", device) is not None


def measured_matmul_peak(
    device: torch.device | str, dtype: torch.dtype, *, size: int | None = None, rounds: int = 5
) -> float:
    """The measured peak in FLOP/s: the fastest of `rounds` square matrix products."""
    device = torch.device(device)
    cuda = device.type == "cuda"
    size = size or (8192 if cuda else 1536)
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind()
    best = float("inf")
    for _ in range(rounds + 1):
        if cuda:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        if cuda:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
