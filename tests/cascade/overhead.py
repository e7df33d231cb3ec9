"""What share of a step logging, averages and diagnostics take, each alone and all together.

    python tests/cascade/overhead.py [--stage demo/base] [--rounds 7] [--overrides …]

Real fits of one stage on the same clips in memory, in turn: bare, with one part, with all. CPU
seconds of this process per step, over 50 steps that hold two logging intervals, after 5 that warm
up. A part's share is the median over rounds of its seconds over the bare ones' of that round. On a
busy machine that is lost in the noise of two fits: the seconds spent inside the hooks and loggers
of one fit are counted too, over that fit's own. What happens once per validation is timed by itself
and spread over the steps between two.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning.loggers import WandbLogger

from cascade.entry import CONF
from cascade.grid import Grid
from cascade.rows import Rows

WARM, STEPS = 5, 50
PARTS = ("ema", "guard", "diagnostics", "throughput")
#: Once per validation: the hooks that do the work.
SELDOM = {"worth": ("on_validation_start", "on_validation_batch_end", "on_validation_epoch_end")}


class Clock(pl.Callback):
    """CPU seconds from the end of step WARM to the end of the last."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM:
            self.began = time.process_time()
        self.ended = time.process_time()

    def on_train_end(self, *_: Any) -> None:
        self.ended = time.process_time()


class Inside:
    """CPU seconds inside the hooks of callbacks and inside loggers, after step WARM, by whose."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.deep = False

    def watch(self, one: Any, names: Iterable[str]) -> None:
        """Time these methods; what one of them calls counts as its own."""
        for name in names:
            setattr(one, name, self._timed(getattr(one, name), type(one).__name__.lower()))

    def _timed(self, method: Callable[..., Any], whose: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            if self.deep:
                return method(*args, **options)
            self.deep, began = True, time.process_time()
            try:
                return method(*args, **options)
            finally:
                self.deep = False
                spent = time.process_time() - began
                step = args[0].global_step if hasattr(args[0], "global_step") else options["step"]
                if step >= WARM:
                    self.spent[whose] = self.spent.get(whose, 0.0) + spent

        return timed


class Clips(pl.LightningDataModule):
    """The same few batches of noise, again and again."""

    def __init__(self, batches: list[dict[str, Any]], count: int) -> None:
        super().__init__()
        self.batches, self.count = batches, count

    def train_dataloader(self) -> "Loader":
        return Loader([self.batches[i % len(self.batches)] for i in range(self.count)])

    def val_loader(self, **_: Any) -> "Loader":
        return Loader(self.batches)


class Loader:
    """Batches from memory."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches, self.waited_s = batches, 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.batches)

    def close(self) -> None:
        """Nothing is open."""


def make_batch(stage: Any, number: int) -> dict[str, Any]:
    """Flat clips with a box each, in the loader's form."""
    frames, height, width = stage.recipe.crop or stage.target.shape
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    size, generator = stage.recipe.global_batch, torch.Generator().manual_seed(number)
    video = torch.randint(0, 200, (size, 3, 1, 1, 1), generator=generator).expand(
        size, 3, *grid.shape
    )
    video = video.clone()
    video[..., : height // 2, : width // 2] += 55
    first = number * size
    return {
        "video": video.to(torch.uint8),
        "fps": torch.full((size,), float(grid.fps)),
        "zoom": torch.ones(size),
        "caption": [f"a small red circle moves left on ground {i % 7}" for i in range(size)],
        "key": [f"clip-{first + i}" for i in range(size)],
        "position": torch.arange(first, first + size),
    }


def one(config: dict[str, Any], names: tuple[str, ...], logs: str, folder: Path) -> Any:
    """CPU seconds per step of a fit with these callbacks; the shares of it inside; the trainer."""
    stage = hydra.utils.instantiate(config["stage"], _convert_="all")
    callbacks = [hydra.utils.instantiate(config["callbacks"][n], _convert_="all") for n in names]
    loggers: list[Any] = []
    if logs:
        loggers.append(Rows(str(folder), "metrics", flush_logs_every_n_steps=1))
    if logs == "wandb":
        loggers.append(WandbLogger(save_dir=str(folder), offline=True))
    clock, inside = Clock(), Inside()
    for callback in callbacks:
        hooks = [n for n in vars(type(callback)) if n.startswith("on_") and n != "on_train_start"]
        inside.watch(callback, hooks)
    for logger in loggers:
        inside.watch(logger, ["log_metrics"])
    stage.configure_model()
    trainer = pl.Trainer(
        max_steps=WARM + STEPS,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        logger=loggers,
        default_root_dir=str(folder),
        callbacks=[clock, *callbacks],
        log_every_n_steps=25,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    batches = [make_batch(stage, n) for n in range(4)]
    trainer.fit(stage, Clips(batches, WARM + STEPS))
    seconds = clock.ended - clock.began
    shares = {name: spent / seconds for name, spent in inside.spent.items()}
    return seconds / STEPS, shares | {"all": sum(shares.values())}, trainer, batches


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
            loss = stage.weighed(out, noised)
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


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--stage", default="demo/base")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--overrides", nargs="*", default=[])
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ.setdefault("WANDB_SILENT", "true")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=[f"stage={asked.stage}", "logger=csv", *asked.overrides])
    config: Any = {n: OmegaConf.to_container(cfg[n], resolve=True) for n in ("stage", "callbacks")}
    every = cfg.trainer.val_check_interval
    arms: dict[str, Callable[[Path], Any]] = {
        "bare": lambda f: one(config, (), "", f),
        **{part: (lambda f, p=part: one(config, (p,), "csv", f)) for part in PARTS},
        "all, csv": lambda f: one(config, PARTS, "csv", f),
        "all, csv and wandb": lambda f: one(config, PARTS, "wandb", f),
        "bare again": lambda f: one(config, (), "", f),
    }
    steps: dict[str, list[float]] = {name: [] for name in arms}
    rare: dict[str, list[float]] = {}
    inside: dict[str, dict[str, list[float]]] = {"csv": {}, "csv and wandb": {}}
    for turn in range(asked.rounds):
        order = list(arms) if turn % 2 == 0 else list(reversed(arms))
        for name in order:
            with tempfile.TemporaryDirectory() as folder:
                seconds, own_shares, trainer, batches = arms[name](Path(folder))
                steps[name].append(seconds)
                for whose, share in own_shares.items() if name.startswith("all") else ():
                    inside[name.removeprefix("all, ")].setdefault(whose, []).append(share)
                if name == "all, csv":
                    for what, value in seldom(config, trainer, batches).items():
                        rare.setdefault(what, []).append(value)
    bare = [(a + b) / 2 for a, b in zip(steps["bare"], steps["bare again"], strict=True)]
    shares = {
        name: spread([value / own - 1 for value, own in zip(values, bare, strict=True)])
        for name, values in steps.items()
    }
    shares |= {
        what: spread([v / (every * own) for v, own in zip(values, bare, strict=True)])
        for what, values in rare.items()
    }
    out = {
        **{"stage": asked.stage, "rounds": asked.rounds, "bare_step_s": spread(bare)},
        "shares_percent": _percent(shares),
        "inside_percent": {
            logs: _percent({whose: spread(values) for whose, values in found.items()})
            for logs, found in inside.items()
        },
    }
    sys.stdout.write(json.dumps(out, indent=1) + "\n")


def _percent(shares: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {n: {k: round(100 * v, 2) for k, v in one.items()} for n, one in shares.items()}


if __name__ == "__main__":
    main()
