"""The file of an index: its columns, and how it is written and read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cascade.files.atomic import replacing

VERSION = 3
_ABOUT = b"cascade.index"
_KNOWN = {"version", "depth", "shard_size", "mark", "shard_hash", "error"}
_WORD = pa.dictionary(pa.int32(), pa.string())

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("hash", pa.uint64()),  # of the key: decides the held-out split
        ("kind", _WORD),  # what the bytes are, whatever the name says: video, image or ''
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("caption_offset", pa.int64()),  # -1: no such member
        ("caption_size", pa.int64()),
        ("state_offset", pa.int64()),
        ("state_size", pa.int64()),
        ("captioned", pa.bool_()),  # by the txt, or by the json's `caption`
        ("width", pa.int32()),  # as shown: upright, the sample aspect ratio applied
        ("height", pa.int32()),
        ("frames", pa.int32()),
        ("fps", pa.float32()),
        ("duration", pa.float64()),
        ("codec", _WORD),
        ("decord", pa.bool_()),  # a full inspection vouches for decord's frames
        ("reason", _WORD),  # why it is unfit for every stage; '' where it is fit
    ]
)
"""One line per sample, in one row group: few columns of 10,000 lines read in a millisecond.

`kind`, `codec` and `reason` come as dictionary arrays: numbers, and each word once per file.
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
    """What an index says of its shard: its hash, what was not read, where it is damaged."""
    metadata = pq.read_schema(path).metadata or {}
    about = json.loads(metadata.get(_ABOUT, b"{}"))
    if not about.keys() >= _KNOWN:
        raise ValueError("no cascade.index of this format in its metadata")
    return dict(about)


def sort_of(reason: str) -> str:
    """A reason without its numbers, so that like ones are counted together."""
    return re.sub(r"\d+", "N", reason)


def write_index(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write an index whole: every column of SCHEMA as a sequence, an array or an Arrow array."""
    arrays = [
        column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, field.type)
        for field in SCHEMA
        for column in [columns.get(field.name, [])]
    ]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata({_ABOUT: json.dumps(about)}))
    with replacing(path) as part:
        pq.write_table(table, part, **_STORED)
