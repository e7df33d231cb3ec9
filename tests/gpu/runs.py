"""Rows of whole runs: the real loader, and short trainings with their sample videos."""

import shutil
import time
from functools import partial
from pathlib import Path

from hydra.utils import instantiate

from cascade.curves import last_step, read_curves
from cascade.opening import open_data
from cascade.shrink import resolved
from cascade.train import train
from tests.gpu.rows import Figures, Row
from tests.gpu.training import composed


def loaders(small: bool, clips: Path) -> list[Row]:
    """The real loader of a stage, with as many workers as the machine has cores for."""
    names = ("base",) if small else ("base", "ssr1", "ssr2")
    return [Row(name, partial(load, name, small, clips)) for name in names]


def load(name: str, small: bool, clips: Path, batches: int = 30) -> Figures:
    """The clips a second of a stage's loader, after a few batches."""
    warm, count = (1, 3) if small else (5, batches)
    config = resolved(composed(name, small, *data(small, clips)))
    stage = instantiate(config["stage"], _convert_="all")
    module = open_data(config, stage)
    module.prepare_data()
    began, found = time.perf_counter(), 0
    loader = module.train_loader(first=0, count=warm + count)
    for number, batch in enumerate(loader):
        if number < warm:
            first, began = time.perf_counter() - began, time.perf_counter()
        else:
            found += len(batch["key"])
    spent = time.perf_counter() - began
    loader.close()
    return {"workers": module.loading.workers(1), "first_s": first, "clips_per_s": found / spent}


def data(small: bool, clips: Path) -> list[str]:
    """The overrides of the training data: carried clips, or a few that are made here."""
    if small:
        made = [
            "data=smoke",
            "data.make.shard_size=24",
            "data.clips.allow_upscale=true",
            "data.selection.min_rate=0",
        ]
    else:
        made = ["data=shapes128", "data.make.clips=512", "data.make.shard_size=64"]
    return [*made, f"data.shards={clips}", f"paths.index={clips}-index"]


def legs(small: bool, clips: Path, out: Path, leg_s: float) -> list[Row]:
    """A short leg of training of every stage, resumed by the next call, with its sample videos."""
    names = ("base",) if small else ("base", "tsr1", "ssr1", "ssr2")
    return [Row(name, partial(leg, name, small, clips, out, leg_s)) for name in names]


def leg(name: str, small: bool, clips: Path, out: Path, leg_s: float) -> Figures:
    """Train a stage for `leg_s`; its newest sample is copied to `out`."""
    run = out / "runs/single_gpu" / name / "default"
    overrides = [*data(small, clips), f"paths.runs={out / 'runs'}", "name=default"]
    overrides += [f"callbacks.interrupt.leg_s={leg_s}", "callbacks.samples.every_n_steps=200"]
    overrides += ["trainer.enable_progress_bar=false", "logger=csv", f"logger.csv.save_dir={run}"]
    if small:
        overrides += ["debug=smoke"]
    before, began = last_step(run), time.monotonic()
    train(composed(name, False, *overrides, root="train"), run)
    for clip in sorted(run.glob("samples/*/0.mp4"), key=lambda path: path.stat().st_mtime)[-1:]:
        shutil.copy(clip, out / f"{name}.mp4")
    loss = [value for _, value in read_curves(run).get("train/loss", ())]
    return {
        "steps": last_step(run) - before,
        "seconds": time.monotonic() - began,
        "first_loss": loss[0] if loss else None,
        "last_loss": loss[-1] if loss else None,
    }
