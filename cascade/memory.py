"""The memory of a training step, counted without allocating it.

The stage's own code runs on the meta device (no values in memory): forward and backward pass,
optimizer and averages. Every storage is counted from its allocation to its release: activations
saved for the backward pass or recomputed by activation checkpointing, gradients, temporaries. The
highest sum is the step's peak.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cascade.ema import PowerEMA
from cascade.recall import recall

Observe = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]
Phase = Literal["forward", "backward", "optimizer", "averages"]
#: The block size in bytes to which the allocators of CUDA and the CPU round a tensor up.
BLOCK = {"cuda": 512, "cpu": 64}


class Meter(TorchDispatchMode):
    """Counts the bytes of storages on the meta device by kind, and keeps the highest sum.

    Storages allocated inside `holding(kind)` are of that kind. `observe`, if it is set, is called
    with every operation, its arguments, its named arguments and its result.
    """

    def __init__(self, *, block: int) -> None:
        TorchDispatchMode.__init__(self)
        self.block = block
        self.observe: Observe | None = None
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.peak_at = ""
        self._total = self._highest = 0
        self._kind = "other"
        self._held: dict[int, tuple[str, int, weakref.ref[Any]]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = recall(func, args, kwargs or {})
        for value in (out,) if isinstance(out, Tensor) else tree_iter(out):
            if isinstance(value, Tensor):
                self.add(value)
        if self.observe is not None:
            self.observe(func, args, kwargs or {}, out)
        return out

    @contextmanager
    def holding(self, kind: str) -> Iterator[None]:
        """Inside, allocated storages are of this kind."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def add(self, tensor: Tensor, kind: str | None = None) -> None:
        """Count a tensor's storage, if it is new; with `kind`, set or change its kind."""
        if not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            if kind is not None:
                old, size, end = self._held[key]
                self.live[old] -= size
                self.live[kind] += size
                self._held[key] = kind, size, end
            return
        size = -(-storage.nbytes() // self.block) * self.block
        kind = kind or self._kind
        self._held[key] = kind, size, weakref.ref(storage, lambda _: self._end(key))
        self.live[kind] += size
        self._total += size
        if self._total > self._highest:
            self._highest, self.peak, self.peak_at = self._total, self.live.copy(), self._kind

    def _end(self, key: int) -> None:
        kind, size, _ = self._held.pop(key)
        self.live[kind] -= size
        self._total -= size


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of one rank's training step; `parts` are the bytes by kind at the peak.

    `saved` are the bytes that the forward pass keeps for the backward pass: activations, and
    autocast's half-precision weights.
    """

    parts: dict[str, int]
    peak_at: str
    saved: int

    @property
    def peak(self) -> int:
        """The peak in bytes."""
        return sum(self.parts.values())


def optimizer_state(
    build: Callable[[nn.Module], torch.optim.Optimizer], module: nn.Module
) -> dict[str, dict[str, Tensor]]:
    """The state that an optimizer keeps per parameter, on the meta device, by parameter name.

    The optimizer makes one step on a module with the same names whose parameters have one element
    each; state of a parameter's shape is then expanded to the full shape.
    """
    small = _Shadow(module)
    optimizer = build(small)
    for parameter in small.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    names = {id(p): name for name, p in small.named_parameters()}
    full = dict(module.named_parameters())
    return {
        names[id(p)]: {
            key: torch.empty(full[names[id(p)]].shape, dtype=value.dtype, device="meta")
            if value.shape == p.shape and value.ndim
            else torch.empty(value.shape, dtype=value.dtype, device="meta")
            for key, value in state.items()
            if isinstance(value, Tensor)
        }
        for p, state in optimizer.state.items()
    }


class _Shadow(nn.Module):
    """A module's trained parameters by name, one element each, on the CPU."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._small = {
            name: nn.Parameter(torch.zeros((1,) * max(p.ndim, 1), dtype=p.dtype))
            for name, p in module.named_parameters()
            if p.requires_grad
        }

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self._small.items()

    def parameters(self, *_: Any, **__: Any) -> Iterator[nn.Parameter]:
        yield from self._small.values()


def step_memory(
    module: nn.Module,
    loss: Callable[[], Tensor],
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    sigma_rels: Sequence[float] = (),
    frozen_bytes: int = 0,
    buckets: bool = False,
    accumulating: bool = False,
    cuda: bool = False,
    observe: Observe | None = None,
    on_phase: Callable[[Phase], None] = lambda _: None,
) -> StepMemory:
    """The memory of a training step of `module`, on the meta device; not the run's first step.

    As in Lightning, the gradients of the previous step are released after the forward pass.

    Args:
        module: the module with the trained parameters.
        loss: makes a batch and runs the forward pass.
        optimizer: makes the optimizer of a module.
        sigma_rels: widths of the averages of the weights.
        frozen_bytes: bytes of weights that are not trained and not in the module.
        buckets: whether gradients are copied into buckets for the reduction over ranks (DDP).
        accumulating: whether a step accumulates gradients over several micro batches.
        cuda: whether sizes are rounded as by CUDA's allocator.
        observe: called with every operation from the forward pass on.
        on_phase: called at the start of every phase of the step.
    """
    meter = Meter(block=BLOCK["cuda" if cuda else "cpu"])
    trained = [p for p in module.parameters() if p.requires_grad]
    made = optimizer(module)
    with meter:
        for tensor in (*module.parameters(), *module.buffers()):
            meter.add(tensor, "weights")
        with meter.holding("frozen"):
            frozen = torch.empty(frozen_bytes, dtype=torch.uint8, device="meta")
        with meter.holding("optimizer"):
            state = optimizer_state(optimizer, module)
        named = dict(module.named_parameters())
        for name, values in state.items():
            made.state[named[name]].update(values)
        with meter.holding("averages"):
            ema = PowerEMA(module, sigma_rels=sigma_rels)
        with meter.holding("buckets"):
            copies = [torch.empty_like(p) for p in trained] if buckets else []
        with meter.holding("gradients"):
            for p in trained:
                p.grad = torch.empty_like(p)

        def gradient(p: Tensor) -> None:
            assert p.grad is not None
            meter.add(p.grad, "gradients")

        hooks = [p.register_post_accumulate_grad_hook(gradient) for p in trained]
        before = sum(meter.live.values())
        meter.observe = observe
        on_phase("forward")
        with meter.holding("activations"):
            value = loss()
        saved = sum(meter.live.values()) - before
        on_phase("backward")
        if not accumulating:
            module.zero_grad()
        with meter.holding("temporaries"):
            torch.autograd.backward(value)
            del value
            on_phase("optimizer")
            made.step()
            on_phase("averages")
            ema.update(module, 2)
        for hook in hooks:
            hook.remove()
        module.zero_grad()
    del frozen, copies
    parts = {kind: size for kind, size in meter.peak.items() if size}
    return StepMemory(parts=parts, peak_at=meter.peak_at, saved=saved)
