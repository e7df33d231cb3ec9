"""Shards as a run reads them, their indices, and tars written byte by byte."""

import io
import tarfile

import pyarrow.parquet as pq

from cascade.grid import Grid
from data.index.index_file import read_about
from data.index.sidecar import ensure_index, index_path
from data.train.module import ShardData

GRID = Grid(frames=4, height=16, width=16, fps=8)


def mark_of(shard):
    """The time stamp that a shard's index knows it by."""
    return read_about(index_path(str(shard), None))["mark"]


def module(shards, **options):
    options = {
        "global_batch": 4,
        "val_share": 0.1,
        "cache_bytes": 2**24,
        "batching": "fixed",
    } | options
    return ShardData(shards=shards, grid=GRID, **options)


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
