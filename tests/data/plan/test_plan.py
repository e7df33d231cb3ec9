"""The plan is a pure function of (rows, seed, batch number): random access, fair, for any world."""

from collections import Counter

import numpy as np
import pytest

from data.plan.buckets import Held, Pool, RankPart
from data.plan.mixture import Mixture
from data.plan.packing import pack
from data.plan.shuffle import Shuffled, Stream
from tests.data.plan.plans import MULTIPLE, batch, half, plan, pool

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
        plan("packing", size=half())


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
