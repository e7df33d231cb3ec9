"""Packs parts into shards in the order of the sources, up to the first unfinished source.

The placement depends only on the records. A resumed run therefore makes the same decisions, keeps
the shards that exist, and writes the others from the remaining parts.
"""

import contextlib
import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.ingest.duplicates import Duplicates
from data.ingest.output_folder import Folder
from data.ingest.part import Record
from data.ingest.recipe import Recipe
from data.ingest.sources import OURS, Source

OnSource = Callable[[Source, Record], None]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A sample to be packed: everything except the bytes of its clip, which are in a part."""

    key: str
    source: int
    member: str
    extension: str
    texts: dict[str, bytes]

    def read(self, part: tarfile.TarFile) -> dict[str, Any]:
        """The complete sample for webdataset's writer."""
        data = part.extractfile(self.member)
        assert data is not None, f"{self.member} is not a file in the part of {self.key}"
        return {"__key__": self.key, self.extension: data.read(), **self.texts}


class Packer:
    """Writes shards of a given size; `advance` packs the sources that are finished.

    `on_source` is called once for each source, in order, with its record and its duplicates marked.
    """

    def __init__(
        self,
        folder: Folder,
        sources: list[Source],
        recipe: Recipe,
        prefix: str,
        on_source: OnSource,
    ) -> None:
        self._folder, self._sources, self._recipe = folder, sources, recipe
        self._prefix, self._on_source = prefix, on_source
        limit = recipe.filters.duplicate
        self._duplicates = None if limit is None else Duplicates(limit)
        self.next = 0
        """The number of the first unfinished source."""
        self.shards: list[Path] = []
        self._full: list[Placed] = []
        self._bytes = 0
        self._unpacked = 0

    def advance(self) -> None:
        """Pack the clips of all sources up to the first unfinished one."""
        while self.next < len(self._sources):
            record = self._folder.record(self.next)
            if record is None:
                return
            source = self._sources[self.next]
            for row in record["windows"]:
                if not row["reason"]:
                    self._place(source, record, row)
            self._on_source(source, record)
            self.next += 1
        self._close()

    def _place(self, source: Source, record: Record, row: Record) -> None:
        key = f"{self._prefix}-{_digest(source, record)}-{row['window']:04d}"
        first = self._duplicates.of(key, row["hashes"]) if self._duplicates else ""
        if first:
            row |= {"reason": "duplicate", "duplicate_of": first}
            return
        row["key"] = key
        texts = {"json": _state(source, record, row)}
        if source.caption:
            texts["txt"] = source.caption.encode(errors="replace")
        size = row["bytes"] + sum(map(len, texts.values()))
        packing = self._recipe.packing
        if self._full and (
            len(self._full) == packing.samples or self._bytes + size > packing.bytes
        ):
            self._close()
        self._bytes += size
        self._full.append(
            Placed(
                key=key,
                source=self.next,
                member=f"{row['window']:04d}.{row['extension']}",
                extension=row["extension"],
                texts=texts,
            )
        )

    def _close(self) -> None:
        """Write the full shard unless it exists, and remove the parts that are packed."""
        if self._full:
            path = self._folder.to / f"{self._prefix}-{len(self.shards):06d}.tar"
            if not path.exists():
                _write(path, self._full, self._folder)
            self.shards.append(path)
        self._full, self._bytes = [], 0
        for number in range(self._unpacked, self.next):
            self._folder.part(number).unlink(missing_ok=True)
        self._unpacked = self.next


def _digest(source: Source, record: Record) -> str:
    """A hash of a source's path and content: equal paths in two sets do not give equal keys."""
    text = f"{source.digest} {record['content']}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _state(source: Source, record: Record, row: Record) -> bytes:
    """The json of a sample: the columns of the source, and under one key the data of the clip."""
    clip = {
        "source": source.path,
        **{name: row[name] for name in ("window", "start", "end", "width", "height")},
        **{name: row[name] for name in ("frames", "fps")},
        "original": {name: record[name] for name in ("codec", "width", "height", "duration")},
        "reencoded": record["reencoded"],
        "scores": row["scores"],
        "hashes": row["hashes"],
    }
    return json.dumps({**source.columns, OURS: clip}).encode()


def _write(path: Path, samples: list[Placed], folder: Folder) -> None:
    """Write a shard atomically; the same samples give the same bytes."""
    from webdataset import TarWriter

    scratch = path.with_name(f".{path.name}.part")
    with (
        scratch.open("wb") as stream,
        TarWriter(stream, mtime=0, encoder=False) as shard,
        contextlib.ExitStack() as opened,
    ):
        source: int | None = None
        for sample in samples:
            if sample.source != source:  # the samples of a source follow each other
                opened.close()
                tar = opened.enter_context(tarfile.open(folder.part(sample.source)))
                source = sample.source
            shard.write(sample.read(tar))
    scratch.replace(path)
