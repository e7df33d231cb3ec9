"""A tiny stage and synthetic clips in the loader's format, to fit in tests.

As a script, `torchrun --nproc-per-node 2 tiny.py ddp OUT` fits with every callback on two ranks;
the second has a loss of NaN in the fourth step.
"""

import copy
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cascade.callbacks.averages import EMA
from cascade.callbacks.diagnostics import Diagnostics
from cascade.callbacks.guard import Guard
from cascade.callbacks.samples import Samples
from cascade.callbacks.start import Start
from cascade.callbacks.throughput import Throughput
from cascade.callbacks.worth import Worth
from cascade.entry import CONF
from cascade.loggers.csv_logger import AtomicCSVLogger
from cascade.shrink import shrink
from cascade.stage import trained_by_lightning
from data.plan.clip_shapes import Shape

SHAPE = (4, 16, 16)
CAPTIONS = ("a red circle", "two blue bars", "nothing at all", "a cross that goes up")


@functools.cache
def stage_config(choice: str) -> dict[str, Any]:
    """The resolved config of `stage=<choice>`; this file also runs as a script of its own."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=[f"stage={choice}"])
    return OmegaConf.to_container(cfg.stage, resolve=True)


def tiny_stage(choice: str = "demo/base", **changes: Any) -> Any:
    """A shrunk stage of a config."""
    small = shrink(copy.deepcopy(stage_config(choice)))
    small["net"].update({"width": 32} if "base" in choice else {})
    merged = OmegaConf.to_container(OmegaConf.merge(small, changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stage = hydra.utils.instantiate(trained_by_lightning(merged), _convert_="all")
    stage.configure_model()
    return stage


def clips(positions: Sequence[int], shape: tuple[int, int, int] = SHAPE) -> dict[str, Any]:
    """A batch of clips: flat backgrounds, each with a bright box."""
    videos = []
    for p in positions:
        generator = torch.Generator().manual_seed(p)
        low, y, x = torch.randint(0, 8, (3,), generator=generator).tolist()
        video = torch.full((3, *shape), 16 * low)
        video[:, :, y : y + 8, x : x + 8] = 240
        videos.append(video)
    return {
        "video": torch.stack(videos).to(torch.uint8),
        "fps": torch.tensor([4.0 + p % 3 for p in positions]),
        "zoom": torch.ones(len(positions)),
        "caption": [CAPTIONS[p % len(CAPTIONS)] for p in positions],
        "key": [f"clip-{p}" for p in positions],
        "position": torch.tensor(list(positions)),
    }


class Loader:
    """Batches in turn, each after `slow_s` seconds; `behind` is the number trained before."""

    def __init__(self, batches: list[dict[str, Any]], slow_s: float = 0.0, behind: int = 0) -> None:
        self.batches, self.slow_s, self.behind, self.waited_s = batches, slow_s, behind, 0.0

    def __len__(self) -> int:
        return len(self.batches) + self.behind

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches:
            time.sleep(self.slow_s)
            self.waited_s += self.slow_s
            yield batch

    def close(self) -> None:
        """Nothing is open."""


class Clips(pl.LightningDataModule):
    """`batches` of `size` clips in all, divided among the ranks; eight are held out."""

    def __init__(self, *, batches: int, size: int = 4, slow_s: float = 0.0) -> None:
        super().__init__()
        self.batches, self.size, self.slow_s = batches, size, slow_s
        self.plan = SimpleNamespace(shapes=[Shape(kind="video", frames=4, height=16, width=16)])

    def _part(self, number: int) -> list[int]:
        each = self.size // self.trainer.world_size
        first = number * self.size + each * self.trainer.global_rank
        return list(range(first, first + each))

    def train_dataloader(self) -> Loader:
        done = self.trainer.global_step * self.trainer.accumulate_grad_batches
        parts = [clips(self._part(n)) for n in range(done, self.batches)]
        return Loader(parts, self.slow_s, done)

    def val_dataloader(self) -> Loader:
        return self.val_loader(rank=self.trainer.global_rank, world=self.trainer.world_size)

    def val_loader(self, *, rank: int, world: int, size: int = 4) -> Loader:
        mine = list(range(1000 + rank, 1008, world))
        return Loader([clips(mine[i : i + size]) for i in range(0, len(mine), size)])


def all_callbacks(**options: Any) -> list[pl.Callback]:
    """One of each callback, as in a run."""
    conditions = ["text", "low", "given", "fps"]
    return [
        EMA(sigma_rels=[0.1]),
        Start(),
        Guard(after=2, after_loss=2, window=50),
        Worth(conditions=conditions, clips=8, **options),
        Samples(every_n_steps=4, count=2, steps=1),
        Throughput(),
        Diagnostics(logsnr_edges=[-2.0, 2.0]),
    ]


def fit(
    stage: Any, folder: Path, *, callbacks: list[pl.Callback], steps: int = 6, **options: Any
) -> pl.Trainer:
    """Train `steps` steps in `folder`, logging each."""
    data = options.pop("data", None)
    checkpoint = options.pop("checkpoint", None)
    accumulate = options.get("accumulate_grad_batches", 1)
    trainer = pl.Trainer(
        **{
            "max_steps": steps,
            "max_epochs": -1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": [AtomicCSVLogger(str(folder), "metrics", flush_logs_every_n_steps=1)],
            "default_root_dir": str(folder),
            "callbacks": callbacks,
            "log_every_n_steps": 1,
            "gradient_clip_val": 1.0,
            "num_sanity_val_steps": 0,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "use_distributed_sampler": False,
            **options,
        }
    )
    data = data or Clips(batches=steps * accumulate)
    trainer.fit(stage, data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def spoil(stage: Any, *, steps: Sequence[int], factor: float = float("nan"), rank: int = 0) -> Any:
    """The stage with a loss that is multiplied in these steps, on one rank."""
    step = stage.training_step

    def spoiled(batch: dict[str, Any], batch_idx: int) -> Any:
        out = step(batch, batch_idx)
        bad = stage.global_step in steps and stage.trainer.global_rank == rank
        return {**out, "loss": out["loss"] * factor} if bad else out

    stage.training_step = spoiled
    return stage


def main(strategy: str, folder: Path) -> None:
    """Fit on the launched ranks with every callback."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {"strategy": "ddp"}
    if strategy == "fsdp":
        from cascade.parallel.strategy import FSDP2

        options["strategy"] = FSDP2()
    if strategy == "one":
        options["strategy"] = "auto"
    stage = tiny_stage()
    if strategy != "one":
        spoil(stage, steps=[3], rank=1)
    devices = 1 if strategy == "one" else 2
    callbacks = all_callbacks()
    trainer = fit(stage, folder, callbacks=callbacks, devices=devices, **options)
    state = next(c for c in callbacks if isinstance(c, Guard)).state_dict()
    out = {"rank": trainer.global_rank, "guard": state}
    (folder / f"rank-{trainer.global_rank}.json").write_text(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
