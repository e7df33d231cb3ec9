"""The plan is a pure function of (rows, seed, batch number): random access, fair, for any world."""

from collections import Counter

import numpy as np
import pytest

from cascade.grid import Grid
from data.plan.buckets import BucketPlan, Held, Pool, RankPart
from data.plan.clip_shapes import Shape, consolidate, native, near
from data.plan.fit import BatchBudget, Fitter
from data.plan.mixture import Mixture
from data.plan.packing import PackedPlan, pack
from data.plan.shuffle import Shuffled, Stream

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


BATCHING = pytest.mark.parametrize("batching", ["fixed", "buckets", "packing"])


def test_turns_keep_their_shares_and_are_counted_without_a_walk():
    mixture = Mixture([0.7, 0.25, 0.05, 0.0001], seed=1, purpose="x", cycle=64)
    turns = mixture.turns(0, 100_000)
    fresh = Mixture([0.7, 0.25, 0.05, 0.0001], seed=1, purpose="x", cycle=64)
    for n in (100_000, 99_999, 777, 65, 64, 63, 1, 0):
        assert (fresh.before(n) == np.bincount(turns[:n], minlength=4)).all()
        assert np.abs(fresh.before(n) - n * fresh.shares).max() < 64
    assert (fresh.turns(555, 300) == turns[555:855]).all()
    with pytest.raises(ValueError, match="must not be negative, and one must be positive, got"):
        Mixture([0.5, -0.5], seed=1, purpose="x")


