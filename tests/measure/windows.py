"""Measure how far windows and tiles are from the whole, and what they cost: figures of RESULTS.md.

    python tests/measure/windows.py OUT [--runs runs]

The demo's SR stages have their trained weights if `--runs` has them, all others random ones.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cascade.chain import open_stage
from cascade.diffusion.sampler import Ancestral, Heun
from cascade.entry import CONF
from cascade.grid import Grid
from cascade.request import Windows
from cascade.shrink import shrink

FRAMES = 64
CASES = {
    "demo": ("tsr1", "ssr1"),
    "single_gpu": ("tsr1", "ssr1"),
    "imagen_video": ("tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3"),
}
WINDOWS = [Windows(frames=n) for n in (4, 8, 16, 32)]
WINDOWS += [Windows(frames=16, tile=n) for n in (32, 64)]


def stage_of(cascade: str, name: str, runs: Path | None) -> tuple[Any, str]:
    """A stage in evaluation mode, and where its weights come from."""
    trained = None if runs is None else runs / cascade / name / "default" / "bundle"
    if trained is not None and trained.is_dir():
        return open_stage(trained).eval(), "trained"
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("train", overrides=[f"stage={cascade}/{name}"])
    config = OmegaConf.to_container(cfg.stage, resolve=True)
    torch.manual_seed(0)
    stage = hydra.utils.instantiate(shrink(config), _convert_="all")
    stage.configure_model()
    for parameter in stage.parameters():  # zero-initialised gates would hide every condition
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return stage.eval(), "random, shrunk"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=Path)
    args = parser.parse_args()
    rows = []
    for cascade, names in CASES.items():
        for name in names:
            stage, weights = stage_of(cascade, name, args.runs)
            rows += measure(stage, f"{cascade}/{name}", weights)
            args.out.write_text(json.dumps(rows, indent=1))


def measure(stage: Any, label: str, weights: str) -> list[dict[str, Any]]:
    """One row per sampler, number format and windows."""
    grid = Grid(frames=FRAMES, height=64, width=96, fps=stage.target.fps)
    radius = stage.net.receptive_field
    rows = []
    for sampler, cast in itertools.product((Heun(), Ancestral(gamma=0.3)), (False, True)):
        stage.sampling.sampler = sampler
        whole, seconds = made(stage, grid, Windows(), cast=cast)
        for windows in WINDOWS:
            video, took = made(stage, grid, windows, cast=cast)
            size = windows.frames or FRAMES
            rows.append(
                {
                    "stage": label,
                    "weights": weights,
                    "sampler": type(sampler).__name__,
                    "numbers": "bf16" if cast else "float32",
                    "frames": size,
                    "tile": windows.tile,
                    "radius": radius,
                    "largest difference": float((video - whole).abs().max()),
                    "time": took / seconds,
                    "by the radius": (size + 2 * radius[0]) / size,
                }
            )
            print(rows[-1], flush=True)  # noqa: T201
    return rows


def made(stage: Any, grid: Grid, windows: Windows, *, cast: bool) -> tuple[torch.Tensor, float]:
    """A video in these windows, and its seconds."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(1, 3, *grid.shape, generator=generator) * 2 - 1
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        video = stage.sample(
            ["a red ball"],
            grid=grid,
            seeds=[0],
            low=stage.kind.reduce(clip),
            steps=3,
            windows=windows,
        )
    return video, time.perf_counter() - start


if __name__ == "__main__":
    main()
