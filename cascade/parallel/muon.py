"""Whole matrices out of divided ones, each on one rank, and back: what Muon needs under FSDP2."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from cascade.parallel.shards import rows_of

Many = Callable[[Tensor], Tensor]


def dealt(
    function: Many,
    shards: Sequence[Float[Tensor, "_rows _columns"]],
    rows: Sequence[int],
    group: dist.ProcessGroup | None,
) -> list[Float[Tensor, "_rows _columns"]]:
    """`function` of matrices whose rows are divided among the group's ranks; each rank's own rows.

    The matrices are dealt out, one rank to each, those of one shape to all ranks in turn; a rank
    gets all rows of its matrices in one exchange, computes those of one shape together, and sends
    the rows back in another. So a rank computes 1/ranks of the work, and sends about twice what it
    holds.

    Args:
        function: of matrices of one shape stacked, to as many of that shape.
        shards: this rank's rows of every matrix.
        rows: how many rows each has in all.
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
    came = _exchange([empty, *sent], here, mine, group)
    full: dict[int, Tensor] = {
        i: torch.cat([came[r][n] for r in range(ranks)]).view(rows[i], widths[i])
        for n, i in enumerate(owned[rank])
    }
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in owned[rank]:
        shapes[rows[i], widths[i]].append(i)
    for where in shapes.values():
        out = function(torch.stack([full[i] for i in where]))
        full.update(zip(where, out.unbind(), strict=True))

    back = [
        full[i][spans[i][r].start : spans[i][r].stop].reshape(-1).to(shards[i].dtype)
        for r in range(ranks)
        for i in owned[rank]
    ]
    came = _exchange([empty, *back], mine, here, group)
    done = {i: came[r][n] for r in range(ranks) for n, i in enumerate(owned[r])}
    return [done[i].view_as(shard) for i, shard in enumerate(shards)]


def _exchange(
    pieces: Sequence[Tensor],
    sent: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    group: dist.ProcessGroup | None,
) -> list[list[Tensor]]:
    """Send the pieces, which lie in the order of their ranks; what each rank sent, cut likewise."""
    data = torch.cat(list(pieces))
    out = data.new_empty(sum(map(sum, wanted)))
    dist.all_to_all_single(out, data, [*map(sum, wanted)], [*map(sum, sent)], group=group)
    parts = torch.split(out, [*map(sum, wanted)])
    return [list(torch.split(part, list(w))) for part, w in zip(parts, wanted, strict=True)]
