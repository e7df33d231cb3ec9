"""Training speed, utilisation of the device, and the share of time spent waiting for data."""

import logging
import resource
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cascade.callbacks import names
from cascade.callbacks.figures import due, write
from cascade.flops import device_peak, forward_flops, measured_matmul_peak
from cascade.nn.attention import kernel_named
from cascade.parallel.ranks import highest
from cascade.stage import trainable
from cascade.trainer import callbacks

log = logging.getLogger(__name__)
_STATM = Path("/proc/self/statm")


class Throughput(pl.Callback):
    """Measures each logging interval; validation, samples and checkpoints are excluded.

    The FLOPs of a shape are counted once, on a network without weights in memory. The peak of a CPU
    is that of matrix products, measured at the start; of a GPU, its data sheet's. A GPU that is not
    in the table has no `mfu`.
    """

    def __init__(self) -> None:
        self._began = self._spent = self._waited = self._aside = 0.0
        self._clips = self._stepped = self._first = 0
        self._flops = 0.0
        self._counted: dict[tuple[int, int, int], int] = {}
        self._peak: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting, and find the device's peak."""
        self._stepped = self._first = trainer.global_step
        self._waited = _waited(trainer)
        device = pl_module.device
        half = "bf16" in str(trainer.precision) or "16-" in str(trainer.precision)
        self._peak = (
            device_peak(device, torch.bfloat16 if half else torch.float32)
            if device.type == "cuda"
            else measured_matmul_peak(device, torch.float32, size=768, rounds=3)
        )
        if device.type == "cuda":
            _log_kernels(pl_module, torch.bfloat16 if half else torch.float32)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock."""
        self._began, self._aside = time.perf_counter(), _aside(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        _batch_idx: int,
    ) -> None:
        """Stop the clock, minus the time that other callbacks spent on something else."""
        self._spent += time.perf_counter() - self._began - (_aside(trainer) - self._aside)
        self._clips += len(batch["key"])
        if trainer.is_global_zero:
            self._flops += sum(self._clip_flops(pl_module, s) for s in outputs["losses"].shapes)
        if due(trainer, self._stepped):
            self._write(trainer, pl_module)
        self._stepped = trainer.global_step

    def _write(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        waited, before = _waited(trainer), self._waited
        wait = waited - before
        seconds, world = self._spent + wait, trainer.world_size
        steps = trainer.global_step - self._first
        share, memory = highest([wait / seconds, memory_gib(stage.device)])
        flops = self._flops * world / seconds
        figures = [
            *(steps / seconds, self._clips * world / seconds, flops / 1e12),
            flops / (world * self._peak) if self._peak else None,
            *(share, memory),
        ]
        pairs = zip(names.THROUGHPUT, figures, strict=True)
        write(trainer, {name: value for name, value in pairs if value is not None})
        self._spent, self._waited, self._clips, self._flops = 0.0, waited, 0, 0.0
        self._first = trainer.global_step

    def _clip_flops(self, module: pl.LightningModule, shape: tuple[int, int, int]) -> int:
        """FLOPs of both passes of one clip; the backward pass has twice those of the forward."""
        if shape not in self._counted:
            self._counted[shape] = 3 * forward_flops(trainable(module).dry_forward(shape))
        return self._counted[shape]


def _waited(trainer: pl.Trainer) -> float:
    """Seconds that the run has waited for its data loader."""
    return float(getattr(trainer.train_dataloader, "waited_s", 0.0))


def _aside(trainer: pl.Trainer) -> float:
    """Seconds that callbacks report to have spent on other things than training."""
    return float(sum(getattr(callback, "aside_s", 0.0) for callback in callbacks(trainer)))


def _log_kernels(stage: pl.LightningModule, dtype: torch.dtype) -> None:
    """Log which kernels attention runs on, and whether blocks are compiled."""
    width = getattr(trainable(stage).net, "head_width", 64)
    q = torch.zeros(1, 256, 1, width, dtype=dtype, device=stage.device)
    log.info(
        "stage %s: attention by %s, to text by %s; blocks are %scompiled",
        stage.name,
        kernel_named(q, q, masked=False),
        kernel_named(q, q[:, :16], masked=True),
        "not " if trainable(stage).recipe.compile is False else "",
    )


def memory_gib(device: torch.device) -> float:
    """Peak allocated memory of a GPU; on a CPU, the process's resident memory now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if _STATM.is_file():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
