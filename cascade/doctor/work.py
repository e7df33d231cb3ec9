"""The work that a training step asks of a GPU, counted on `meta`: products, bytes and kernels.

Operations are matrix products, convolutions and attention, or else elementwise (with normalisation
and reductions), whose time is that of their bytes. Bytes are counted twice: eager, where each
operation is a kernel that reads its inputs and writes its outputs; and fused, with compiled blocks.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cascade.doctor.fusion import Fusion, Moved
from cascade.flops import FORMULAS
from cascade.memory import Phase
from cascade.parallel.blocks import blocks

Kind = Literal["linear", "convolution", "attention", "attention_backward"]


class Product(NamedTuple):
    """A matrix product, convolution or attention; `head` is the width of an attention head."""

    kind: Kind
    flops: int
    bytes: int
    head: int = 0


@dataclass
class Part:
    """The work of one phase of a step; `products` with their counts."""

    products: Counter[Product] = field(default_factory=Counter)
    eager: Moved = field(default_factory=Moved)
    fused: Moved = field(default_factory=Moved)


class Work:
    """Observes the operations of a step of `module` on `meta`, and counts them by phase.

    In the forward pass the blocks' operations are fused, in the backward pass all are.
    """

    def __init__(self) -> None:
        self._parts: defaultdict[Phase, Part] = defaultdict(Part)
        self._phase: Phase = "forward"
        self._within = False  # a compiled block
        self._fusion = Fusion()

    @property
    def parts(self) -> Mapping[Phase, Part]:
        """The work by phase."""
        for phase, part in self._parts.items():
            part.fused = self._fusion.moved[phase]
        return self._parts

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        self._phase = phase
        self._fusion.cut(phase)

    @contextmanager
    def observing(self, module: nn.Module) -> Iterator[None]:
        """Inside, the blocks of `module` are known."""

        def within(inside: bool) -> Callable[..., None]:
            def mark(*_: Any) -> None:
                self._within = inside
                self._fusion.cut(self._phase)

            return mark

        handles = [
            handle
            for block in blocks(module)
            for handle in (
                block.register_forward_pre_hook(within(True)),
                block.register_forward_hook(within(False)),
            )
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """Count one operation."""
        if _is_view(func):
            return
        inputs, outputs = _tensors((*args, *kwargs.values())), _tensors((out,))
        if not any(t.is_meta for t in (*inputs, *outputs)):
            return
        if not outputs:  # in place, on lists of tensors
            outputs = _tensors([args[i] for i in _written(func)])
        read = [(t.untyped_storage()._cdata, t.nbytes) for t in inputs]
        written = [(t.untyped_storage()._cdata, t.nbytes) for t in outputs]
        if func.overloadpacket.__name__.startswith(("empty", "new_empty")):
            self._fusion.alone([], written)
            return
        part = self._parts[self._phase]
        size = sum([size for _, size in (*read, *written)])
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            flops = int(formula(*args, **kwargs, out_val=out))
            kind, head = _kind(func, args)
            part.products[Product(kind, flops, size, head)] += 1
            self._fusion.alone(read, written)
            self._fusion.cut(self._phase)
            return
        part.eager.kernels += 1
        part.eager.bytes += size
        if self._phase == "backward" or (self._phase == "forward" and self._within):
            self._fusion.add(read, written, reduces=func.overloadpacket is torch.ops.aten.sum)
        else:
            moved = self._fusion.moved[self._phase]
            moved.kernels += 1
            moved.bytes += size
            self._fusion.alone(read, written)


def _kind(func: Any, args: Sequence[Any]) -> tuple[Kind, int]:
    """The kind of a product, and the width of its attention heads."""
    name = func.overloadpacket.__name__
    if "attention" in name:
        return ("attention_backward" if "backward" in name else "attention"), args[1].shape[-1]
    return ("convolution" if "conv" in name else "linear"), 0


@cache
def _is_view(func: Any) -> bool:
    """Whether an operation makes a view, or reads a number."""
    views = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
    reads = func.overloadpacket.__name__ in ("detach", "alias", "_local_scalar_dense")
    return reads or (bool(views) and not any(v.is_write for v in views))


@cache
def _written(func: Any) -> tuple[int, ...]:
    """The positions of the arguments that an operation writes."""
    arguments = enumerate(func._schema.arguments)
    return tuple(i for i, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    """The tensors among some values and in lists of them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [one for one in value if isinstance(one, Tensor)]
    return found
