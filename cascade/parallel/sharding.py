"""Sharding a module's weights among ranks: block by block, and the remaining weights together."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from cascade.parallel.blocks import blocks

#: Methods of a network, besides `forward`, that need its gathered weights.
ENTRIES = ("forward_packed",)


def shard(module: nn.Module, mesh: DeviceMesh, *, half: torch.dtype | None = None) -> None:
    """Shard the weights of each trained child of `module` in place; a sharded child is skipped.

    A child's blocks are gathered one at a time, its other weights together. All are resharded after
    each pass, so that between two passes a rank has only its own shards. With `half`, blocks are
    gathered and computed in that precision, while stored weights and the reduction of gradients
    keep full precision.

    Raises:
        ValueError: `module` itself has trained weights, which no child's pass would gather.
    """
    lone = [name for name, p in module.named_parameters(recurse=False) if p.requires_grad]
    if lone:
        raise ValueError(
            f"{type(module).__name__}: only the weights of child modules can be sharded, but "
            f"{lone} are its own; move them into a child module"
        )
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=half and torch.float32, cast_forward_inputs=False
    )
    for child in module.children():
        if isinstance(child, FSDPModule) or not any(p.requires_grad for p in child.parameters()):
            continue
        for block in blocks(child):
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        fully_shard(child, mesh=mesh, reshard_after_forward=True)
        for entry in ENTRIES:
            if hasattr(child, entry):
                register_fsdp_forward_method(child, entry)


def sharded_modules(module: nn.Module) -> list[FSDPModule]:
    """The sharded modules; the weights of each are gathered together."""
    return [child for child in module.modules() if isinstance(child, FSDPModule)]
