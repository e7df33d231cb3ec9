"""Lists of sources: the rows of a CSV, JSON Lines or Parquet file."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cascade.files.text import read_text

LISTS = ("csv", "jsonl", "parquet")


def rows(place: Path, *, texts: Sequence[str]) -> Iterable[dict[str, Any]]:
    """The rows of a list; the columns `texts` of a CSV are read as texts, even if all are numbers.

    Raises:
        ValueError: it cannot be parsed.
    """
    kind = place.suffix[1:].lower()
    if kind == "jsonl":
        yield from _json_lines(place)
        return
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if kind == "csv":
            table = pyarrow.csv.read_csv(
                io.BytesIO(_text(place).encode()),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(texts, pa.string())
                ),
            )
        else:
            table = pyarrow.parquet.read_table(place)
    except pa.ArrowException as error:
        raise ValueError(f"{place}: is not a valid {kind} file: {error}") from error
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def _text(place: Path) -> str:
    try:
        return read_text(place.read_bytes())
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _json_lines(place: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text(place).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: line {number} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: line {number} is a {type(row).__name__}, not an object")
        yield row
