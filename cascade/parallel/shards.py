"""Tensors that may be divided among ranks: one's own part, the whole, and the way back.

A divided tensor is torch's `DTensor`, cut along its first axis: the ranks' parts are as
`torch.chunk` makes them, so the last may be smaller or empty. All else passes unchanged.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory with `tensor`."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, gathered; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, example: Tensor) -> Tensor:
    """A tensor that every rank has whole, divided as `example` is."""
    if not isinstance(example, DTensor) or isinstance(tensor, DTensor):
        return tensor
    mesh, device = example.device_mesh, example.to_local().device
    return distribute_tensor(tensor.to(device), mesh, example.placements, src_data_rank=None)


def divided(tensor: Tensor, mesh: DeviceMesh) -> DTensor:
    """A tensor that every rank has whole, divided among a mesh's ranks by its first axis."""
    return distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)


def rows_of(rows: int, ranks: int) -> list[range]:
    """Which rows of a divided tensor each rank has."""
    each = -(-rows // ranks)
    return [range(min(rows, r * each), min(rows, (r + 1) * each)) for r in range(ranks)]


def check_divided(tensors: Sequence[Tensor]) -> DeviceMesh | None:
    """The mesh that all of `tensors` are divided among by their first axis; None: none is.

    Raises:
        ValueError: some are, some are not, or they are divided in another way.
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
    raise ValueError(f"all must be divided among the same ranks by their first axis, got {ways}")