@pytest.mark.parametrize(("count", "window"), [(1000, 64), (1000, 4096), (1, 64), (64, 64)])
def test_each_epoch_takes_every_row_once_in_another_order(count, window):
    rows = np.arange(count) * 3
    shuffled = Shuffled(rows, seed=1, purpose="s", block=16, window=window)
    epochs = shuffled.take(0, 3 * count).reshape(3, count)
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs)
    assert count == 1 or (epochs[0] != epochs[1]).any()
    again = Shuffled(rows, seed=1, purpose="s", block=16, window=window)
    assert (again.take(count // 2, count) == epochs.ravel()[count // 2 : count // 2 + count]).all()


def test_large_sets_are_read_few_shards_at_a_time():
    shuffled = Shuffled(np.arange(100_000), seed=0, purpose="s", block=100, window=1000)
    touched = [len(np.unique(shuffled.take(i, 1000) // 100)) for i in range(0, 100_000, 1000)]
    assert max(touched) <= 20  # blocks of a window, or of two where the part begins inside one
    assert np.abs(np.diff(shuffled.take(0, 1000))).mean() > 100


def test_sets_are_mixed_by_weight_and_each_is_shuffled_by_itself():
    stream = Stream([np.arange(100), np.arange(1000, 1010)], [3, 1], seed=0, purpose="q")
    rows = stream.take(0, 4000)
    assert abs((rows < 1000).mean() - 0.75) < 0.01
    small = rows[rows >= 1000]
    assert all(sorted(small[i : i + 10]) == list(range(1000, 1010)) for i in range(0, 900, 10))
    assert (stream.take(501, 300) == rows[501:801]).all()
    assert sorted(stream.members(501, 300)) == sorted(rows[501:801])


@BATCHING
def test_a_batch_needs_no_history(batching):
    made = plan(batching, count=300)
    whole = [made.share(n, part=0, parts=1) for n in range(40)]
    fresh = plan(batching, count=300)
    assert all(fresh.share(n, part=0, parts=1) == whole[n] for n in (39, 20, 21, 3, 17, 0))
    other = plan(batching, count=300, seed=2)
    assert whole[:20] != [other.share(n, part=0, parts=1) for n in range(20)]


@BATCHING
@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_and_accumulation_divide_the_same_batch(batching, world, accumulate):
    if world * accumulate > 8:
        return
    made = plan(batching)
    ranks = [RankPart(plan=made, rank=r, world=world, accumulate=accumulate) for r in range(world)]
    for n in range(20):
        one = made.share(n, part=0, parts=1)
        parts = [r.draws(n * accumulate + micro) for micro in range(accumulate) for r in ranks]
        assert [draw for part in parts for draw in part] == one
        assert all(parts)
        weights = [r.weight(n * accumulate + m) for m in range(accumulate) for r in ranks]
        mean = [len(p) * w / len(p) for p, w in zip(parts, weights, strict=True)]
        assert sum(mean) / len(mean) == pytest.approx(1)
        if batching != "packing":
            assert len({len(part) for part in parts}) == 1
            assert set(weights) == {1.0}


@BATCHING
def test_every_sample_is_seen_equally_often_and_positions_are_its_own(batching):
    made, seen, positions = plan(batching, count=500), Counter(), []
    for n in range(300):
        for draw in made.share(n, part=0, parts=1):
            seen[draw.row] += 1
            positions.append(draw.position)
    rows = len(pool(batching, count=500).rows)
    mean = sum(seen.values()) / rows
    assert len(seen) == rows
    assert min(seen.values()) > mean - 4
    assert max(seen.values()) < mean + 4
    assert len(set(positions)) == len(positions)


@BATCHING
def test_a_batch_keeps_to_its_budget(batching):
    made = plan(batching)
    spent = []
    for n in range(60):
        draws = made.share(n, part=0, parts=1)
        if batching != "packing":
            assert len({d.shape for d in draws}) == 1
        spent.append(sum(d.shape.tokens(MULTIPLE) for d in draws) / made.batch.budget)
    assert max(spent) <= 1
    if batching != "fixed":
        assert np.mean(spent) > 0.94


@BATCHING
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_images_take_their_share_of_the_budget(batching, share):
    made = plan(batching, images=400, share=share)
    tokens = Counter()
    for n in range(200):
        for draw in made.share(n, part=0, parts=1):
            tokens[draw.shape.kind] += draw.shape.tokens(MULTIPLE)
    got = tokens["image"] / sum(tokens.values())
    if batching == "fixed":  # as many clips in each batch: the share is of batches
        kinds = [made.bucket(n).kind for n in range(1000)]
        got = kinds.count("image") / 1000
    assert got == pytest.approx(share, abs=0.04)


def test_weights_of_sets_hold_in_every_kind_of_batch():
    for batching in ("fixed", "buckets", "packing"):
        made = plan(batching, sets=(0, 2000), weights=(1.0, 3.0))
        rows = [d.row for n in range(300) for d in made.share(n, part=0, parts=1)]
        assert np.mean([row >= 2000 for row in rows]) == pytest.approx(0.75, abs=0.03)


def test_ranks_that_do_not_divide_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"not a multiple of 3 .* set data.divides=3"):
        plan().check_parts(3)
    with pytest.raises(ValueError, match=r"data.divides=8 sequences .* not a multiple of 16"):
        plan("packing").check_parts(16)
    with pytest.raises(ValueError, match=r"data.divides=5 must divide data.global_batch=32"):
        batch(divides=5)
    with pytest.raises(ValueError, match=r"image_share must be in \[0, 1\], got 2"):
        pool(share=2)
    with pytest.raises(ValueError, match="at least one video or image"):
        Pool(rows=np.zeros(0, int), fit=pool().fit)
    with pytest.raises(ValueError, match="has 2048 tokens, but a packed sequence has only 1024"):
        plan("packing", size=_half())


def _half():
    grid = Shape(kind="video", frames=8, height=64, width=64)
    return BatchBudget(clips=8, grid=grid, multiple=MULTIPLE, divides=8, same=False)


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


def test_packed_sequences_hold_every_clip_once_within_their_length():
    rng = np.random.default_rng(0)
    sizes = [50, 72, 100, 131, 175, 183]
    order = rng.integers(0, 6, 2000).tolist()
    sequences = pack(order, sizes, 1000)
    assert Counter(i for s in sequences for i in s) == Counter(order)
    filled = [sum(sizes[i] for i in s) for s in sequences]
    assert max(filled) <= 1000
    assert np.mean(filled) > 985


@pytest.mark.parametrize("world", [1, 2, 3])
def test_held_out_batches_have_one_shape_and_cover_all(world):
    held_pool = pool(count=60)
    held = Held(held_pool.rows, held_pool.fit, seed=0)
    ranks = [held.batches(rank=r, world=world, size=4) for r in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    for at in range(len(ranks[0])):
        assert len({len(r[at]) for r in ranks}) == 1
        assert len({d.shape for r in ranks for d in r[at]}) == 1
    seen = {d.position for r in ranks for b in r for d in b}
    assert seen == set(range(len(held)))


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
