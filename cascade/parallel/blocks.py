"""The repeated blocks of a network, which are sharded, gathered and compiled one at a time.

A block is a module in a list named `blocks`, `down_blocks` or `up_blocks`, or in lists inside it.
"""

import re
import warnings
from collections.abc import Iterator

import torch
from torch import nn

NAMED = re.compile(r"(^|[._])blocks$")


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


def compile_blocks(module: nn.Module, *, backend: str = "inductor") -> None:
    """Have torch compile each block's `forward` at its first call.

    Only `forward` is compiled, in place: parameter names do not change, and a block's hooks, such
    as those that gather its weights, run outside the compiled code. Equal blocks share the compiled
    code. A module on the meta device is only counted, so it is not compiled.
    """
    if any(p.is_meta for p in module.parameters()):
        return
    # The rotary positions are complex, but the compiled code only takes a view of them.
    warnings.filterwarnings("ignore", message="Torchinductor does not support .* complex operators")
    for block in blocks(module):
        block.forward = torch.compile(block.forward, backend=backend)
