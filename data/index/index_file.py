"""The file format of an index: its columns, writing and reading."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cascade.files.atomic import replacing

VERSION = 4
_ABOUT = b"cascade.index"
_KNOWN = {"version", "depth", "shard_size", "mark", "shard_hash", "error"}
_WORD = pa.dictionary(pa.int32(), pa.string())

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("content", pa.uint64()),  # hash of its media: decides the held-out split
        ("sample", pa.uint64()),  # hash of its key and of all its members: finds copies
        ("kind", _WORD),  # video, image or '', by content, not by file name
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("caption_offset", pa.int64()),  # -1: no such member
        ("caption_size", pa.int64()),
        ("state_offset", pa.int64()),
        ("state_size", pa.int64()),
        ("captioned", pa.bool_()),  # has a txt, or a `caption` in its json
        ("width", pa.int32()),  # as shown: upright, the sample aspect ratio applied
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.float32()),
        ("duration", pa.float64()),
        ("codec", _WORD),
        ("decord", pa.bool_()),  # an inspection at depth `decord` has verified decord's frames
        ("reason", _WORD),  # why no stage can use it; '' if it is usable
    ]
)
"""One row per sample, in one row group: a few columns of 10,000 rows are read in a millisecond.

`kind`, `codec` and `reason` are dictionary arrays: numbers, with each word stored once per file.
"""

_STORED = {
    "compression": "zstd",
    "use_dictionary": ["kind", "codec", "reason", "width", "height", "frames", "fps"],
    "column_encoding": {
        "key": "DELTA_BYTE_ARRAY",
        **dict.fromkeys(("offset", "caption_offset", "state_offset"), "DELTA_BINARY_PACKED"),
    },
    "write_statistics": False,
}


def read_about(path: Path) -> dict[str, Any]:
    """The metadata of an index about its shard: hash, members not read, damage.

    Raises:
        ValueError: the file is not an index of this format.
    """
    metadata = pq.read_schema(path).metadata or {}
    about = json.loads(metadata.get(_ABOUT, b"{}"))
    if not about.keys() >= _KNOWN:
        raise ValueError("no cascade.index of this format in its metadata")
    return dict(about)


def sort_of(reason: str) -> str:
    """A reason with its numbers replaced by N, so that similar reasons are counted together.

    Digits of a name stay: mp4, H.264.
    """
    return re.sub(r"(?<![\w.])\d+(\.\d+)?", "N", reason)


def write_index(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write an index atomically; a column is a sequence, an array or an Arrow array."""
    arrays = [
        column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, field.type)
        for field in SCHEMA
        for column in [columns.get(field.name, [])]
    ]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata({_ABOUT: json.dumps(about)}))
    with replacing(path) as part:
        pq.write_table(table, part, **_STORED)
