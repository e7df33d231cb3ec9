"""Selection of usable samples from the index; the others are counted by reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from cascade.times import SLACK, clip_length
from data.index.columns import Index


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a stage requires of a clip, before its shape is chosen.

    A clip must have `frames` frames at one of the frame rates `fps` × `rates`, and its own frame
    rate must be at least `min_rate` times that. `min_size` is (height, width).
    """

    frames: int
    fps: float
    rates: tuple[float, ...] = (1.0,)
    min_rate: float = 0.9
    min_size: tuple[int, int] = (0, 0)
    images: bool = False
    captions: bool = True

    def __str__(self) -> str:
        rates = " or ".join(f"{self.fps * rate:g}" for rate in self.rates)
        return f"{self.frames} frames at {rates} fps"

    def suits(self, rate: float, fps: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether clips have a sufficient frame rate, with a tolerance of 0.5 %."""
        return np.asarray(fps >= self.min_rate * rate * self.fps / 1.005)

    def given(
        self, duration: Float[np.ndarray, " n"], fps: Float[np.ndarray, " n"]
    ) -> Integer[np.ndarray, " n"]:
        """The number of frames of clips at their best rate; 0 if their own frame rate is too low.

        At most 32,767.
        """
        most = np.zeros(len(duration), dtype=np.int16)
        for rate in sorted(self.rates):
            length = duration * np.float32(self.fps * rate) + np.float32(SLACK)
            np.copyto(
                most, length.clip(1, 2**15 - 1), where=self.suits(rate, fps), casting="unsafe"
            )
        return most


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The usable rows, the number of frames of each, and counts of the others by reason."""

    fit: Bool[np.ndarray, " n"]
    frames: Integer[np.ndarray, " n"]
    dropped: dict[str, int]
    unasked: int
    """Number of images that are not used because the stage requests none; they are not dropped."""


def select(index: Index, need: Need, *, sets: Sequence[int] = (0,)) -> Selection:
    """Select the usable rows; a stage of one frame uses videos and images alike.

    `sets` are the first rows of the sets. A sample that its set has in another shard too (the same
    key, media, caption and json) is used once; samples of two sets are never taken for copies.

    Raises:
        ValueError: no row is usable; it names every reason with its count, and what to change.
    """
    fit = index.reason == 0
    counts = np.bincount(index.reason, minlength=len(index.reasons)).tolist()
    dropped = {
        reason: count
        for reason, count in zip(index.reasons, counts, strict=True)
        if reason and count
    }
    alone = need.frames == 1
    unasked = fit & index.image & (not (need.images or alone))
    fit &= ~unasked
    frames = need.given(index.column("duration"), index.column("fps"))
    video = ~index.image
    short = video & (frames < need.frames)
    height, width = need.min_size
    small = (index.column("height") < height) | (index.column("width") < width)
    for reason, wrong in (
        ("copy of a sample in another shard", _copies(index.column("sample"), fit, sets)),
        ("no caption", np.logical_and(need.captions, ~index.column("captioned"))),
        (f"fewer than {need.min_rate * need.fps * min(need.rates):g} fps", short & (frames == 0)),
        (f"too short for {need}", short),
        (f"smaller than {height}×{width}", small),
    ):
        if count := int((fit & wrong).sum()):
            dropped[reason] = count
        fit &= ~wrong
    if not fit.any():
        raise ValueError(nothing_left(index, need, dropped, int(unasked.sum())))
    frames[index.image] = 1
    return Selection(fit=fit, frames=frames, dropped=dropped, unasked=int(unasked.sum()))


def _copies(
    hashes: Integer[np.ndarray, " n"], fit: Bool[np.ndarray, " n"], sets: Sequence[int]
) -> Bool[np.ndarray, " n"]:
    """Whether a usable row has the hash of an earlier usable row of its set."""
    parts = [slice(first, end) for first, end in pairwise([*sets, len(hashes)])]
    return np.concatenate([_repeated(hashes[part], fit[part]) for part in parts])


def _repeated(
    hashes: Integer[np.ndarray, " n"], fit: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    repeated = np.zeros(len(hashes), dtype=bool)
    ordered = hashes[fit]
    ordered.sort()
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if len(twice):
        rows = np.flatnonzero(fit & np.isin(hashes, twice))
        _, first = np.unique(hashes[rows], return_index=True)
        repeated[np.delete(rows, first)] = True
    return repeated


def nothing_left(index: Index, need: Need, dropped: Mapping[str, int], unasked: int = 0) -> str:
    """The message that no sample is usable: every reason, and what to change."""
    if not len(index):
        return f"data: no sample in {len(index.shards)} shards ({index.shards[0]} …)"
    images = "images, which are used only with data.selection.image_share above 0"
    reasons = dict(dropped) | ({images: unasked} if unasked else {})
    counts = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
    ways = []
    if any(r.startswith(("too short", "fewer than")) for r in dropped):
        longest, rate = float(index.column("duration").max()), float(index.column("fps").max())
        fps = need.fps * max(need.rates)
        ways.append(
            f"the longest clip lasts {longest:.2f} s, which is {clip_length(longest, fps)} "
            f"frames at {fps:g} fps, and the highest frame rate is {rate:.3g}: train on fewer "
            "frames or another frame rate, or repeat frames with data.selection.min_rate=0"
        )
    if any(r.startswith(("smaller", "too small")) for r in dropped):
        height, width = int(index.column("height").max()), int(index.column("width").max())
        ways.append(
            f"the largest clip has height {height} and width {width}: lower "
            "data.selection.min_size, add smaller data.clips.sizes, or set "
            "data.clips.allow_upscale=true"
        )
    if "no caption" in dropped:
        ways.append(
            "add a key.txt, or a `caption` in key.json, to each key.mp4, or run `make captions`"
        )
    if unasked:
        ways.append("set data.selection.image_share to train on images")
    return f"data: none of {len(index)} samples has {need}: {counts}. " + "; ".join(ways)


def split(
    index: Index, rows: Integer[np.ndarray, " n"], share: float
) -> tuple[Integer[np.ndarray, " t"], Int64[np.ndarray, " v"]]:
    """(training rows, held-out rows) by the hash of the media: copies of a clip are on one side.

    About `share` of the rows are held out, in the order of their hashes: at least one of two or
    more different clips, and never all.
    """
    if not 0 <= share < 1:
        raise ValueError(f"data.validation.share must be in [0, 1), got {share}")
    hashes = index.column("content")[rows]
    least, most = (hashes.min(), hashes.max()) if len(rows) else (0, 0)
    if not share or least == most:
        return rows, rows[:0].astype(np.int64)
    out = hashes < np.uint64(share * 2.0**64)
    out[hashes == least] = True
    out[hashes == most] = False
    held = np.flatnonzero(out)
    order = np.argsort(hashes[held], kind="stable")
    return rows[~out], rows[held[order]].astype(np.int64)
