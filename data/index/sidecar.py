"""The sidecar index: a Parquet file beside each shard with the spans and properties of its samples.

Training selects and orders samples by the index, before any is decoded. Build it by `python -m
data.index shards=… depth=full`, or let training build it. It is written atomically; a killed build
continues where it stopped; an index is rebuilt when its format, its depth or its shard changes.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

from cascade.cores import cores
from cascade.progress import SteadyProgress
from data.decode.inspection import Depth
from data.index.index_file import SCHEMA, VERSION, read_about, write_index
from data.index.indexer import DEPTHS, Inspectors, examine
from data.index.journal import Journal
from data.shards import store

log = logging.getLogger(__name__)

CACHE_DIR = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cascade" / "index"
_ASK_AT_ONCE = 16
_READ_AT_ONCE = 4


def index_path(shard: str, index_dir: Path | None) -> Path:
    """The path of a shard's index: beside the shard, or in `index_dir`, one folder per folder.

    Raises:
        ValueError: a remote shard needs an `index_dir`.
    """
    name = f"{store.name(shard)}.index.parquet"
    if index_dir is None:
        if store.is_remote(shard):
            raise ValueError(
                f"{shard} is remote, so its index needs a local folder: set index_dir (in "
                "training: data.index.dir)"
            )
        return Path(shard).with_name(name)
    folder = hashlib.blake2b(store.folder(shard).encode(), digest_size=6).hexdigest()
    return index_dir / folder / name


def ensure_index(
    shards: Sequence[str],
    *,
    depth: Depth = "keyframes",
    index_dir: Path | None = None,
    cache_dir: Path = CACHE_DIR,
    workers: int | None = None,
) -> list[Path]:
    """The path of every shard's index; missing and outdated ones are built.

    `depth` is how far each clip is decoded: `probe` (header and first frame), `keyframes` (all key
    frames), `full` (all frames) or `decord` (as `full`, and decord's frames are compared); a deeper
    index is accepted. `workers` clips are decoded at once, by default one per core.

    Raises:
        ValueError: an unknown depth, missing shards, or shards that could not be read to their end
            (after all others were indexed).
    """
    if depth not in DEPTHS:
        raise ValueError(f"index: depth must be one of {', '.join(DEPTHS)}, got {depth!r}")

    def check(shard: str) -> _Found | str:
        try:
            found = store.identity(shard)
            path = _place(shard, found, depth, index_dir, cache_dir)
            return _Found(shard, found, path, is_fresh(shard, found, path, depth))
        except OSError as error:
            return str(error)

    with ThreadPoolExecutor(_ASK_AT_ONCE) as pool:
        found = list(pool.map(check, shards))
    if lost := [one for one in found if isinstance(one, str)]:
        raise ValueError(_unread(lost, len(shards)))
    seen = [one for one in found if not isinstance(one, str)]
    owner: dict[Path, str] = {}
    for one in seen:
        if (other := owner.setdefault(one.path, one.shard)) != one.shard:
            raise ValueError(
                f"index: {other} and {one.shard} have the same index path {one.path}; rename one"
            )
    if stale := [one for one in seen if not one.fresh]:
        folders = {str(one.path.parent) for one in stale if not _is_beside(one)}
        into = f" into {', '.join(sorted(folders))}" if folders else ""
        log.info("indexing %d of %d shards (depth %s)%s", len(stale), len(shards), depth, into)
        _build_all(stale, depth=depth, workers=workers or cores())
    store.forget()
    return [one.path for one in seen]


class _Found(NamedTuple):
    shard: str
    found: store.Identity
    path: Path
    fresh: bool


def _is_beside(one: _Found) -> bool:
    return not store.is_remote(one.shard) and one.path.parent == Path(one.shard).parent


def _unread(failed: Sequence[str], count: int) -> str:
    reasons = "; ".join(failed[:3]) + (" …" if len(failed) > 3 else "")
    return f"index: {len(failed)} of {count} shards cannot be read: {reasons}"


def _place(
    shard: str, found: store.Identity, depth: Depth, index_dir: Path | None, cache_dir: Path
) -> Path:
    """The path beside the shard if an index is there or can be written, else in `cache_dir`."""
    if index_dir is not None or store.is_remote(shard):
        return index_path(shard, index_dir or cache_dir)
    beside, folder = index_path(shard, None), Path(shard).parent
    writable = os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222
    if writable or is_fresh(shard, found, beside, depth):
        return beside
    return index_path(shard, cache_dir)


def is_fresh(shard: str, found: store.Identity, path: Path, depth: Depth) -> bool:
    """Whether the index at `path` has this format, is deep enough, and matches the shard.

    A shard of the same size and modification time (or ETag) is assumed to be the same. If only the
    time differs, as after a copy, the shard is hashed once.
    """
    if not path.is_file():
        return False
    try:
        about = read_about(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("%s: the index cannot be read (%s), building it again", path, error)
        return False
    if about["version"] != VERSION or about["shard_size"] != found.size:
        return False
    if about["depth"] not in DEPTHS:
        return False
    if DEPTHS.index(about["depth"]) < DEPTHS.index(depth):
        return False
    if about["mark"] == found.mark:
        return True
    if about["shard_hash"] != _hash(shard):
        return False
    if os.access(path.parent, os.W_OK):
        table = pq.read_table(path)
        write_index(path, {n: table[n] for n in SCHEMA.names}, about | {"mark": found.mark})
    return True


def _hash(shard: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with store.open_shard(shard) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def build_index(
    shard: str,
    found: store.Identity,
    path: Path,
    inspectors: Inspectors,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Build and write the index of a shard.

    Raises:
        OSError: the shard cannot be read.
    """
    head = {
        "version": VERSION,
        "depth": inspectors.depth,
        "shard_size": found.size,
        "mark": found.mark,
    }
    journal = Journal(path.with_name(f".{path.name.removesuffix('.parquet')}.journal"), head)
    try:
        examined = examine(
            shard, found.size, journal=journal, inspectors=inspectors, on_bytes=on_bytes
        )
    finally:
        journal.close()
    columns = examined.columns()
    write_index(path, columns, head | examined.about(columns["reason"]))
    journal.remove()


def _build_all(stale: Sequence[_Found], *, depth: Depth, workers: int) -> None:
    """Build the indices; a few shards are read and `workers` clips decoded at once."""
    failed: list[str] = []
    columns = (
        *(TextColumn("Indexing"), BarColumn(), DownloadColumn(), TimeRemainingColumn()),
        TextColumn("{task.fields[tried]} clips inspected, {task.fields[unfit]} unusable"),
    )
    with (
        SteadyProgress(*columns) as bar,
        Inspectors(depth=depth, workers=workers) as inspectors,
        ThreadPoolExecutor(min(_READ_AT_ONCE, len(stale))) as pool,
    ):
        task = bar.add_task("", total=sum(one.found.size for one in stale), tried=0, unfit=0)

        def report(count: int) -> None:
            bar.update(task, advance=count, tried=inspectors.tried, unfit=inspectors.unfit)

        futures = [
            pool.submit(build_index, one.shard, one.found, one.path, inspectors, report)
            for one in stale
        ]
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except OSError as error:
                    failed.append(str(error))
                report(0)
        except BaseException:
            inspectors.stop()
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise ValueError(_unread(failed, len(stale)))
