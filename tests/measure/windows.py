"""Measure how far windows and tiles are from the whole, and what they cost: figures of RESULTS.md.

    python tests/measure/windows.py OUT [--runs runs] [--stages demo/ssr1 ...]

The stages that `--runs` has get their trained weights, all others random ones. Cost is CPU time on
one thread, and the positions that the network evaluates, each divided by that of the whole video.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
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

STAGES = (
    *("demo/tsr1", "demo/ssr1"),
    *(f"imagen_video/{name}" for name in ("ssr1", "ssr2", "tsr2", "tsr3", "ssr3", "tsr1")),
    *(f"single_gpu/{name}" for name in ("ssr2", "tsr1", "ssr1")),
)
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
    parser.add_argument("--stages", nargs="+", default=STAGES)
    parser.add_argument("--grid", nargs=3, type=int, default=(40, 64, 96))
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)  # CPU time is then the time of the work alone
    rows = []
    for name in args.stages:
        stage, weights = stage_of(*name.split("/"), args.runs)
        for row in measure(stage, args.grid, args.steps):
            rows.append({"stage": name, "weights": weights, **row})
            print(rows[-1], flush=True)  # noqa: T201
            args.out.write_text(json.dumps(rows, indent=1))


def measure(stage: Any, sides: Sequence[int], steps: int) -> Iterator[dict[str, Any]]:
    """One row per sampler, number format and windows."""
    frames, height, width = sides
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    for sampler, cast in itertools.product((Heun(), Ancestral(gamma=0.3)), (False, True)):
        stage.sampling.sampler = sampler
        whole, seconds, positions = made(stage, grid, steps, Windows(), cast=cast)
        for windows in WINDOWS:
            video, took, evaluated = made(stage, grid, steps, windows, cast=cast)
            yield {
                "sampler": type(sampler).__name__,
                "numbers": "bf16" if cast else "float32",
                "frames": windows.frames,
                "tile": windows.tile,
                "radius": stage.net.receptive_field,
                "largest difference": float((video - whole).abs().max()),
                "time": took / seconds,
                "positions": evaluated / positions,
                "by the radius": by_the_radius(stage, grid, windows),
            }


def by_the_radius(stage: Any, grid: Grid, windows: Windows) -> float:
    """The positions that windows read, each with one radius more, divided by the whole's."""
    frames, pixels = stage.net.receptive_field
    sizes = (windows.frames, windows.tile, windows.tile)
    cost = 1.0
    for side, size, radius, cell in zip(
        grid.shape, sizes, (frames, pixels, pixels), (1, *stage.multiple[1:]), strict=True
    ):
        if size is not None:
            more = -(-radius // cell) * cell  # tiles begin and end at cells
            starts = range(0, side, size)
            read = sum(min(at + size + more, side) - max(at - more, 0) for at in starts)
            cost *= read / side
    return cost


def made(
    stage: Any, grid: Grid, steps: int, windows: Windows, *, cast: bool
) -> tuple[torch.Tensor, float, int]:
    """A video in these windows, its CPU seconds, and the positions that the network evaluated."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(1, 3, *grid.shape, generator=generator) * 2 - 1
    positions = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal positions
        positions += inputs[0][0, 0].numel()

    hook = stage.net.register_forward_pre_hook(count)
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        video = stage.sample(
            ["a red ball"],
            grid=grid,
            seeds=[0],
            low=stage.kind.reduce(clip),
            steps=steps,
            windows=windows,
        )
    seconds = time.process_time() - start
    hook.remove()
    return video, seconds, positions


if __name__ == "__main__":
    main()
