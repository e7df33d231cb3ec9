"""Training speed and memory on one GPU, as one table; not collected by pytest.

    python tests/gpu/cluster.py --out DIR [--stages base,ssr1] [--seconds 20] [--small]

Per stage of `single_gpu` and per way to train it (float32 and bfloat16, compiled blocks, activation
checkpointing, accumulation, FSDP2 on one rank): steps per second, the peak memory of CUDA's
allocator, and the plan's estimate of it for the same config (aim: ±10 %; compiled code needs less
than the plan, which does not count compilation). Every row is measured in a process of its own with
Lightning's trainer. Rows already in DIR are not measured again, so the same command resumes after a
time limit. `--small` shrinks the stages, to try the script on a CPU, without memory figures.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from cascade.bench.clips import training_batch
from cascade.callbacks.averages import EMA
from cascade.doctor.batches import find_ranks
from cascade.doctor.dry import Clips, DryStage, Execution
from cascade.entry import CONF
from cascade.grid import Grid
from cascade.shrink import shrink
from cascade.stage import trained_by_lightning

CAPTION = "a small red circle moves left on a black background"
SIGMA_RELS = (0.05, 0.1)
COMPILED, AGAIN = "stage.train.compile=true", "+stage.net.checkpointing=true"
#: Ways to train and their overrides; "bfloat16" is the reference for the others.
WAYS: dict[str, tuple[str, ...]] = {
    "float32": ("trainer.precision=32-true",),
    "bfloat16": (),
    "compiled": (COMPILED,),
    "checkpointing": (AGAIN,),
    "compiled, checkpointing": (COMPILED, AGAIN),
    "4 batches accumulated": ("trainer.accumulate_grad_batches=4",),
    "FSDP2": ("trainer=fsdp", "trainer.devices=1"),
    "FSDP2, compiled, checkpointing": ("trainer=fsdp", "trainer.devices=1", COMPILED, AGAIN),
}


class Same(Dataset[dict[str, Any]]):
    """One batch repeated, so that the step is measured and not the loader."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, _: int) -> dict[str, Any]:
        return self.batch


class Timed(pl.Callback):
    """Stops after `seconds` of steps; the first `warmup` steps are not counted."""

    def __init__(self, seconds: float, warmup: int) -> None:
        self.seconds, self.warmup = seconds, warmup
        self.began = self.first = time.perf_counter()
        self.before = self.steps = 0
        self.start_s = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        step = trainer.global_step
        if step == self.before:
            return  # during gradient accumulation
        self.before = step
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step <= self.warmup:
            self.first, self.start_s = now, now - self.began
            if step == 1 and torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()  # the first step creates the optimizer state
            return
        self.steps, self.spent = step - self.warmup, now - self.first
        if self.spent > self.seconds:
            trainer.should_stop, self.loss = True, float(outputs["loss"])


def measure(stage_name: str, way: str, seconds: float, small: bool) -> dict[str, Any]:
    """Measure one row of the table."""
    trainer_of = [] if any(o.startswith("trainer=") for o in WAYS[way]) else ["trainer=gpu"]
    overrides = [f"stage=single_gpu/{stage_name}", "logger=[]", *trainer_of, *WAYS[way]]
    if small:
        overrides += ["trainer.accelerator=cpu"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=overrides)
    config: Any = OmegaConf.to_container(cfg.stage, resolve=True)
    if small:
        config = shrink(config, steps=1000, batch=8)
    options: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    estimate = estimated(config, options)
    stage = hydra.utils.instantiate(trained_by_lightning(config), _convert_="all")
    frames, height, width = stage.recipe.crop or stage.target.shape
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    stage.configure_model()
    micro = stage.recipe.global_batch // options["accumulate_grad_batches"]
    batch = {
        name: value.cpu() if isinstance(value, torch.Tensor) else value
        for name, value in training_batch(stage, grid, micro).items()
    }
    timed = Timed(seconds, warmup=3 if small else 8)
    options |= {"max_steps": 10**6, "enable_progress_bar": False, "val_check_interval": None}
    options |= {"limit_val_batches": 0, "enable_checkpointing": False, "log_every_n_steps": 100}
    trainer = hydra.utils.instantiate(
        options, callbacks=[EMA(sigma_rels=SIGMA_RELS), timed], logger=False, _convert_="all"
    )
    trainer.fit(stage, DataLoader(Same(batch), batch_size=None))
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "stage": stage_name,
        "way": way,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "steps": timed.steps,
        "start_s": timed.start_s,
        "steps_per_s": timed.steps / timed.spent,
        "clips_per_s": timed.steps * stage.recipe.global_batch / timed.spent,
        "peak_gib": peak and peak / 2**30,
        "plan_gib": estimate / 2**30,
        "deviation": peak and estimate / peak - 1,
        "loss": timed.loss,
    }


