"""Plants one fault in a stage and trains it: which check says so, and after how many steps?

    python tests/cascade/faults.py [--faults sound text_cut …] [--steps 1500] [--to FOLDER]
        [--overrides trainer.val_check_interval=250 …]

Each fault is a run of its own in a process of its own; prints a row per fault.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def text_cut() -> None:
    """The network reads no text."""
    _blind("cascade.nn.dit.DiT")


def text_lost() -> None:
    """Captions are lost before the text encoder."""
    import stages.examples

    read = stages.examples._read

    def lost(stage: Any, batch: dict[str, Any], *, purpose: str) -> Any:
        return read(stage, {**batch, "caption": [""] * len(batch["caption"])}, purpose=purpose)

    stages.examples._read = lost


def low_cut() -> None:
    """The network does not get the video of the previous stage."""
    from dataclasses import replace

    from stages.stage import Stage

    inputs = Stage.inputs

    def cut(self: Any, z: Any, cond: Any) -> Any:
        return inputs(self, z, replace(cond, low=cond.low * 0))

    Stage.inputs = cut


def pixels_wrong() -> None:
    """Pixels become [0, 1] instead of [-1, 1]."""
    import stages.stage

    stages.stage.to_float = lambda video: video.float() / 255


def codec_wrong() -> None:
    """The decoder gives another brightness than the encoder took."""
    from cascade.codec import Pixels

    Pixels.decode = lambda _, z: 0.7 * z + 0.3


def labels_shuffled() -> None:
    """Every clip has the caption of another."""
    import data.train.loader

    collate = data.train.loader.collate

    def shuffled(samples: Any) -> Any:
        batch = collate(samples)
        return {**batch, "caption": [*batch["caption"][-1:], *batch["caption"][:-1]]}

    data.train.loader.collate = shuffled


def spike() -> None:
    """Step 120 has a loss a thousand times as high."""
    _at({120}, 1000.0)


def nan() -> None:
    """Step 120 has a loss that is no number."""
    _at({120}, float("nan"))


def nan_for_ever() -> None:
    """From step 120 on, every loss is no number."""
    _at(set(range(120, 100_000)), float("nan"))


def nan_at_once() -> None:
    """The very first loss is no number."""
    _at({0}, float("nan"))


def _blind(path: str) -> None:
    import importlib

    module, _, name = path.rpartition(".")
    network: Any = getattr(importlib.import_module(module), name)
    forward = network.forward
    network.forward = lambda self, x, logsnr, text, mask, scalars: forward(
        self, x, logsnr, text * 0, mask, scalars
    )


def _at(steps: set[int], factor: float) -> None:
    from stages.stage import Stage

    step = Stage.training_step

    def spoiled(self: Any, batch: dict[str, Any], number: int) -> Any:
        out = step(self, batch, number)
        return {**out, "loss": out["loss"] * factor} if self.global_step in steps else out

    Stage.training_step = spoiled


#: By name: the stage, what is planted, and overrides.
FAULTS: dict[str, tuple[str, Callable[[], None] | None, list[str]]] = {
    "sound": ("demo/base", None, []),
    "sound_ssr": ("demo/ssr1", None, []),
    "sound_tsr": ("demo/tsr1", None, []),
    "text_cut": ("demo/base", text_cut, []),
    "text_cut_without_start": ("demo/base", text_cut, ["~callbacks.start"]),
    "text_lost": ("demo/base", text_lost, []),
    "low_cut": ("demo/ssr1", low_cut, []),
    "low_cut_without_start": ("demo/ssr1", low_cut, ["~callbacks.start"]),
    "pixels_wrong": ("demo/base", pixels_wrong, []),
    "codec_wrong": ("demo/base", codec_wrong, []),
    "labels_shuffled": ("demo/base", labels_shuffled, []),
    "rate_100": (
        "demo/base",
        None,
        ["stage.train.optimizer.muon_lr=2.0", "stage.train.optimizer.adamw_lr=0.2"],
    ),
    "rate_100_ssr": (
        "demo/ssr1",
        None,
        ["stage.train.optimizer.muon_lr=2.0", "stage.train.optimizer.adamw_lr=0.2"],
    ),
    "spike": ("demo/base", spike, []),
    "nan": ("demo/base", nan, []),
    "nan_for_ever": ("demo/base", nan_for_ever, []),
    "nan_at_once": ("demo/base", nan_at_once, []),
}
#: What a check says, by the check.
SAID = {
    "start": r"failed the checks before the first step:\s*\n\s*- (.*)",
    "worth": r"step (\d+): (`\w+` has no effect.*?);",
    "guard, stop": r"step (\d+) skipped: ([^;]*; samples.*?; .*?):",
    "guard, skip": r"step (\d+) skipped: ([^;]*);",
    "diagnostics": r"step (\d+): (for \d+ steps the loss.*?):",
}


def plant(fault: str, arguments: list[str]) -> None:
    """In a process of its own: plant the fault and train."""
    planted = FAULTS[fault][1]
    if planted is not None:
        planted()
    sys.argv = ["cascade.train", *arguments]
    from cascade.train import main

    main()


def run(fault: str, *, steps: int, to: Path, overrides: list[str]) -> dict[str, Any]:
    """Which check says what, after how many steps."""
    stage, _, own = FAULTS[fault]
    command = [
        *(sys.executable, __file__, "--plant", fault, f"stage={stage}", f"name='{fault}'"),
        *(f"paths.runs={to}", f"data.shards={ROOT}/runs/shards/shapes", "logger=csv"),
        *(f"trainer.max_steps={steps}", "trainer=cpu", "trainer.enable_progress_bar=false"),
        *("callbacks.samples.every_n_steps=100000", *own, *overrides),
    ]
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    row: dict[str, Any] = {"fault": fault, "check": "none", "steps": None, "said": ""}
    found = []
    for check, pattern in SAID.items():
        for match in re.finditer(pattern, said):
            *step, what = match.groups()
            found.append((int(step[0]) if step else 0, check, what.strip()))
    if found:
        row["steps"], row["check"], row["said"] = min(found, key=lambda one: one[0])
    return row | {
        "ended": "error" if done.returncode else "whole",
        "times": len(found),
        "seconds": round(time.monotonic() - began),
        "last": said.strip().splitlines()[-1][-200:] if done.returncode else "",
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--plant")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--to", type=Path, default=ROOT / "runs" / "faults")
    parser.add_argument("--overrides", nargs="*", default=[])
    known, rest = parser.parse_known_args()
    if known.plant:
        plant(known.plant, rest)
        return
    for fault in known.faults:
        row = run(fault, steps=known.steps, to=known.to, overrides=known.overrides)
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
