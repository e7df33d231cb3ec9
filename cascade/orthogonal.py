"""The nearest semi-orthogonal matrices, by Muon's Newton-Schulz steps; alone or shared by ranks."""

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

#: The quintic a·x + b·x³ + c·x⁵ of Muon's steps (Jordan et al. 2024), and their number.
A, B, C = 3.4445, -4.7750, 2.0315
STEPS = 5
#: Columns per row from which the steps are made on the Gram matrix, where they cost less.
WIDE = 2
#: In bfloat16 the Gram matrix is computed anew after so many steps: rounding makes its small
#: eigenvalues negative, and later steps would enlarge them.
RESTART = 3


def orthogonalize(x: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """The nearest semi-orthogonal matrices, singular values within about [0.7, 1.2].

    Five Newton-Schulz steps, many matrices at once. For wide and tall matrices they are made on
    X Xᵀ, which is smaller than X, and the product of their polynomials is applied to X (Gram
    Newton-Schulz, Zhang et al. 2026).
    """
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    x = x.bfloat16() if x.is_cuda else x
    x = _by_gram(x) if x.shape[2] >= WIDE * x.shape[1] else _by_steps(x)
    return x.mT if tall else x


def _by_steps(x: Tensor) -> Tensor:
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


def _by_gram(x: Tensor) -> Tensor:
    first = RESTART if x.dtype == torch.bfloat16 else STEPS
    for steps in filter(None, (first, STEPS - first)):
        x = _polynomial(x @ x.mT, steps) @ x
    return x


def _polynomial(gram: Tensor, steps: int) -> Tensor:
    """The matrix Q for which Q·X is the result of `steps` steps from X, where G = X Xᵀ.

    A step is X ← P·X with P = a + b·G + c·G², thus G ← P·G·P and Q ← P·Q.
    """
    product: Tensor | None = None
    for left in reversed(range(steps)):
        p = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        p.diagonal(dim1=-2, dim2=-1).add_(A)
        product = p if product is None else p @ product
        gram = p @ gram @ p if left else gram
    assert product is not None
    return product


def orthogonalize_shared(x: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """`orthogonalize` with the matrices divided among processes that all have the same ones."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return orthogonalize(x)
    world, rank = dist.get_world_size(), dist.get_rank()
    each = -(-len(x) // world)
    mine = x.new_zeros(each, *x.shape[1:])
    own = x[rank * each : (rank + 1) * each]
    if len(own):
        mine[: len(own)] = orthogonalize(own)
    parts = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(parts, mine)
    return torch.cat(parts)[: len(x)]


def orthogonalize_all(
    matrices: list[Float[Tensor, "_rows _columns"]],
) -> list[Float[Tensor, "_rows _columns"]]:
    """`orthogonalize_shared` of each matrix, matrices of one shape together."""
    shapes: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, one in enumerate(matrices):
        shapes[*one.shape, one.device, one.dtype].append(i)
    done = {
        i: update
        for indices in shapes.values()
        for i, update in zip(
            indices, orthogonalize_shared(torch.stack([matrices[i] for i in indices])), strict=True
        )
    }
    return [done[i] for i in range(len(matrices))]
