"""Plans of clips of drawn sizes."""

import numpy as np

from cascade.grid import Grid
from data.plan.buckets import BucketPlan, Pool
from data.plan.clip_shapes import Shape
from data.plan.fit import BatchBudget, Fitter
from data.plan.packing import PackedPlan

GRID = Grid(frames=16, height=64, width=64, fps=8)


MULTIPLE = (2, 4, 4)


SIZES = [(240, 426), (426, 240), (256, 340), (480, 480), (272, 640), (360, 640), (720, 480)]


def clips(count, seed=0, images=0):
    """Sizes and lengths as real clips have them."""
    rng = np.random.default_rng(seed)
    height, width = np.array(SIZES)[rng.integers(0, len(SIZES), count)].T
    frames = np.minimum(16, rng.lognormal(2.5, 0.8, count)).astype(np.int32)
    image = np.arange(count) < images
    return {
        "height": (height * rng.uniform(0.9, 1.1, count)).astype(np.int32),
        "width": (width * rng.uniform(0.9, 1.1, count)).astype(np.int32),
        "frames": np.where(image, 1, frames),
        "image": image,
        "fit": image | (frames >= 4),
    }


def batch(clips=32, divides=8, same=False):
    grid = Shape(kind="video", frames=16, height=64, width=64)
    return BatchBudget(clips=clips, grid=grid, multiple=MULTIPLE, divides=divides, same=same)


def fitter(batching="buckets", **options):
    options = {"crop": None, "lengths": (16, 8, 4), "multiple": MULTIPLE} | options
    return Fitter(grid=GRID, batching=batching, **options)


def pool(batching="buckets", count=3000, sets=(0,), weights=None, images=0, share=0.0):
    columns = clips(count, images=images)
    fit = fitter(batching)(batch=batch(), **columns)
    rows = np.flatnonzero(fit.shape >= 0)
    return Pool(rows=rows, fit=fit, sets=sets, weights=weights, image_share=share)


def plan(batching="buckets", *, seed=1, size=None, **options):
    made, size = pool(batching, **options), size or batch(same=batching == "fixed")
    if batching == "packing":
        return PackedPlan(made, batch=size, seed=seed, window=4096)
    return BucketPlan(made, batch=size, seed=seed)


def half():
    grid = Shape(kind="video", frames=8, height=64, width=64)
    return BatchBudget(clips=8, grid=grid, multiple=MULTIPLE, divides=8, same=False)
