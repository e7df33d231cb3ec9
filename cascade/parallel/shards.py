"""Tensors that may be sharded: a rank's own shard, the full tensor, and sharding a full one.

A sharded tensor is a `DTensor` split along its first axis as by `torch.chunk`, so the last shards
may be smaller or empty. Other tensors pass unchanged.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, sharing memory with `tensor`."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """The full tensor; every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, example: Tensor) -> Tensor:
    """A full tensor that every rank has, sharded as `example` is."""
    if not isinstance(example, DTensor) or isinstance(tensor, DTensor):
        return tensor
    mesh, device = example.device_mesh, example.to_local().device
    return distribute_tensor(tensor.to(device), mesh, example.placements, src_data_rank=None)


def sharded(tensor: Tensor, mesh: DeviceMesh) -> DTensor:
    """A full tensor that every rank has, sharded over a mesh along its first axis."""
    return distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)


def rows_of(rows: int, ranks: int) -> list[range]:
    """The rows of a sharded tensor that each rank has."""
    each = -(-rows // ranks)
    return [range(min(rows, r * each), min(rows, (r + 1) * each)) for r in range(ranks)]


def check_sharded(tensors: Sequence[Tensor]) -> DeviceMesh | None:
    """The mesh over which all `tensors` are sharded along their first axis; None if none is.

    Raises:
        ValueError: only some are sharded, or they are sharded in another way.
    """
    ways = {(t.device_mesh, t.placements) if isinstance(t, DTensor) else None for t in tensors}
    if ways <= {None}:
        return None
    if len(ways) == 1:
        [way] = ways
        assert way is not None
        mesh, placements = way
        if placements == (Shard(0),):
            return mesh
    raise ValueError(
        f"all weights must be sharded over the same ranks along their first axis, got {ways}"
    )
