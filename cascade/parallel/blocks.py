"""The repeated blocks of a network, which are sharded, gathered and compiled one at a time.

A block is a module in a list named `blocks`, `down_blocks` or `up_blocks`, or in lists inside it.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

NAMED = re.compile(r"(^|[._])blocks$")
MAX_GRAPHS = 64
"""Graphs that one block may have: one for each combination of shape, text length and options."""


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks in `module`, in order."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and NAMED.search(name):
            yield from _flat(child)
        else:
            yield from blocks(child)


def _flat(modules: nn.ModuleList) -> Iterator[nn.Module]:
    for child in modules:
        if isinstance(child, nn.ModuleList):
            yield from _flat(child)
        else:
            yield child


def compile_blocks(
    module: nn.Module, *, everywhere: bool = False, backend: str = "inductor"
) -> None:
    """Compile each block's `forward` with torch where it is trained: on a GPU, or `everywhere`.

    Only `forward` is compiled, in place: parameter names do not change, and a block's hooks, such
    as those that gather its weights, run outside the compiled code. Equal blocks share the compiled
    code. A module on the meta device is only counted, so it is not compiled.
    """
    if any(p.is_meta for p in module.parameters()):
        return
    # The rotary positions are complex, but the compiled code only takes a view of them.
    warnings.filterwarnings("ignore", message="Torchinductor does not support .* complex operators")
    for block in blocks(module):
        block.forward = _Compiled(block.forward, everywhere=everywhere, backend=backend)


class _Compiled:
    """A block's `forward`, compiled at its first call that trains.

    Other calls run without compilation: those without gradients, whose few clips would make further
    graphs, and packed sequences, whose lengths would be constants of their graphs.
    """

    def __init__(self, forward: Callable[..., Tensor], *, everywhere: bool, backend: str) -> None:
        self.forward, self.everywhere, self.backend = forward, everywhere, backend
        self._graphs: Callable[..., Tensor] | None = None

    def __call__(self, x: Tensor, *others: Any) -> Tensor:
        """The block's output.

        Raises:
            RuntimeError: the block would need more than `MAX_GRAPHS` graphs.
        """
        packed = any(isinstance(one, tuple) for one in others)
        if packed or not torch.is_grad_enabled() or not (self.everywhere or x.is_cuda):
            return self.forward(x, *others)
        if self._graphs is None:
            torch._dynamo.config.recompile_limit = MAX_GRAPHS
            self._graphs = torch.compile(self.forward, backend=self.backend, fullgraph=True)
        try:
            return self._graphs(x, *others)
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise RuntimeError(
                f"compiled blocks: a block needs more than {MAX_GRAPHS} graphs; the last input has "
                f"the shape {tuple(x.shape)}. Train with fewer shapes (data.batching=fixed), or "
                "without compilation (stage.train.compile=false)"
            ) from error
