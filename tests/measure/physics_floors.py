"""Measure what both parsers of the world of physics read from right videos: figures of RESULTS.md.

    python tests/measure/physics_floors.py [--clips 24] [--sizes 32 64 128 256]

A row per law and size: the mean velocity error along x, in units per second, of each parser.
"""

import argparse

import numpy as np
import torch

from cascade.eval.motion import motion
from cascade.grid import Grid
from data.worlds.dynamics import LAWS
from data.worlds.physics import GIVEN, heldout_prompts, true_places
from data.worlds.read_physics import READERS
from data.worlds.truth import physics_truth


def floor(law: str, size: int, clips: int) -> dict[str, float]:
    """Parser → mean velocity error after the given frames."""
    grid = Grid(frames=32, height=size, width=size, fps=10)
    errors: dict[str, list[float]] = {name: [] for name in READERS}
    for _, state in heldout_prompts(clips, law=law):
        true = true_places(state, grid)
        counted = true.counted.copy()
        counted[:, : GIVEN - 1] = False
        video = physics_truth(state, grid, 0)
        for name, reader in READERS.items():
            read = reader(video, len(state.balls))
            found = motion(read, true.places, counted, fps=grid.fps, masses=true.masses)
            errors[name].append(found.velocity)
    return {name: float(np.nanmean(each)) for name, each in errors.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for law in LAWS:
        for size in args.sizes:
            row = {name: round(value, 4) for name, value in floor(law, size, args.clips).items()}
            print(law, size, row, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
