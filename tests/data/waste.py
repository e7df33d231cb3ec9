"""What a batch's budget loses, on sizes and durations drawn from real clips.

`python tests/data/waste.py SHARDS`: plans of 10,000 clips drawn from those of the shards, for grids
and patches of several sizes; empty share of the budget over an epoch, share of the pixels cropped
away, for fixed shapes, buckets and packing.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64)
    chosen = parser.parse_args()

    from cascade.grid import Grid
    from data.index.columns import Index
    from data.index.sidecar import ensure_index
    from data.plan.buckets import BucketPlan, Pool
    from data.plan.clip_shapes import Shape
    from data.plan.fit import BatchBudget, Fitter
    from data.plan.packing import PackedPlan
    from data.plan.select import Need
    from data.shards.store import find_shards

    shards = find_shards(chosen.shards)
    index = Index.load(shards, ensure_index(shards, depth="probe"))
    draw = np.random.default_rng(0)
    rows = draw.choice(np.flatnonzero((index.reason == 0) & ~index.image), chosen.clips)
    height, width = index.column("height")[rows], index.column("width")[rows]
    duration = index.column("duration")[rows] * draw.uniform(0.5, 1.5, chosen.clips)
    sys.stdout.write(f"{chosen.clips} clips drawn from {len(np.unique(rows))}\n")
    for size, patch in ((128, 4), (256, 8), (256, 16)):
        grid = Grid(frames=16, height=size, width=size, fps=8)
        multiple = (2, patch, patch)
        need = Need(frames=4, fps=8.0)
        frames = need.given(duration.astype(np.float32), index.column("fps")[rows])
        batch = {
            kind: BatchBudget(
                clips=chosen.batch,
                grid=Shape(kind="video", frames=16, height=size, width=size),
                multiple=multiple,
                divides=8,
                same=kind == "fixed",
            )
            for kind in ("fixed", "buckets", "packing")
        }
        for kind, one in batch.items():
            fitter = Fitter(
                grid=grid,
                multiple=multiple,
                crop=None,
                batching=kind,
                lengths=(16,) if kind == "fixed" else (16, 8, 4),
            )
            fit = fitter(
                fit=frames >= fitter.lengths[-1],
                image=np.zeros(len(rows), dtype=bool),
                frames=frames,
                height=height,
                width=width,
                batch=one,
            )
            pool = Pool(rows=np.flatnonzero(fit.shape >= 0), fit=fit)
            plan = (PackedPlan if kind == "packing" else BucketPlan)(pool, batch=one, seed=0)
            used, clips, number = [], 0, 0
            while clips < len(pool.rows):
                draws = plan.share(number, part=0, parts=1)
                used.append(sum(d.shape.tokens(multiple) for d in draws) / one.budget)
                clips, number = clips + len(draws), number + 1
            unused, cropped = 1 - np.mean(used), float(fit.cropped[pool.rows].mean(dtype=float))
            sys.stdout.write(
                f"{grid}, patch {multiple}, {kind:8s}: unused {unused:.2%}, cropped {cropped:.2%}, "
                f"together {unused + cropped:.2%}; {len(fit.shapes)} shapes, "
                f"{len(rows) - len(pool.rows)} clips too short or small\n"
            )


if __name__ == "__main__":
    main()
