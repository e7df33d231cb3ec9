"""Writes a world as WebDataset shards; the same arguments give the same bytes.

Run `python -m data.worlds.world_shards FOLDER --clips 4000`, or set `make_shapes` as the `make` of
a data module. A run that was stopped can be continued.
"""

import argparse
import hashlib
import io
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.progress import track
from webdataset import TarWriter

from cascade import keyed
from cascade.cores import cores
from cascade.files.atomic import replacing, write_atomic
from cascade.grid import Grid
from data.worlds.encode_clip import encode_mp4
from data.worlds.minute import Minute
from data.worlds.physics import Physics
from data.worlds.shapes import Shapes
from data.worlds.world import World

log = logging.getLogger(__name__)

RECIPE = "world.json"
"""The file with the recipe, beside the shards."""


def make_shapes(
    folder: Path,
    *,
    clips: int = 4000,
    grid: Grid | None = None,
    shard_size: int = 250,
    seed: int = 0,
    stills: float = 0.0,
    others: Sequence[Sequence[float]] = (),
    workers: int | None = None,
) -> None:
    """Write `clips` training samples of the world of shapes; see `make_shards`."""
    grid = grid or Grid(frames=16, height=32, width=32, fps=8)
    make_shards(
        folder,
        world=Shapes(duration=grid.duration),
        clips=clips,
        grid=grid,
        shard_size=shard_size,
        seed=seed,
        stills=stills,
        others=others,
        workers=workers,
    )


