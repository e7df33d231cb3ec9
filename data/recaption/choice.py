"""The clips that get new captions: all, those without one, or those that share one."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from data.shards.caption import read_beside

log = logging.getLogger(__name__)

Only = Literal["missing", "shared"]
Pairs = Sequence[tuple[str, Path]]
"""Shards with their indices."""


def choose_clips(pairs: Pairs, only: Only) -> dict[str, set[str]]:
    """The keys of the chosen clips of each shard.

    `missing`: without a caption; `shared`: with a caption that another clip of these shards has.
    """
    if only == "missing":
        return {
            shard: {row["key"] for row in _usable(index) if not row["captioned"]}
            for shard, index in pairs
        }
    texts = {shard: dict(_captions(shard, index)) for shard, index in pairs}
    counts = Counter(text for each in texts.values() for text in each.values() if text)
    return {
        shard: {key for key, text in each.items() if counts[text] > 1}
        for shard, each in texts.items()
    }


def _usable(index: Path) -> Iterator[Mapping[str, Any]]:
    return (row for row in pq.read_table(index).to_pylist() if not row["reason"])


def _captions(shard: str, index: Path) -> Iterator[tuple[str, str]]:
    """The key and the present caption of each usable clip."""
    for row in _usable(index):
        try:
            text, state = read_beside(shard, row)
        except ValueError as error:
            log.warning("%s: %s: %s", shard, row["key"], error)
            continue
        stated = state.get("caption")
        yield row["key"], text.strip() or (stated.strip() if isinstance(stated, str) else "")
