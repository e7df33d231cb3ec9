"""Which samples suit a stage, judged from the index alone; the rest is counted and named."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64, Shaped

from data.index import read_about

log = logging.getLogger(__name__)

_SLACK = 0.5 + 1e-6


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a stage asks of a clip; zero sides where it may be enlarged."""

    frames: int
    fps: float
    min_height: int
    min_width: int
    images: bool = False
    captions: bool = True

    def __str__(self) -> str:
        size = f" of at least {self.min_height}×{self.min_width}" if self.min_height else ""
        return f"{self.frames} frames at {self.fps:g} fps{size}"


@dataclass(frozen=True, kw_only=True)
class Index:
    """The indices of all shards as one table; `shard` is each row's place in `shards`."""

    shards: Sequence[str]
    table: pa.Table
    fingerprint: str = ""
    """Of the bytes of all shards."""

    @classmethod
    def load(cls, shards: Sequence[str], paths: Sequence[Path]) -> "Index":
        """Read the sidecars of the shards; what is wrong with a shard is said."""
        tables, digest = [], blake2b(digest_size=16)
        for number, (shard, path) in enumerate(zip(shards, paths, strict=True)):
            about = read_about(path)
            digest.update(about["shard_hash"].encode())
            if about["error"]:
                log.warning("data: %s: %s", shard, about["error"])
            table = pq.read_table(path, read_dictionary=["kind", "codec", "reason"])
            number_column = pa.array(np.full(table.num_rows, number, dtype=np.int32))
            tables.append(table.replace_schema_metadata(None).append_column("shard", number_column))
        table = pa.concat_tables(tables).unify_dictionaries()
        return cls(shards=shards, table=table, fingerprint=digest.hexdigest())

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> Shaped[np.ndarray, " n"]:
        """One column as an array."""
        return np.asarray(self.table[name].to_numpy())

    def row(self, number: int) -> dict[str, Any]:
        """One sample's line."""
        return {n: self.table[n][number].as_py() for n in self.table.column_names}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows of the index that suit, and how many do not, by reason."""

    videos: Int64[np.ndarray, " n"]
    images: Int64[np.ndarray, " m"]
    dropped: dict[str, int]


def clip_length(duration: float, fps: float) -> int:
    """How many frames at `fps` a clip gives; it may end half a frame early."""
    return max(1, int(duration * fps + _SLACK))


def select(index: Index, need: Need) -> Selection:
    """The rows that suit; a stage of one frame takes videos and images as one pool.

    Raises:
        ValueError: none is left; it names every reason with its count and the nearest way out.
    """
    reasons = index.table["reason"]
    fit = np.asarray(pc.equal(reasons, "").to_numpy())
    counts = pc.value_counts(reasons.filter(pa.array(~fit))).to_pylist()
    dropped = {str(c["values"]): int(c["counts"]) for c in counts}
    image = np.asarray(pc.equal(index.table["kind"], "image").to_numpy())
    alone = need.frames == 1
    video_short = index.column("duration") * need.fps + _SLACK < need.frames
    small = (index.column("height") < need.min_height) | (index.column("width") < need.min_width)
    for reason, wrong in (
        ("duplicate key, in another shard", _repeated(index.column("hash"), fit)),
        ("no caption", np.logical_and(need.captions, ~index.column("captioned"))),
        ("an image, and image_share is 0", image & (not (need.images or alone))),
        (f"too short for {need.frames} frames at {need.fps:g} fps", ~image & video_short),
        (f"smaller than {need.min_height}×{need.min_width}", small),
    ):
        if count := int((fit & wrong).sum()):
            dropped[reason] = count
        fit &= ~wrong
    if not fit.any():
        raise ValueError(_nothing_left(index, need, dropped))
    return Selection(
        videos=np.flatnonzero(fit & (alone | ~image)),
        images=np.flatnonzero(fit & image & (not alone)),
        dropped=dropped,
    )


def _repeated(
    hashes: Shaped[np.ndarray, " n"], fit: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Whether a fit row's key came before in another fit row."""
    rows = np.flatnonzero(fit)
    repeated = np.zeros(len(hashes), dtype=bool)
    order = rows[np.argsort(hashes[rows], kind="stable")]
    repeated[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    return repeated


def _nothing_left(index: Index, need: Need, dropped: dict[str, int]) -> str:
    if not len(index):
        return f"data: no sample in {len(index.shards)} shards ({index.shards[0]} …)"
    said = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
    ways = []
    if any(r.startswith("too short") for r in dropped):
        longest = float(index.column("duration").max())
        ways.append(
            f"the longest clip lasts {longest:.2f} s, which is {clip_length(longest, need.fps)} "
            f"frames at {need.fps:g} fps: ask for fewer frames or a higher frame rate"
        )
    if any(r.startswith("smaller") for r in dropped):
        height, width = int(index.column("height").max()), int(index.column("width").max())
        ways.append(
            f"the largest has height {height}, width {width}: "
            "lower data.min_size, or set data.allow_upscale=true"
        )
    if "no caption" in dropped:
        ways.append("put key.txt, or `caption` in key.json, beside each key.mp4")
    return f"data: none of {len(index)} samples gives {need}: {said}. " + "; ".join(ways)


def split(
    index: Index, rows: Int64[np.ndarray, " n"], share: float
) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " v"]]:
    """(training rows, held-out rows) by the hash of the key, so that a sample never changes sides.

    Held out, in the order of their hashes, is about `share` of the rows: at least one where there
    are two, and never all.
    """
    if not 0 <= share < 1:
        raise ValueError(f"data.val_share must be in [0, 1), got {share}")
    ordered = by_hash(index, rows)
    count = int((index.column("hash")[rows] < np.uint64(share * 2.0**64)).sum())
    if share and len(rows) > 1:
        count = min(max(count, 1), len(rows) - 1)
    elif len(rows) <= 1:
        count = 0
    return np.sort(ordered[count:]), ordered[:count]


def by_hash(index: Index, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The rows in the order of their keys' hashes."""
    return rows[np.argsort(index.column("hash")[rows], kind="stable")]
