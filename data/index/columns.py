"""The indices of all shards as arrays, one per column; a sample's full row is read on demand.

Only the columns that a plan needs are in memory: ten million samples take a few hundred megabytes.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Integer, Shaped

from data.index.index_file import read_about, sort_of
from data.shards.caption import KEY, find_captions, read_table

log = logging.getLogger(__name__)

_COLUMNS = {
    "content": np.uint64,
    "sample": np.uint64,
    "width": np.uint16,
    "height": np.uint16,
    "fps": np.float32,
    "duration": np.float32,
    "captioned": np.bool_,
}
_LINE = (
    *("key", "offset", "size", "caption_offset", "caption_size", "state_offset", "state_size"),
    *("width", "height", "decord"),
)
_KEPT_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class Index:
    """The rows of all shards in order; row n is row n - starts[shard] of its shard's index."""

    shards: Sequence[str]
    paths: Sequence[Path]
    starts: Integer[np.ndarray, " starts"]
    columns: dict[str, Shaped[np.ndarray, " n"]]
    image: Bool[np.ndarray, " n"]
    reason: Integer[np.ndarray, " n"]
    """Number of the reason in `reasons`, of which the first is '': usable."""
    reasons: Sequence[str]
    fingerprint: str
    """A hash of the bytes of all shards, of their new captions, and of the loaded columns."""
    _lines: "Lines" = field(repr=False)

    @classmethod
    def load(cls, shards: Sequence[str], paths: Sequence[Path]) -> "Index":
        """Read the indices of the shards; damage of a shard is logged as a warning."""
        digest = blake2b(digest_size=16)
        counts = [pq.read_metadata(path).num_rows for path in paths]
        starts = np.cumsum([0, *counts])
        columns = {name: np.empty(starts[-1], dtype) for name, dtype in _COLUMNS.items()}
        image, reason = np.empty(starts[-1], dtype=np.bool_), np.empty(starts[-1], dtype=np.int16)
        words: dict[str, int] = {"": 0}
        marks: list[tuple[Path, str]] = []
        for shard, path, first, end in zip(shards, paths, starts, starts[1:], strict=False):
            about = read_about(path)
            digest.update(about["shard_hash"].encode())
            if about["error"]:
                log.warning("data: %s: %s", shard, about["error"])
            table = pq.ParquetFile(path).read([*_COLUMNS, "kind", "reason"], use_threads=False)
            for name, column in columns.items():
                column[first:end] = _numbers(table[name], column.dtype)
            image[first:end] = _codes(table["kind"], {"": 0, "image": 1}) == 1
            reason[first:end] = _codes(table["reason"], words)
            made = find_captions(shard, path)
            marks.append((made, _mark(made)))
            if made.is_file():
                digest.update(blake2b(made.read_bytes()).digest())
                columns["captioned"][first:end] |= _captioned(path, made)
        for column in (*columns.values(), image, reason == 0):
            digest.update(column.data)
        pa.default_memory_pool().release_unused()
        return cls(
            shards=shards,
            paths=paths,
            starts=starts,
            columns=columns,
            image=image,
            reason=reason,
            reasons=list(words),
            fingerprint=digest.hexdigest(),
            _lines=Lines(paths, marks),
        )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str) -> Shaped[np.ndarray, " n"]:
        """One column as an array."""
        return self.columns[name]

    def forget(self, name: str) -> None:
        """Free the memory of a column that is no longer needed."""
        self.columns.pop(name, None)

    def shard(self, row: int) -> int:
        """The number of a row's shard."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def row(self, row: int) -> dict[str, Any]:
        """The full row of a sample: its spans, its properties, and the new captions `made`."""
        shard = self.shard(row)
        return self._lines.read(shard, row - int(self.starts[shard])) | {
            "shard": self.shards[shard]
        }


class Lines:
    """Full rows of the indices with the new captions; the latest shards are kept in memory.

    `captions` are the files of captions, each with its version mark when it was first read.
    """

    def __init__(self, paths: Sequence[Path], captions: Sequence[tuple[Path, str]]) -> None:
        self.paths, self.captions = paths, captions
        self._kept: OrderedDict[int, tuple[pa.Table, pa.Table | None]] = OrderedDict()
        self._bytes = 0

    def read(self, shard: int, line: int) -> dict[str, Any]:
        """A row of a shard's index.

        Raises:
            ValueError: the captions have changed since the run began.
        """
        if shard not in self._kept:
            self._kept[shard] = tables = self._tables(shard)
            self._bytes += _size(tables)
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(shard)
        table, made = self._kept[shard]
        found: dict[str, Any] = {name: table[name][line].as_py() for name in _LINE}
        captions = {} if made is None else {n: made[n][line].as_py() for n in made.column_names}
        return found | {"made": {name: text for name, text in captions.items() if text}}

    def _tables(self, shard: int) -> tuple[pa.Table, pa.Table | None]:
        """The index of a shard, and its captions in the same order."""
        table = pq.ParquetFile(self.paths[shard]).read(list(_LINE), use_threads=False)
        path, mark = self.captions[shard]
        if _mark(path) != mark:
            raise ValueError(
                f"data: {path} has changed since the run began; restore the old file and resume, "
                "or train on the new one in another run"
            )
        if not mark:
            return table.combine_chunks(), None
        made = read_table(path)
        order = pc.index_in(table["key"], value_set=made[KEY].combine_chunks())
        return table.combine_chunks(), made.drop_columns([KEY]).take(order).combine_chunks()


def _size(tables: tuple[pa.Table, pa.Table | None]) -> int:
    return sum(table.nbytes for table in tables if table is not None)


def _mark(path: Path) -> str:
    """The version mark of a file: it differs after a change; '' if the file does not exist."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return ""
    return f"{stat.st_size}/{stat.st_mtime_ns}"


def _numbers(column: pa.ChunkedArray, dtype: np.dtype[Any]) -> Shaped[np.ndarray, " n"]:
    values = np.asarray(column.to_numpy())
    return values.clip(0, np.iinfo(dtype).max) if dtype == np.uint16 else values


def _codes(column: pa.ChunkedArray, words: dict[str, int]) -> Integer[np.ndarray, " n"]:
    """Each word's number in `words`; new words are added."""
    parts = []
    for chunk in column.chunks:
        coded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        sorts = [sort_of(word) for word in coded.dictionary.to_pylist()]
        known = [words.setdefault(sort, len(words)) for sort in sorts]
        parts.append(np.array(known, dtype=np.int16)[coded.indices.to_numpy()])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16)


def _captioned(index: Path, made: Path) -> Bool[np.ndarray, " n"]:
    """Whether a caption was made for each line of an index."""
    keys, table = pq.read_table(index, columns=["key"])["key"], read_table(made)
    some = np.zeros(len(table), dtype=np.bool_)
    for name in table.column_names:
        if name != KEY:
            some |= np.asarray(pc.fill_null(pc.greater(pc.utf8_length(table[name]), 0), False))
    have = table[KEY].filter(pa.array(some)).combine_chunks()
    return np.asarray(pc.is_in(keys, value_set=have))
