"""Rows of correctness: a device's results against float64, and where the CPU waits for the device.

Relative errors are ‖a − b‖ / ‖b‖; bfloat16 has eight bits, so that they should be below 1e-2.
"""

import copy
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cascade.bench.speed import bench
from cascade.nn.dit import DiT
from cascade.nn.hourglass import Hourglass
from cascade.orthogonal import orthogonalize
from cascade.parallel.blocks import compile_blocks
from tests.gpu.rows import Figures, NotHereError, Row
from tests.gpu.timing import DEVICE, HALF
from tests.gpu.training import composed

ROOT = Path(__file__).parents[2]
COMMON = {"in_channels": 7, "out_channels": 3, "text_width": 64, "num_scalars": 1}


def correctness(small: bool) -> list[Row]:
    """Networks against float64 on the CPU, the optimizer's matrices, and synchronisations."""
    rows = [
        Row(f"{name}, {'compiled' if compiled else 'eager'}", partial(against, build, compiled))
        for name, build in (("DiT", dit), ("hourglass", hourglass))
        for compiled in (False, True)
    ]
    rows += [
        Row("packed attention", packed),
        Row("Newton–Schulz", singular_values),
        Row("synchronisations, eager", partial(synchronisations, small, "false")),
        Row("synchronisations, compiled", partial(synchronisations, small, "null")),
    ]
    return rows


def dit() -> nn.Module:
    """A small base network."""
    return awake(DiT(**COMMON, width=256, depth=2, head_width=128))


def hourglass() -> nn.Module:
    """A small super-resolution network."""
    return awake(Hourglass(**COMMON, widths=[64, 128], depths=[1, 1]))


def awake(net: nn.Module) -> nn.Module:
    """The network with random values in place of zero weights, so that every part counts."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return net


def relative(one: Tensor, other: Tensor) -> float:
    """‖one − other‖ / ‖other‖."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return float((one - other).norm() / other.norm())


def inputs() -> list[Tensor]:
    """Clips, noise levels, text of two lengths and scalars."""
    mask = torch.ones(2, 15, dtype=torch.bool)
    mask[0, 9:] = False
    x, text = torch.randn(2, 7, 8, 32, 32), torch.randn(2, 15, 64)
    return [x, torch.randn(2, 8), text, mask, torch.randn(2, 1)]


def against(build: Any, compiled: bool) -> Figures:
    """The errors of a network's output and gradients on this device, by float64 on the CPU."""
    torch.manual_seed(0)
    net, given = build(), inputs()
    exact = copy.deepcopy(net).double()
    true = exact(*(t.double() if t.is_floating_point() else t for t in given))
    true.square().mean().backward()
    net.to(DEVICE)
    if compiled:
        backend = "inductor" if DEVICE == "cuda" else "aot_eager"
        compile_blocks(net, everywhere=True, backend=backend)
    with torch.autocast(DEVICE, dtype=HALF, enabled=torch.float32 != HALF):
        out = net(*(t.to(DEVICE) for t in given))
    out.float().square().mean().backward()
    grads = [
        torch.cat([p.grad.flatten().cpu().double() for p in one.parameters()])
        for one in (net, exact)
    ]
    return {"output": relative(out, true), "gradients": relative(*grads)}


def packed() -> Figures:
    """The error of clips of several shapes in one sequence, by each clip alone."""
    torch.manual_seed(0)
    net = awake(DiT(**COMMON, width=128, depth=2, head_width=64)).to(DEVICE)
    shapes = [(4, 16, 24), (2, 32, 8), (8, 8, 8)]
    xs = [torch.randn(7, *shape, device=DEVICE) for shape in shapes]
    levels = [torch.randn(shape[0], device=DEVICE) for shape in shapes]
    texts = [torch.randn(5 + i, 64, device=DEVICE) for i in range(3)]
    scalars = torch.randn(3, 1, device=DEVICE)
    worst = 0.0
    with torch.no_grad(), torch.autocast(DEVICE, dtype=torch.bfloat16):
        together = net.forward_packed(xs, levels, texts, scalars)
        for i, x in enumerate(xs):
            mask = torch.ones(1, len(texts[i]), dtype=torch.bool, device=DEVICE)
            alone = net(x[None], levels[i][None], texts[i][None], mask, scalars[i : i + 1])[0]
            worst = max(worst, relative(together[i].float(), alone.float()))
    return {"output": worst}


def singular_values() -> Figures:
    """The range of singular values after Newton–Schulz, which should be about [0.7, 1.2]."""
    torch.manual_seed(0)
    found = orthogonalize(torch.randn(2, 256, 768, device=DEVICE)).float()
    values = torch.linalg.svdvals(found)
    return {"smallest": float(values.min()), "largest": float(values.max())}


class Waits(pl.Callback):
    """Counts the lines at which the CPU waits for the GPU, in three steps after the first."""

    STEPS = range(1, 4)

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.STEPS[0]:
            torch.cuda.set_sync_debug_mode("warn")
            warnings.simplefilter("always")
            warnings.showwarning = self._note
        elif trainer.global_step == self.STEPS[-1] + 1:
            torch.cuda.set_sync_debug_mode("default")

    def _note(self, message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            self.lines[line(traceback.extract_stack())] += 1


def line(stack: Sequence[traceback.FrameSummary]) -> str:
    """The innermost line of the product, of Lightning or of anything in a stack."""
    for folder in (str(ROOT / "cascade"), str(ROOT / "stages"), "pytorch_lightning"):
        inside = [frame for frame in stack if folder in frame.filename]
        if inside:
            path = Path(inside[-1].filename)
            name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-3:])
            return f"{name}:{inside[-1].lineno}"
    return "elsewhere"


def synchronisations(small: bool, compile_: str) -> Figures:
    """The synchronisations of a step of `single_gpu/base`, by line; at most three are expected."""
    if DEVICE == "cpu":
        raise NotHereError("a CPU does not wait for itself")
    waits, before = Waits(), warnings.showwarning
    try:
        with warnings.catch_warnings():
            cfg = composed("base", small, f"stage.train.compile={compile_}", rounds=4, profiled=0)
            bench(cfg, callbacks=[waits])
    finally:
        torch.cuda.set_sync_debug_mode("default")
        warnings.showwarning = before
    steps = len(Waits.STEPS)
    return {
        "a step": sum(waits.lines.values()) / steps,
        "lines": [f"{where} ×{count / steps:.2g}" for where, count in waits.lines.most_common()],
    }
