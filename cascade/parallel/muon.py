"""Muon under FSDP2: gathers each sharded matrix on one rank and sends the result back."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from cascade.parallel.shards import rows_of

Many = Callable[[Tensor], Tensor]


def map_full_matrices(
    function: Many,
    shards: Sequence[Float[Tensor, "_rows _columns"]],
    rows: Sequence[int],
    group: dist.ProcessGroup | None,
) -> list[Float[Tensor, "_rows _columns"]]:
    """Apply `function` to full matrices whose rows are sharded; returns this rank's rows.

    Each matrix is assigned to one rank, matrices of one shape to the ranks in turn. A rank receives
    all rows of its matrices in one exchange, computes those of one shape together, and returns the
    rows in a second exchange. A rank does 1/ranks of the work and sends about twice its own data.

    Args:
        function: maps a stack of matrices of one shape to a stack of the same shape.
        shards: this rank's rows of every matrix.
        rows: the total number of rows of every matrix.
        group: the ranks.
    """
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    widths = [shard.shape[1] for shard in shards]
    order = sorted(range(len(shards)), key=lambda i: (rows[i], widths[i], i))
    owned = [order[r::ranks] for r in range(ranks)]
    spans = {i: rows_of(rows[i], ranks) for i in order}
    here = [[len(spans[i][rank]) * widths[i] for i in owned[r]] for r in range(ranks)]
    mine = [[len(spans[i][r]) * widths[i] for i in owned[rank]] for r in range(ranks)]

    sent = [shards[i].reshape(-1) for r in range(ranks) for i in owned[r]]
    empty = shards[0].new_empty(0)  # a rank may have nothing to send
    received = _exchange([empty, *sent], here, mine, group)
    full: dict[int, Tensor] = {
        i: torch.cat([received[r][n] for r in range(ranks)]).view(rows[i], widths[i])
        for n, i in enumerate(owned[rank])
    }
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in owned[rank]:
        shapes[rows[i], widths[i]].append(i)
    for indices in shapes.values():
        out = function(torch.stack([full[i] for i in indices]))
        full.update(zip(indices, out.unbind(), strict=True))

    back = [
        full[i][spans[i][r].start : spans[i][r].stop].reshape(-1).to(shards[i].dtype)
        for r in range(ranks)
        for i in owned[rank]
    ]
    received = _exchange([empty, *back], mine, here, group)
    done = {i: received[r][n] for r in range(ranks) for n, i in enumerate(owned[r])}
    return [done[i].view_as(shard) for i, shard in enumerate(shards)]


def _exchange(
    pieces: Sequence[Tensor],
    sent: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    group: dist.ProcessGroup | None,
) -> list[list[Tensor]]:
    """Send the pieces, ordered by target rank; returns the pieces received from each rank."""
    data = torch.cat(list(pieces))
    out = data.new_empty(sum(map(sum, wanted)))
    dist.all_to_all_single(out, data, [*map(sum, wanted)], [*map(sum, sent)], group=group)
    parts = torch.split(out, [*map(sum, wanted)])
    return [list(torch.split(part, list(w))) for part, w in zip(parts, wanted, strict=True)]
