"""The repeated blocks of a network: what is sharded, gathered and compiled one at a time.

A block is a module of a list called `blocks`, `down_blocks` or `up_blocks`, at any depth of lists.
"""

import re
import warnings
from collections.abc import Iterator

import torch
from torch import nn

NAMED = re.compile(r"(^|[._])blocks$")


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks under `module`, in the order that they stand in."""
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
    """Have torch compile each block's `forward`, at its first call.

    The `forward` alone, in place: names of parameters stay, and what is hooked to a block, such as
    the gathering of its weights, runs around the compiled code. Blocks of one kind share it. What
    lies on `meta` is only counted, never compiled.
    """
    if any(p.is_meta for p in module.parameters()):
        return
    # Of the complex rotary positions only a view is left in compiled code.
    warnings.filterwarnings("ignore", message="Torchinductor does not support .* complex operators")
    for block in blocks(module):
        block.forward = torch.compile(block.forward, backend=backend)
