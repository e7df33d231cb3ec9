"""Rows of what an optimizer step of a large network takes, by its parts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from cascade.ema import PowerEMA
from cascade.meta import on_meta
from cascade.optim import adamw, muon_adamw
from cascade.orthogonal import STEPS, A, B, C, orthogonalize
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
        for name in ("Gram Newton–Schulz", "compiled", "without the Gram matrix")
    ]
    works = ("Muon and AdamW", "AdamW", "averages", "norm and clip")
    return rows + [Row(f"L: {work}", partial(update, work, small)) for work in works]


def orthogonal(name: str, shape: tuple[int, int, int]) -> Figures:
    """The time of orthogonalising matrices, and the difference from the present way."""
    if name == "compiled" and DEVICE == "cpu":
        raise NotHereError("compiled for a GPU alone")
    ways = {
        "Gram Newton–Schulz": lambda: orthogonalize,
        "compiled": lambda: torch.compile(orthogonalize),
        "without the Gram matrix": lambda: newton_schulz,
    }
    work, x = ways[name](), torch.randn(*shape, device=DEVICE)
    with torch.no_grad():
        spent = seconds(lambda: work(x))
        one, other = work(x).float(), orthogonalize(x).float()
    return {"ms": 1e3 * spent, "difference": float((one - other).norm() / other.norm())}


def newton_schulz(x: Tensor) -> Tensor:
    """The same steps on X itself."""
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)).to(HALF)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x


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
