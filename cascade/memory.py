"""The memory of a training step, counted without having it.

The stage's own code runs on `meta`, forward, backward, optimizer and averages, and every storage
is watched from its birth to its end: what is saved for the backward pass, what activation
checkpointing saves and computes again, gradients, temporaries. The highest sum is the step's peak.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cascade.ema import PowerEMA

#: What CUDA's caching allocator rounds a tensor up to, in bytes, and what the CPU's does.
BLOCK = {"cuda": 512, "cpu": 64}


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts the bytes of storages on `meta` by what they hold, and keeps the highest sum.

    Whatever is made inside `holding(kind)` is of that kind.
    """

    def __init__(self, *, block: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.block = block
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.peak_at = ""
        self._highest = 0
        self._kind = "other"
        self._held: dict[int, tuple[str, int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out

    @contextmanager
    def holding(self, kind: str) -> Iterator[None]:
        """What is made inside is of this kind."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def add(self, tensor: Tensor, kind: str | None = None) -> None:
        """Count a tensor's storage, once; or, with a kind, say what it holds."""
        if not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            if kind is not None:
                old, size = self._held[key]
                self.live[old] -= size
                self.live[kind] += size
                self._held[key] = kind, size
            return
        size = -(-storage.nbytes() // self.block) * self.block
        kind = kind or self._kind
        self._held[key] = kind, size
        self.live[kind] += size
        weakref.finalize(storage, self._end, key).atexit = False
        total = sum(self.live.values())
        if total > self._highest:
            self._highest, self.peak, self.peak_at = total, self.live.copy(), self._kind

    def _end(self, key: int) -> None:
        kind, size = self._held.pop(key)
        self.live[kind] -= size


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of one rank's training step; `parts` is what lives at the peak, and sums up to it.

    `saved` is what the forward pass leaves for the backward pass: activations, and autocast's
    half-precision weights.
    """

    parts: dict[str, int]
    peak_at: str
    saved: int

    @property
    def peak(self) -> int:
        """The highest sum of a step."""
        return sum(self.parts.values())


def optimizer_state(
    build: Callable[[nn.Module], torch.optim.Optimizer], module: nn.Module
) -> dict[str, dict[str, Tensor]]:
    """The state that an optimizer keeps per parameter, on `meta`, by the parameter's name.

    Asked of the optimizer itself: it takes a step on a module of the same names whose parameters
    have one element each; state of a parameter's shape then grows with it.
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

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: ARG002
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
    on_forward_end: Callable[[], None] = lambda: None,
) -> StepMemory:
    """The memory of a step of `module`, which lies on `meta`, at any but the first step.

    As Lightning does it: the gradients of the step before live until the forward pass is done.

    Args:
        module: with its trained parameters.
        loss: the forward pass, its batch made inside.
        optimizer: makes the optimizer of a module.
        sigma_rels: widths of the averages kept of the weights.
        frozen_bytes: weights beside the module that are not trained.
        buckets: whether gradients are copied into buckets to be summed over ranks (DDP).
        accumulating: whether a step has several micro batches, whose gradients are summed.
        cuda: whether sizes are rounded as CUDA's allocator does.
        on_forward_end: called between the passes.
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

        hooks = [
            p.register_post_accumulate_grad_hook(gradient)  # type: ignore[no-untyped-call]  # torch's
            for p in trained
        ]
        before = sum(meter.live.values())
        with meter.holding("activations"):
            value = loss()
        saved = sum(meter.live.values()) - before
        on_forward_end()
        if not accumulating:
            module.zero_grad()
        with meter.holding("temporaries"):
            torch.autograd.backward(value)
            del value
            made.step()
            ema.update(module, 2)
        for hook in hooks:
            hook.remove()
        module.zero_grad()
    del frozen, copies
    parts = {kind: size for kind, size in meter.peak.items() if size}
    return StepMemory(parts=parts, peak_at=meter.peak_at, saved=saved)
