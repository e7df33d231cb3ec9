"""Rows of what an optimizer step of a large network takes, by its parts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from cascade.ema import PowerEMA
from cascade.meta import on_meta
from cascade.optim import adamw, muon_adamw, orthogonalize
from cascade.shrink import resolved
from tests.gpu.rows import Figures, NotHereError, Row
from tests.gpu.timing import DEVICE, HALF, seconds
from tests.gpu.training import composed


def optimizers(small: bool) -> list[Row]:
    """What an optimizer step of L takes, by its parts."""
    shapes = [(2, 64, 192)] if small else [(8, 2048, 2048), (8, 2048, 8192)]
    rows = [
        Row(f"{name}, {'×'.join(map(str, shape))}", partial(orthogonal, name, shape))
        for shape in shapes
        for name in ("Newton–Schulz", "compiled", "Gram")
    ]
    works = ("Muon and AdamW", "AdamW", "averages", "norm and clip")
    return rows + [Row(f"L: {work}", partial(update, work, small)) for work in works]


def orthogonal(name: str, shape: tuple[int, int, int]) -> Figures:
    """The time of orthogonalising matrices, and the difference from the present way."""
    if name == "compiled" and DEVICE == "cpu":
        raise NotHereError("compiled for a GPU alone")
    ways = {
        "Newton–Schulz": lambda: orthogonalize,
        "compiled": lambda: torch.compile(orthogonalize),
        "Gram": lambda: gram_newton_schulz,
    }
    work, x = ways[name](), torch.randn(*shape, device=DEVICE)
    with torch.no_grad():
        spent = seconds(lambda: work(x))
        one, other = work(x).float(), orthogonalize(x).float()
    return {"ms": 1e3 * spent, "difference": float((one - other).norm() / other.norm())}


def gram_newton_schulz(x: Tensor) -> Tensor:
    """The same iteration on X Xᵀ, which is smaller than X: the polynomials are collected in Q."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)).to(HALF)
    gram = x @ x.mT
    eye = torch.eye(x.shape[1], dtype=HALF, device=x.device).expand_as(gram)
    q = eye
    for _ in range(5):
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * eye
        q, gram = p @ q, p @ gram @ p
    return q @ x


def update(work: str, small: bool) -> Figures:
    """The time of one part of L's update, and the bytes a second that it must at least move."""
    config = resolved(composed("bench/l", small))["stage"]
    with on_meta():
        stage = instantiate(config, _convert_="all")
        stage.configure_model()
    stage = stage.to_empty(device=DEVICE)
    parameters = [p for p in stage.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in parameters:
            p.normal_(std=0.02)
            p.grad = torch.randn_like(p)
    count = sum(p.numel() for p in parameters)
    ways: dict[str, tuple[Callable[[], Any], float]] = {}
    if work == "Muon and AdamW":
        ways[work] = muon_adamw(stage, weight_decay=0.01).step, 115
    elif work == "AdamW":
        ways[work] = adamw(stage, lr=1e-4, weight_decay=0.01).step, 28
    elif work == "averages":
        ways[work] = partial(PowerEMA(stage).update, stage, 100), 24
    else:
        ways[work] = partial(torch.nn.utils.clip_grad_norm_, parameters, 1.0), 12
    call, moved = ways[work]
    spent = seconds(call, rounds=3)
    return {"ms": 1e3 * spent, "gb_per_s": moved * count / spent / 1e9}
