"""What share of a step logging, averages and diagnostics take, each alone and all together.

    python tests/cascade/overhead.py [--stage demo/base] [--pairs 12] [--overrides …]

One real fit of a stage on clips in memory, in which everything around the step is on for one
logging interval and off for the next: on and off share memory, weights and minute. A share is the
median over pairs of neighbouring intervals of their CPU seconds, beside what the hooks and loggers
themselves took. What happens once per validation is timed by itself and spread over the steps
between two.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning.loggers import WandbLogger

from cascade.bench.clips import Repeated, training_batch, training_grid
from cascade.entry import CONF
from cascade.loggers.csv_logger import AtomicCSVLogger
from cascade.stage import trained_by_lightning
from stages.noised import weighted

WARM, BLOCK = 5, 25
PARTS = ("ema", "guard", "diagnostics", "throughput")


class Switch(pl.Callback):
    """Turns all else on and off, in the order off, on, on, off, …; CPU seconds of each interval."""

    def __init__(self) -> None:
        self.on = False
        self.turns: list[float] = []
        #: Seconds inside the hooks of each, and inside the loggers, by the number of the interval.
        self.inside: dict[str, dict[int, float]] = {}
        self.deep = False

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        block, step = divmod(trainer.global_step - WARM, BLOCK)
        if block >= 0 and step == 0:
            self.on = block % 4 in (1, 2)
            self.turns.append(time.process_time())

    def on_train_end(self, *_: Any) -> None:
        self.turns.append(time.process_time())

    def watch(self, one: Any, names: Iterable[str]) -> None:
        """Switch these methods, and time them; what one of them calls counts as its own."""
        for name in names:
            setattr(one, name, self._switched(getattr(one, name), type(one).__name__.lower()))

    def _switched(self, method: Callable[..., Any], whose: str) -> Callable[..., Any]:
        def switched(*args: Any, **options: Any) -> Any:
            if self.deep:
                return method(*args, **options)
            if not self.on:
                return None
            self.deep, began = True, time.process_time()
            try:
                return method(*args, **options)
            finally:
                self.deep = False
                spent, block = self.inside.setdefault(whose, {}), len(self.turns)
                spent[block] = spent.get(block, 0.0) + time.process_time() - began

        return switched


class Clips(pl.LightningDataModule):
    """The same few batches, again and again."""

    def __init__(self, batches: list[dict[str, Any]], count: int) -> None:
        super().__init__()
        self.batches, self.count = batches, count

    def train_dataloader(self) -> Repeated:
        return Repeated(self.batches, self.count)

    def val_loader(self, **_: Any) -> Repeated:
        return Repeated(self.batches, len(self.batches))


def make_batch(stage: Any, number: int) -> dict[str, Any]:
    """Batch `number` in memory, with several captions."""
    batch = training_batch(stage, training_grid(stage), stage.recipe.global_batch, number)
    captions = [
        f"a small red circle moves left on ground {i % 7}" for i in range(len(batch["key"]))
    ]
    return {**batch, "caption": captions}


def fit(config: dict[str, Any], pairs: int, folder: Path) -> tuple[Switch, pl.Trainer, list[Any]]:
    """The fit: its clock, its trainer, its batches."""
    stage = hydra.utils.instantiate(trained_by_lightning(config["stage"]), _convert_="all")
    callbacks = [hydra.utils.instantiate(config["callbacks"][n], _convert_="all") for n in PARTS]
    loggers: list[Any] = [
        AtomicCSVLogger(str(folder), "metrics", flush_logs_every_n_steps=1),
        WandbLogger(save_dir=str(folder), offline=True),
    ]
    switch = Switch()
    for callback in callbacks:
        hooks = [n for n in vars(type(callback)) if n.startswith("on_") and n != "on_train_start"]
        switch.watch(callback, hooks)
    for logger in loggers:
        switch.watch(logger, ["log_metrics"])
    stage.configure_model()
    steps = WARM + 2 * pairs * BLOCK
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        logger=loggers,
        default_root_dir=str(folder),
        callbacks=[switch, *callbacks],
        log_every_n_steps=BLOCK,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    batches = [make_batch(stage, n) for n in range(4)]
    trainer.fit(stage, Clips(batches, steps))
    return switch, trainer, batches


def seldom(config: dict[str, Any], trainer: pl.Trainer, batches: list[Any]) -> dict[str, float]:
    """CPU seconds of one validation's worth, and of one set of samples, after a fit."""
    stage: Any = trainer.lightning_module
    found = {}
    worth = hydra.utils.instantiate(config["callbacks"]["worth"], _convert_="all")
    stage.eval()
    with torch.no_grad():
        outputs = []
        for batch in batches[:2]:
            noised = stage.noise(batch, purpose="val")
            out = stage.predict(noised.z, noised.logsnr, noised.condition)
            loss = weighted(out, noised, stage.diffusion)
            outputs.append({"losses": loss, "zero": loss, "noised": noised})
        stage.log = lambda *_, **__: None
        began = time.process_time()
        worth.on_validation_start(trainer, stage)
        for batch, output in zip(batches, outputs, strict=False):
            worth.on_validation_batch_end(trainer, stage, output, batch, 0)
        worth.on_validation_epoch_end(trainer, stage)
        found["worth, per validation"] = time.process_time() - began
    samples = hydra.utils.instantiate(config["callbacks"]["samples"], _convert_="all")
    samples.on_train_start(trainer, stage)
    samples._batch = {k: v[: samples.count] for k, v in batches[0].items()}
    began = time.process_time()
    samples._write(trainer, stage, samples._batch)
    found["samples, per set"] = time.process_time() - began
    return found


def spread(shares: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, lowest and highest, in percent."""
    low, _, high = statistics.quantiles(shares, n=4)
    found = {"median": statistics.median(shares), "quartiles": (low, high)}
    found |= {"lowest": min(shares), "highest": max(shares)}
    return {
        name: [round(100 * v, 2) for v in value] if name == "quartiles" else round(100 * value, 2)
        for name, value in found.items()
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--stage", default="demo/base")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--overrides", nargs="*", default=[])
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ.setdefault("WANDB_SILENT", "true")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=[f"stage={asked.stage}", "logger=csv", *asked.overrides])
    config: Any = {n: OmegaConf.to_container(cfg[n], resolve=True) for n in ("stage", "callbacks")}
    with tempfile.TemporaryDirectory() as folder:
        switch, trainer, batches = fit(config, asked.pairs, Path(folder))
        rare = seldom(config, trainer, batches)
    blocks = [b - a for a, b in itertools.pairwise(switch.turns)]
    pairs = [blocks[i : i + 2][:: 1 if i % 4 == 0 else -1] for i in range(0, len(blocks), 2)]
    bare = statistics.median(off for off, _ in pairs) / BLOCK
    inside = {
        whose: [seconds / blocks[number - 1] for number, seconds in sorted(spent.items())]
        for whose, spent in switch.inside.items()
    }
    inside["all"] = [sum(shares) for shares in zip(*inside.values(), strict=True)]
    out = {
        **{"stage": asked.stage, "pairs": len(pairs), "bare_step_s": round(bare, 4)},
        "on_over_off_percent": spread([on / off - 1 for off, on in pairs]),
        "inside_percent": {whose: spread(shares) for whose, shares in inside.items()},
        "per_validation_percent": {
            what: round(100 * seconds / (cfg.trainer.val_check_interval * bare), 2)
            for what, seconds in rare.items()
        },
    }
    sys.stdout.write(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
