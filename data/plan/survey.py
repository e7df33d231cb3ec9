"""Figures of a plan for the doctor: samples, buckets, unused budget and cropped pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from data.index.columns import Index
from data.plan.buckets import BucketPlan, Plan, Pool
from data.plan.packing import PackedPlan
from data.plan.sets import Chosen


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One shape of a plan: it has `clips`, in batches of `batch` (packed: 0), at the stage's `fps`.

    Shares from 0 to 1: `share` of the used token budget, `unused` share of a batch's budget,
    `cropped` share of its clips' pixels.
    """

    kind: str
    frames: int
    height: int
    width: int
    fps: float
    clips: int
    batch: int
    tokens: int
    share: float
    unused: float
    cropped: float


def _short_side(index: Index, rows: Integer[np.ndarray, " n"]) -> float:
    """The median short side."""
    sides = np.minimum(index.column("height")[rows], index.column("width")[rows])
    return float(np.median(sides))


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Counts of samples, the buckets, and the losses.

    `budget` is the number of tokens per batch, `unused` its unused share, `cropped` the share of
    pixels that are cropped; `cache_bytes` are bytes by cache; `unasked` are images that are not
    used because the stage requests none.
    """

    samples: int
    train: int
    held: int
    images: int
    unasked: int
    dropped: dict[str, int]
    budget: int
    buckets: list[Bucket]
    unused: float
    cropped: float
    cache_bytes: dict[str, float]
    batches_per_epoch: float
    decoded_bytes: float
    """Size of all decoded clips at the stage's size, whether they are cached or not."""
    stored_side: float
    """Median short side of the stored videos, in pixels."""
    needed_side: int
    """The largest short side to which a clip is scaled."""


def survey(
    plan: Plan,
    pool: Pool,
    *,
    chosen: Chosen,
    held: int,
    fps: float,
    cache_bytes: dict[str, float],
    decoded_bytes: float,
    needed_side: int,
) -> Survey:
    """The figures of a plan."""
    batch, fit = plan.batch, pool.fit
    groups = pool.by_shape()
    packed = isinstance(plan, PackedPlan)
    tokens = np.array([shape.tokens(batch.multiple) for shape in fit.shapes])
    spent = np.array([len(rows) for rows in groups]) * tokens
    if isinstance(plan, BucketPlan):
        shares = plan.turns.shares
    else:
        shares = pool.shares(tokens.tolist(), pool.rates(groups))
    buckets = []
    for shape, rows, cost, share in zip(fit.shapes, groups, tokens, shares, strict=True):
        if not len(rows):
            continue
        size = batch.size(shape)
        buckets.append(
            Bucket(
                kind=shape.kind,
                frames=shape.frames,
                height=shape.height,
                width=shape.width,
                fps=fps,
                clips=len(rows),
                batch=0 if packed else size,
                tokens=int(cost),
                share=float(share),
                unused=0.0 if packed else max(0.0, 1 - size * int(cost) / batch.budget),
                cropped=float(fit.cropped[rows].mean(dtype=np.float64)),
            )
        )
    unused = 1 - plan.used if isinstance(plan, PackedPlan) else 0.0
    unused += sum(b.share * b.unused for b in buckets)
    return Survey(
        samples=len(chosen.index),
        train=len(pool.rows),
        held=held,
        images=int(chosen.index.image[pool.rows].sum()),
        unasked=chosen.unasked,
        dropped=chosen.dropped,
        budget=batch.budget,
        buckets=buckets,
        unused=unused,
        cropped=float(fit.cropped[pool.rows].mean(dtype=np.float64)),
        cache_bytes=cache_bytes,
        batches_per_epoch=float(spent.sum() / (batch.budget * (1 - unused))),
        decoded_bytes=decoded_bytes,
        stored_side=_short_side(chosen.index, pool.rows),
        needed_side=needed_side,
    )
