"""Sample videos at fixed prompts and noise, made while a stage trains."""

import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from cascade.callbacks.averages import averages
from cascade.callbacks.eval_mode import eval_mode
from cascade.callbacks.watchdog import alive
from cascade.diffusion.sampler import Step
from cascade.files.atomic import write_atomic
from cascade.grid import Grid
from cascade.parallel.ranks import gather
from cascade.request import OnStep
from cascade.stage import Batch, TrainableStage, trainable
from cascade.trainer import datamodule
from cascade.video import write_mp4


class Samples(pl.Callback):
    """Samples videos for the first `count` held-out captions every `every_n_steps` steps.

    A super-resolution stage starts from the held-out clips, reduced. The files go to
    `samples/<step>/<number>.mp4` in the run's folder, and to W&B if that is on. Each shows panels
    side by side: `low`, the stage's input (not for a base), `made`, the sample, and `real`, the
    clip. `captions.json` has this order and the caption of each file. Every rank makes the same
    number of samples.
    """

    def __init__(self, *, every_n_steps: int, count: int, steps: int | None = None) -> None:
        if every_n_steps < 1 or count < 1:
            raise ValueError(
                f"samples: every_n_steps and count must be at least 1, got {every_n_steps} and "
                f"{count}; to make no samples, ARGS='~callbacks.samples'"
            )
        self.every_n_steps, self.count, self.steps = every_n_steps, count, steps
        self._batch: dict[str, Any] | None = None
        #: Seconds spent sampling, which do not count as training time.
        self.aside_s = 0.0
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the held-out clips; make the samples that an earlier stop left out."""
        data = datamodule(trainer)
        loader = data.val_loader(
            rank=trainer.global_rank,
            world=trainer.world_size,
            size=-(-self.count // trainer.world_size),
        )
        batch = next(iter(loader), None)
        loader.close()
        if batch is not None:
            self._batch = data.transfer_batch_to_device(batch, pl_module.device, 0)
        self._write_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Sample every `every_n_steps` steps, and at the last step.

        A stop does not wait for samples; they are made when the run resumes.
        """
        self._write_if_due(trainer, pl_module)

    def _write_if_due(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if due and step > self._done and self._batch is not None and not trainer.should_stop:
            self._done, began = step, time.perf_counter()
            self._write(trainer, stage, self._batch)
            self.aside_s += time.perf_counter() - began

    def _write(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        stage = trainable(module)
        place = f"the samples of step {trainer.global_step}"

        def on_step(step: Step, _: Tensor) -> None:
            alive(trainer, f"{place}, after {step.index + 1} of {step.count} steps,")

        alive(trainer, place)
        with averages(trainer).swapped(module), eval_mode(trainer, module):
            made = sample_like(stage, batch, steps=self.steps, on_step=on_step)
            videos = side_by_side(stage, batch, made).cpu()
        folder = Path(trainer.default_root_dir) / "samples" / f"{trainer.global_step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [trainer.global_rank + i * trainer.world_size for i in range(len(videos))]
        mine = {n: c for n, c in zip(numbers, batch["caption"], strict=True) if n < self.count}
        for number, video in zip(mine, videos, strict=False):
            write_mp4(folder / f"{number}.mp4", video, fps=float(batch["fps"][0]))
            alive(trainer, f"{place}, after number {number},")
        every = {n: caption for part in gather(mine) for n, caption in part.items()}
        if not trainer.is_global_zero:
            return
        order = "low | made | real" if stage.kind.takes_low else "made | real"
        captions = {f"{number}.mp4": f"{order}: {every[number]}" for number in sorted(every)}
        # Atomically: the demo's page and `compare` read it while the run trains.
        text = json.dumps(captions, indent=2, ensure_ascii=False)
        write_atomic(folder / "captions.json", text.encode())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_video(
                    "samples",
                    [str(folder / name) for name in captions],
                    step=trainer.global_step - 1,
                    caption=list(captions.values()),
                    format=["mp4"] * len(captions),
                )

    def state_dict(self) -> dict[str, Any]:
        """The step of the last samples."""
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step of the last samples."""
        self._done = state_dict["done"]


@torch.no_grad()
def sample_like(
    stage: TrainableStage,
    batch: Batch,
    *,
    steps: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Videos for a batch's captions on its grid; later stages start from its clips, reduced.

    The noise depends on each clip's position in the data alone, not on the batch.
    """
    x = stage.clip(batch["video"])
    _, _, frames, height, width = x.shape
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    videos: Tensor = stage.sample(
        batch["caption"],
        grid=grid,
        seeds=batch["position"].tolist(),
        low=stage.kind.reduce(x),
        steps=steps,
        on_step=on_step,
    )
    return videos


def side_by_side(
    stage: TrainableStage, batch: Batch, made: Float[Tensor, "b 3 f h w"]
) -> Float[Tensor, "b 3 f h wide"]:
    """Side by side: the input (if any), the sample and the real clip."""
    x = stage.clip(batch["video"])
    low = stage.kind.reduce(x)
    shown = [] if low is None else [stage.kind.expand(low)]
    return torch.cat([*shown, made.to(x), x], dim=-1)