def make_minute(
    folder: Path,
    *,
    clips: int,
    grid: Grid,
    shard_size: int = 250,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write `clips` training samples of the world of a minute; see `make_shards`."""
    make_shards(
        folder,
        world=Minute(duration=grid.duration),
        clips=clips,
        grid=grid,
        shard_size=shard_size,
        seed=seed,
        workers=workers,
    )


def make_physics(
    folder: Path,
    *,
    law: str,
    clips: int,
    grid: Grid,
    shard_size: int = 250,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write `clips` training samples of the world of physics; see `make_shards`."""
    make_shards(
        folder,
        world=Physics(law, duration=grid.duration),
        clips=clips,
        grid=grid,
        shard_size=shard_size,
        seed=seed,
        workers=workers,
    )


def make_shards(
    folder: Path,
    *,
    world: World[Any],
    clips: int,
    grid: Grid,
    shard_size: int,
    seed: int,
    stills: float = 0.0,
    others: Sequence[Sequence[float]] = (),
    workers: int | None = None,
) -> None:
    """Write `clips` samples of `world` as `folder`/NAME-000000.tar and so on.

    A sample is KEY.mp4, KEY.txt and KEY.json. Shards are written atomically; existing ones are
    kept.

    A share `stills` of the samples are images: one frame, KEY.png, with a caption without motion.
    Each of `others`, (height, width, share), is rendered at this size instead of the grid's.
    `workers` is the number of processes, by default one per core that this process may use.

    Raises:
        ValueError: the folder has shards of another recipe, or shares are invalid.
    """
    if clips < 1 or shard_size < 1 or not 0 <= stills <= 1:
        raise ValueError(
            f"{world.name}: clips and shard_size must be positive, and stills in [0, 1], got "
            f"{clips}, {shard_size} and {stills:g}"
        )
    spec = WorldSpec(world=world, grid=grid, seed=seed, stills=stills, others=others)
    _claim(folder, {**spec.recipe, "clips": clips, "shard_size": shard_size})
    shards = {
        folder / f"{world.name}-{first // shard_size:06d}.tar": range(
            first, min(first + shard_size, clips)
        )
        for first in range(0, clips, shard_size)
    }
    missing = {path: span for path, span in shards.items() if not path.exists()}
    workers = min(workers or cores(), len(missing))
    log.info("%s: %d of %d shards to write to %s", world.name, len(missing), len(shards), folder)
    title = f"{world.name}: {clips} clips"
    if workers <= 1:
        for path, span in track(missing.items(), description=title, disable=not missing):
            spec.write(path, span)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(spec.write, path, span) for path, span in missing.items()]
        for done in track(as_completed(futures), description=title, total=len(futures)):
            done.result()


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """The settings of all samples in a set of shards."""

    world: World[Any]
    grid: Grid
    seed: int
    stills: float
    others: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        shares = [share for _, _, share in self.others]
        if any(share < 0 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(
                f"{self.world.name}: the shares of others must be at least 0, and at most 1 in "
                f"all, got {shares}"
            )

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that the bytes of a sample depend on, as JSON."""
        return {
            **self.world.recipe,
            "grid": [*self.grid.shape, self.grid.fps],
            "seed": self.seed,
            "stills": self.stills,
            **({"others": [list(other) for other in self.others]} if self.others else {}),
        }

    @property
    def prefix(self) -> str:
        """The prefix of all keys; it is different for another recipe."""
        text = json.dumps(self.recipe, sort_keys=True)
        return f"{self.world.name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    def write(self, path: Path, span: range) -> None:
        """Write the samples of `span` as one shard, atomically."""
        with (
            replacing(path) as part,
            part.open("wb") as stream,
            TarWriter(stream, mtime=0, encoder=False) as shard,
        ):
            for position in span:
                shard.write(self.sample(position))

    def grid_of(self, position: int) -> Grid:
        """The grid on which the sample at `position` is rendered."""
        left = keyed.uniform(self.seed, position, "world/grid")
        for height, width, share in self.others:
            if left < share:
                return replace(self.grid, height=int(height), width=int(width))
            left -= share
        return self.grid

    def sample(self, position: int) -> dict[str, Any]:
        """The sample at `position`: its key and the bytes of its files."""
        state = self.world.sample(self.seed, position)
        phrasing = keyed.key(self.seed, position, "world/phrasing") % self.world.phrasings
        still = keyed.uniform(self.seed, position, "world/still") < self.stills
        grid = self.grid_of(position)
        frames = self.world.render(state, grid)
        record = {
            "world": self.world.name,
            "state": self.world.to_json(state),
            "frames": 1 if still else grid.frames,
            "height": grid.height,
            "width": grid.width,
        }
        if still:
            index = keyed.key(self.seed, position, "world/frame") % grid.frames
            record["time"] = index / grid.fps
            media = {"png": _png(frames[index])}
        else:
            record["fps"] = grid.fps
            media = {"mp4": encode_mp4(frames, grid.fps)}
            if track := self.world.track(state, grid):
                record["track"] = track
        return {
            "__key__": f"{self.prefix}-{position:08d}",
            "txt": self.world.caption(state, phrasing, moving=not still).encode(),
            "json": json.dumps(record).encode(),
            **media,
        }


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="png")
    return out.getvalue()


def _claim(folder: Path, recipe: dict[str, Any]) -> None:
    """Record the recipe in a new folder, or compare it with the recipe of an old one."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(".*.part"):
        if time.time() - part.stat().st_mtime > 3600:
            part.unlink(missing_ok=True)
    record = folder / RECIPE
    if record.exists():
        found = json.loads(record.read_text())
        differs = {k for k in {*found, *recipe} if found.get(k) != recipe.get(k)}
        if differs:
            raise ValueError(
                f"{folder}: its shards were made with "
                f"{ {k: found.get(k) for k in sorted(differs)} }, but now "
                f"{ {k: recipe.get(k) for k in sorted(differs)} } is requested; "
                "choose another folder, or remove this one"
            )
        return
    if any(folder.glob("*.tar")):
        raise ValueError(f"{folder} has shards but no {RECIPE}; choose another folder")
    write_atomic(record, json.dumps(recipe, indent=1).encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write shards of the world of shapes from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.worlds.world_shards", description=main.__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--shard-size", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stills", type=float, default=0.0, help="share of still images")
    parser.add_argument("--workers", type=int, default=None)
    chosen = parser.parse_args(arguments)
    make_shapes(
        chosen.folder,
        clips=chosen.clips,
        grid=Grid(frames=chosen.frames, height=chosen.size, width=chosen.size, fps=chosen.fps),
        shard_size=chosen.shard_size,
        seed=chosen.seed,
        stills=chosen.stills,
        workers=chosen.workers,
    )


if __name__ == "__main__":
    main()
