"""The captions of a sample: the choice among several, and the file of a shard's new captions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cascade.files.atomic import replacing
from cascade.files.text import read_text
from cascade.keyed import choice
from data.shards.format import read_state
from data.shards.store import is_remote, read_span

TEXT = "txt"
KEY = "key"
DEFAULT = {"long": 0.95, "short": 0.05}
_NOTE = b"cascade.captions"


class Captions:
    """A weighted choice among the captions of a sample.

    A weight's name is a source: `txt` is the text beside the video; any other name is a column of
    the shard's new captions, or else a key of the sample's json. The default weights are `long`
    0.95 and `short` 0.05. If a sample has none of the sources, its text is used, or else the
    `caption` in its json, or else any new caption.
    """

    def __init__(self, **weights: float) -> None:
        self.weights = weights or DEFAULT
        if min(self.weights.values()) < 0 or not sum(self.weights.values()) > 0:
            raise ValueError(
                "data.captions: weights must not be negative, and one must be positive, got "
                f"{weights}"
            )

    def __call__(
        self,
        text: str,
        state: Mapping[str, Any],
        made: Mapping[str, str] | None = None,
        *,
        seed: int,
        position: int,
    ) -> str:
        """The caption drawn at a position; '' if the sample has none."""
        found = self.found(text, state, made)
        return choice(found, seed, position, "caption") if found else ""

    def found(
        self, text: str, state: Mapping[str, Any], made: Mapping[str, str] | None = None
    ) -> dict[str, float]:
        """The captions of a sample that have a weight, each with its weight."""
        found: dict[str, float] = {}
        for name, weight in self.weights.items():
            caption = _read(name, text, state, made or {})
            if caption and weight > 0:
                found[caption] = found.get(caption, 0.0) + weight
        plain = _read(TEXT, text, state, {}) or _read("caption", text, state, {})
        plain = plain or next((one for one in (made or {}).values() if one.strip()), "")
        return found or ({plain: 1.0} if plain else {})


def _read(name: str, text: str, state: Mapping[str, Any], made: Mapping[str, str]) -> str:
    if name == TEXT:
        return text.strip()
    value = made.get(name) or state.get(name)
    return value.strip() if isinstance(value, str) else ""


def captions_path(index: Path) -> Path:
    """The path of a shard's new captions: beside its index."""
    return index.with_name(index.name.removesuffix(".index.parquet") + ".captions.parquet")


def find_captions(shard: str, index: Path) -> Path:
    """The path of a shard's new captions: beside its index if there, or else beside the shard."""
    beside = captions_path(index)
    if beside.is_file() or is_remote(shard):
        return beside
    own = Path(shard).with_name(beside.name)
    return own if own.is_file() else beside


def read_table(path: Path) -> pa.Table:
    """The new captions of a shard as a table: the column `key`, and one column per source.

    Raises:
        ValueError: the file is not a Parquet file of captions.
    """
    try:
        table = pq.ParquetFile(path).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; delete it and make it again") from error
    if KEY not in table.column_names or {*table.schema.types} != {pa.string()}:
        raise ValueError(
            f"{path} is not a file of captions: it must have a column {KEY!r} and only strings, "
            f"but has the columns {', '.join(map(str, table.schema))}"
        )
    return table


def read_captions(path: Path) -> dict[str, dict[str, str]]:
    """The new captions of a shard as key → source → caption; empty if the file does not exist.

    Raises:
        ValueError: the file is not a Parquet file of captions.
    """
    if not path.is_file():
        return {}
    return {
        str(row.pop(KEY)): {name: caption for name, caption in row.items() if caption}
        for row in read_table(path).to_pylist()
    }


def read_note(path: Path) -> dict[str, Any]:
    """The metadata that was written with the captions: which model and prompt made them."""
    if not path.is_file():
        return {}
    metadata = pq.read_schema(path).metadata or {}
    return dict(json.loads(metadata.get(_NOTE, b"{}")))


def write_captions(
    path: Path, captions: Mapping[str, Mapping[str, str]], *, note: Mapping[str, Any]
) -> None:
    """Write the new captions of a shard atomically."""
    names = list(dict.fromkeys(name for one in captions.values() for name in one))
    schema = pa.schema([(name, pa.string()) for name in (KEY, *names)])
    rows = [{KEY: key, **one} for key, one in captions.items()]
    table = pa.Table.from_pylist(rows, schema)
    with replacing(path) as part:
        pq.write_table(table.replace_schema_metadata({_NOTE: json.dumps(note)}), part)


def read_beside(shard: str, row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text and the json of a sample, by its row of the index; empty if it has none.

    Raises:
        OSError: the shard cannot be read.
        ValueError: the text cannot be read, or the json is invalid.
    """
    text, state = "", {}
    if row["caption_offset"] >= 0:
        try:
            text = read_text(read_span(shard, (row["caption_offset"], row["caption_size"])))
        except ValueError as error:
            raise ValueError(f"its caption: {error}") from error
    if row["state_offset"] >= 0:
        state = read_state(read_span(shard, (row["state_offset"], row["state_size"])))
    return text, state