def estimated(config: dict[str, Any], options: dict[str, Any]) -> int:
    """The bytes of tensors that the plan counts for this config on this machine's device."""
    dry = DryStage(config, text_tokens=16, captions=[CAPTION])
    recipe, ranks = dry.stage.recipe, find_ranks(options, override=1)
    shape = recipe.crop or dry.stage.target.shape
    micro = recipe.global_batch // ranks.accumulate
    execution = Execution(
        cuda=torch.cuda.is_available(), precision=options["precision"], sigma_rels=SIGMA_RELS
    )
    clips = Clips(micro, *shape, dry.stage.target.fps)
    return int(dry.memory(clips, execution, accumulating=ranks.accumulate > 1).peak)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| stage | way | steps/s | clips/s | GiB | plan's GiB | deviation | first steps (s) |"]
    lines.append("|---" * 8 + "|")
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['stage']} | {row['way']} | failed: {row['error'][-200:]} ||||||")
            continue
        memory = ["–", f"{row['plan_gib']:.2f}", "–"]
        if row["peak_gib"]:
            memory = [f"{row['peak_gib']:.2f}", memory[1], f"{100 * row['deviation']:+.1f} %"]
        speed = [f"{row['steps_per_s']:.2f}", f"{row['clips_per_s']:.1f}"]
        cells = [row["stage"], row["way"], *speed, *memory, f"{row['start_s']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", default="base,ssr1")
    parser.add_argument("--ways", default=";".join(WAYS))
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--limit", type=float, default=540.0, help="time limit of this call, in s")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        row = measure(*options.row, options.seconds, options.small)
        (options.out / "row.json").write_text(json.dumps(row))
        return
    if not (torch.cuda.is_available() or options.small):
        raise SystemExit("cluster: needs CUDA, but this machine has none; try it with --small")
    options.out.mkdir(parents=True, exist_ok=True)
    path, began = options.out / "cluster.json", time.monotonic()
    rows = json.loads(path.read_text()) if path.is_file() else []
    rows = [row for row in rows if "error" not in row]  # failed rows are measured again
    wanted = [(s, w) for s in options.stages.split(",") for w in options.ways.split(";")]
    done = {(row["stage"], row["way"]) for row in rows}
    for stage, way in [pair for pair in wanted if pair not in done]:
        left = options.limit - (time.monotonic() - began)
        if left < 2 * options.seconds + 30:
            sys.stdout.write("the time limit is near: run the same command again to resume\n")
            break
        again = [*sys.argv, "--row", stage, way]
        env = {**os.environ, "MASTER_PORT": "29583"}
        try:
            done_row = subprocess.run(
                [sys.executable, *again], env=env, capture_output=True, text=True, timeout=left
            )
        except subprocess.TimeoutExpired:
            sys.stdout.write(f"{stage}, {way}: stopped by the time limit; run the command again\n")
            break
        if done_row.returncode:
            rows.append(
                {
                    "stage": stage,
                    "way": way,
                    "error": done_row.stderr.strip()[-1500:].replace("\n", " "),
                }
            )
        else:
            rows.append(json.loads((options.out / "row.json").read_text()))
        path.write_text(json.dumps(rows, indent=2))
    (options.out / "cluster.md").write_text(table(rows) + "\n")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
