"""Shards as a run reads them, their indices, and tars written byte by byte."""

import io
import tarfile

import pyarrow.parquet as pq

from cascade.grid import Grid
from data.index.index_file import read_about
from data.index.sidecar import ensure_index, index_path
from data.train.module import ShardData
from data.train.options import (
    ClipOptions,
    IndexOptions,
    LoadingOptions,
    SelectionOptions,
    ValidationOptions,
)

GRID = Grid(frames=4, height=16, width=16, fps=8)


def mark_of(shard):
    """The time stamp that a shard's index knows it by."""
    return read_about(index_path(str(shard), None))["mark"]


GROUPS = {
    "clips": ClipOptions,
    "selection": SelectionOptions,
    "index": IndexOptions,
    "loading": LoadingOptions,
}


def module(shards, *, val=None, val_share=0.1, val_samples=64, grid=GRID, **options):
    """A data module whose options need not name their group: `rates=…` for `clips.rates`."""
    options = {"global_batch": 4, "batching": "fixed", "cache_bytes": 2**24} | options
    for name, group in GROUPS.items():
        mine = {key: options.pop(key) for key in group.__dataclass_fields__ if key in options}
        options[name] = group(**mine)
    validation = ValidationOptions(shards=val, share=val_share, samples=val_samples)
    return ShardData(shards=shards, grid=grid, validation=validation, **options)


def indexed(shard, depth="probe"):
    """The lines of a shard's index, and what it says of the shard."""
    (path,) = ensure_index([str(shard)], depth=depth, workers=1)
    return pq.read_table(path).to_pylist(), read_about(path)


def tar(path, members, form=tarfile.GNU_FORMAT):
    """A tar of (name, bytes), or of TarInfo for what is no file."""
    with tarfile.open(path, "w", format=form) as file:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def whole(key, video, caption):
    return [(f"{key}.mp4", video), (f"{key}.txt", caption)]
