"""The shapes of batches: as large as the budget allows, few, and with little cropped."""

from collections import Counter

import numpy as np
import pytest

from cascade.grid import Grid
from data.plan.buckets import BucketPlan, Pool
from data.plan.clip_shapes import Shape, consolidate, native, near
from data.plan.fit import BatchBudget, Fitter
from data.plan.packing import PackedPlan
from tests.data.plan.plans import MULTIPLE, batch, clips, fitter, plan, pool


def test_an_alternative_has_the_same_shape():
    for batching in ("fixed", "buckets", "packing"):
        made = plan(batching)
        draw = made.share(3, part=0, parts=1)[5]
        rows = {made.row(draw, attempt) for attempt in range(1, 8)}
        assert made.row(draw, 0) == draw.row
        assert len(rows) > 1
        shapes = pool(batching).fit
        assert {shapes.shapes[shapes.shape[row]] for row in rows} == {draw.shape}


@pytest.mark.parametrize(("size", "multiple"), [((64, 64), (1, 4, 4)), ((24, 40), (1, 2, 2))])
def test_shapes_keep_to_the_area_and_none_contains_another(size, multiple):
    sides = native(*size, multiple, 3.0)
    assert size in sides
    for h, w in sides:
        assert h * w <= size[0] * size[1]
        assert (h % multiple[1], w % multiple[2]) == (0, 0)
        assert not any((h2 >= h and w2 >= w) for h2, w2 in sides if (h2, w2) != (h, w))
    assert set(sides) <= {*near(*size, multiple, 3.0), *sides}
    assert all(h * w >= 0.75 * size[0] * size[1] for h, w in near(*size, multiple, 3.0))


def test_buckets_are_large_enough_for_their_batches_and_few():
    fit = fitter(max_buckets=5)(batch=batch(), **clips(3000))
    counts = np.bincount(fit.shape[fit.shape >= 0], minlength=len(fit.shapes))
    for shape, count in zip(fit.shapes, counts, strict=True):
        assert count == 0 or count >= batch().size(shape)
    assert max(Counter(s.frames for s in fit.shapes).values()) <= 5
    rare = np.zeros(4096, dtype=int)
    rare[2048] = 1
    assert len(consolidate([(64, 64), (32, 128)], rare, 10, 16)) == 1


def test_no_clip_is_enlarged_unless_it_may_be():
    columns = clips(2000)
    columns["height"] //= 6
    columns["width"] //= 6
    for batching in ("fixed", "buckets", "packing"):
        fit = fitter(batching)(batch=batch(), **columns)
        for row in np.flatnonzero(fit.shape >= 0):
            shape = fit.shapes[fit.shape[row]]
            assert shape.height <= columns["height"][row]
            assert shape.width <= columns["width"][row]
        small = (fit.shape < 0) & columns["fit"]
        assert small.any()
        grown = fitter(batching, allow_upscale=True)(batch=batch(), **columns)
        assert not ((grown.shape < 0) & columns["fit"]).any()
        if batching == "fixed":
            continue
        smaller = fitter(batching, sizes=(1.0, 0.5))(batch=batch(), **columns)
        assert ((smaller.shape < 0) & columns["fit"]).sum() < small.sum()


def test_lengths_fall_to_the_next_that_makes_a_batch():
    columns = clips(100)
    columns |= {"frames": np.where(np.arange(100) < 3, 16, 9), "fit": np.ones(100, bool)}
    fit = fitter()(batch=batch(), **columns)
    assert {fit.shapes[n].frames for n in fit.shape} == {8}
    few = {name: values[:3] for name, values in columns.items()}
    fit = fitter()(batch=batch(), **few)
    assert {fit.shapes[n].frames for n in fit.shape} == {16}


def test_a_crop_is_the_only_shape_and_is_never_packed():
    fit = fitter(crop=(8, 32, 32), lengths=(8,))(batch=batch(), **clips(200))
    assert [str(s) for s in fit.shapes if s.kind == "video"] == ["8×32×32"]
    with pytest.raises(ValueError, match="packing needs whole frames, but this stage trains on"):
        fitter("packing", crop=(8, 32, 32))
    with pytest.raises(ValueError, match="batching must be one of fixed, buckets, packing"):
        fitter("bins")


@pytest.mark.parametrize(("multiple", "most"), [((2, 4, 4), 0.05), ((2, 8, 8), 0.065)])
def test_little_is_wasted_or_cropped_of_real_sizes(multiple, most):
    grid = Grid(frames=16, height=128, width=128, fps=8)
    shape = Shape(kind="video", frames=16, height=128, width=128)
    size = BatchBudget(clips=64, grid=shape, multiple=multiple, divides=8, same=False)
    for batching, limit in (("buckets", most), ("packing", 0.02 if multiple[1] == 4 else 0.025)):
        fits = Fitter(
            grid=grid, multiple=multiple, crop=None, batching=batching, lengths=(16, 8, 4)
        )
        fit = fits(batch=size, **clips(10_000))
        made = Pool(rows=np.flatnonzero(fit.shape >= 0), fit=fit)
        kind = PackedPlan if batching == "packing" else BucketPlan
        plan = kind(made, batch=size, seed=0)
        spent = [
            sum(d.shape.tokens(multiple) for d in plan.share(n, part=0, parts=1)) / size.budget
            for n in range(140)
        ]
        assert 1 - np.mean(spent) + fit.cropped[made.rows].mean() < limit


def test_small_clips_fill_their_batches_and_the_plan_says_how_full():
    grid = Shape(kind="video", frames=64, height=64, width=64)
    size = BatchBudget(clips=8, grid=grid, multiple=MULTIPLE, divides=8, same=False)
    columns = clips(400) | {"frames": np.full(400, 4, np.int32), "fit": np.ones(400, bool)}
    fits = Fitter(
        grid=Grid(frames=64, height=64, width=64, fps=8),
        multiple=MULTIPLE,
        crop=None,
        batching="packing",
        lengths=(64, 4),
    )
    fit = fits(batch=size, **columns)
    made = PackedPlan(Pool(rows=np.arange(400), fit=fit), batch=size, seed=0)
    used = [
        sum(d.shape.tokens(MULTIPLE) for d in made.share(n, part=0, parts=1)) / size.budget
        for n in range(100)
    ]
    assert np.mean(used) == pytest.approx(made.used, abs=0.02)
    assert made.used > 0.9


def test_ever_so_many_shapes_are_told_apart():
    fits = Fitter(
        grid=Grid(frames=128, height=1088, width=1920, fps=24),
        multiple=(1, 8, 8),
        crop=None,
        batching="packing",
        lengths=(128, 64, 32, 16, 8, 4),
    )
    columns = clips(2000) | {"frames": np.full(2000, 16, np.int32), "fit": np.ones(2000, bool)}
    columns |= {"height": columns["height"] * 8, "width": columns["width"] * 8}
    grid = Shape(kind="video", frames=128, height=1088, width=1920)
    size = BatchBudget(clips=8, grid=grid, multiple=(1, 8, 8), divides=8, same=False)
    fit = fits(batch=size, **columns)
    assert (fit.shape >= 0).all()
    assert len(fit.shapes) <= 2000
