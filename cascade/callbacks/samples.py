"""Sample videos at fixed prompts and noise while a stage trains: the first thing to look at."""

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from cascade.callbacks.ema import averages
from cascade.grid import Grid
from cascade.video import write_mp4


class Samples(pl.Callback):
    """Every `every_n_steps` steps, videos for the first `count` held-out captions.

    A super-resolution stage starts from the held-out clips themselves, reduced. The files go to
    `samples/<step>/<number>.mp4` in the run's folder, and to W&B where that is on.
    """

    def __init__(self, *, every_n_steps: int, count: int, steps: int | None = None) -> None:
        self.every_n_steps, self.count, self.steps = every_n_steps, count, steps
        self._batch: dict[str, Any] | None = None
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the held-out clips that every sample will be made for."""
        self._done = trainer.global_step
        loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]  # set by fit
        batch = next(iter(loader), None)
        if batch is not None:
            self._batch = {
                name: value[: self.count].to(pl_module.device)
                if isinstance(value, Tensor)
                else value[: self.count]
                for name, value in batch.items()
            }

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Sample when the time has come; at the last step too."""
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if due and step > self._done and self._batch is not None:
            self._done = step
            self._write(trainer, pl_module, self._batch)

    @rank_zero_only
    def _write(self, trainer: pl.Trainer, stage: Any, batch: dict[str, Any]) -> None:
        with averages(trainer).lent(stage):
            stage.eval()
            videos = sample_like(stage, batch, steps=self.steps)
            stage.train()
        folder = Path(trainer.default_root_dir) / "samples" / f"{trainer.global_step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        fps = float(batch["fps"][0])
        paths = [folder / f"{i}.mp4" for i in range(len(videos))]
        for path, video in zip(paths, videos, strict=True):
            write_mp4(path, video.cpu(), fps=fps)
        captions = {p.name: c for p, c in zip(paths, batch["caption"], strict=True)}
        (folder / "captions.json").write_text(json.dumps(captions, indent=2, ensure_ascii=False))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_video(
                    "samples",
                    [str(p) for p in paths],
                    step=trainer.global_step,
                    caption=list(batch["caption"]),
                    format=["mp4"] * len(paths),
                )


@torch.no_grad()
def sample_like(stage: Any, batch: dict[str, Any], *, steps: int | None = None) -> Tensor:
    """Videos for a batch's captions on its grid; later stages start from its clips, reduced."""
    x = stage.clip(batch["video"])
    _, _, frames, height, width = x.shape
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    videos: Tensor = stage.sample(
        batch["caption"],
        grid=grid,
        seeds=list(range(len(x))),
        low=stage.reduce(x),
        steps=steps,
    )
    return videos
