"""How a module's weights are divided among ranks: block by block, and what is left as one."""

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

#: What a network is called by besides `forward`; its weights must be gathered for these too.
ENTRIES = ("forward_packed",)


def shard(module: nn.Module, mesh: DeviceMesh, *, half: torch.dtype | None = None) -> None:
    """Divide the weights of each trained child of `module`, in place; once.

    A child's blocks are gathered one at a time, its other weights together. All are given back
    after each pass, so that whoever looks between two passes finds the rank's own part. In `half`
    precision the blocks are gathered and computed in, while what a rank keeps, and the sum of the
    gradients, stay as they are.

    Raises:
        ValueError: a trained weight stands in `module` itself, where no child's pass gathers it.
    """
    lone = [name for name, p in module.named_parameters(recurse=False) if p.requires_grad]
    if lone:
        raise ValueError(
            f"{type(module).__name__}: its own weights {lone} cannot be divided among ranks; "
            "put them into a module below it"
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
    """The modules whose weights are gathered together."""
    return [child for child in module.modules() if isinstance(child, FSDPModule)]
