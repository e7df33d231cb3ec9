"""The sidecar index: one Parquet beside each shard with where its samples lie and what they are.

From it everything is decided before anything is decoded. Run `python -m data.index shards=…
depth=full`, or let training build it. It is written whole or not at all; a build that was killed
goes on where it was; an index is built again when its format, its depth or its shard has changed.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from data.decode.inspection import Depth
from data.decode.sandbox import cores
from data.index.index_file import SCHEMA, VERSION, read_about, write_index
from data.index.indexer import DEPTHS, Inspectors, examine
from data.index.journal import Journal
from data.shards import store

log = logging.getLogger(__name__)

CACHE_DIR = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cascade" / "index"
_ASK_AT_ONCE = 16
_READ_AT_ONCE = 4
_SAY_EVERY_S = 60.0


def index_path(shard: str, index_dir: Path | None) -> Path:
    """Where the index of a shard lies: beside it, or in a folder of its folder's in `index_dir`.

    Raises:
        ValueError: nothing can lie beside a remote shard.
    """
    name = f"{store.name(shard)}.index.parquet"
    if index_dir is None:
        if store.is_remote(shard):
            raise ValueError(f"{shard}: its index needs a folder: give data.index_dir")
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
    """The index of every shard, built where it is missing or stale; one path per shard.

    `depth` is how far each clip is tried: its header and first frame, all key frames, or all
    frames; a deeper index serves too. `workers` clips are decoded at once, by default one per core.

    Raises:
        ValueError: no such depth; shards that are not there; or shards that could not be read
            to their end, after all others were indexed.
    """
    if depth not in DEPTHS:
        raise ValueError(f"index: depth={depth}: no such depth; there are {', '.join(DEPTHS)}")

    def look(shard: str) -> _Look | str:
        try:
            found = store.identity(shard)
            path = _place(shard, found, depth, index_dir, cache_dir)
            return _Look(shard, found, path, is_fresh(shard, found, path, depth))
        except OSError as error:
            return str(error)

    with ThreadPoolExecutor(_ASK_AT_ONCE) as pool:
        looks = list(pool.map(look, shards))
    if lost := [one for one in looks if isinstance(one, str)]:
        raise ValueError(_unread(lost, len(shards)))
    seen = [one for one in looks if not isinstance(one, str)]
    owner: dict[Path, str] = {}
    for one in seen:
        if (other := owner.setdefault(one.path, one.shard)) != one.shard:
            raise ValueError(
                f"index: {other} and {one.shard} would share the index {one.path}; rename one"
            )
    if stale := [one for one in seen if not one.fresh]:
        folders = {str(one.path.parent) for one in stale if not _is_beside(one)}
        into = f" into {', '.join(sorted(folders))}" if folders else ""
        log.info("indexing %d of %d shards (%s)%s", len(stale), len(shards), depth, into)
        _build_all(stale, depth=depth, workers=workers or cores())
    store.forget()
    return [one.path for one in seen]


class _Look(NamedTuple):
    shard: str
    found: store.Identity
    path: Path
    fresh: bool


def _is_beside(one: _Look) -> bool:
    return not store.is_remote(one.shard) and one.path.parent == Path(one.shard).parent


def _unread(failed: Sequence[str], count: int) -> str:
    told = "; ".join(failed[:3]) + (" …" if len(failed) > 3 else "")
    return f"index: {len(failed)} of {count} shards cannot be read: {told}"


def _place(
    shard: str, found: store.Identity, depth: Depth, index_dir: Path | None, cache_dir: Path
) -> Path:
    """Beside the shard where an index is, or may be written; else in the cache folder."""
    if index_dir is not None or store.is_remote(shard):
        return index_path(shard, index_dir or cache_dir)
    beside, folder = index_path(shard, None), Path(shard).parent
    writable = os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222
    if writable or is_fresh(shard, found, beside, depth):
        return beside
    return index_path(shard, cache_dir)


def is_fresh(shard: str, found: store.Identity, path: Path, depth: Depth) -> bool:
    """Whether the index at `path` is of this format, deep enough and of this very shard.

    A shard of the same size and time stamp (or ETag) is taken for the same; one of another time,
    such as a copy, is hashed, once.
    """
    if not path.is_file():
        return False
    try:
        about = read_about(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("%s: the index does not read (%s), building it again", path, error)
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
    """Write the index of a shard.

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


def _build_all(jobs: Sequence[_Look], *, depth: Depth, workers: int) -> None:
    """Build the indices, a few shards read and `workers` clips tried at once."""
    failed: list[str] = []
    columns = (
        *(TextColumn("Indexing"), BarColumn(), DownloadColumn(), TimeRemainingColumn()),
        TextColumn("{task.fields[tried]} clips tried, {task.fields[unfit]} unfit"),
    )
    with (
        Progress(*columns, console=Console(stderr=True)) as bar,
        Inspectors(depth=depth, workers=workers) as inspectors,
        ThreadPoolExecutor(min(_READ_AT_ONCE, len(jobs))) as pool,
    ):
        task = bar.add_task("", total=sum(job.found.size for job in jobs), tried=0, unfit=0)

        def walked(count: int) -> None:
            bar.update(task, advance=count, tried=inspectors.tried, unfit=inspectors.unfit)

        futures = [
            pool.submit(build_index, job.shard, job.found, job.path, inspectors, walked)
            for job in jobs
        ]
        said = time.monotonic()
        try:
            for done, future in enumerate(as_completed(futures), 1):
                try:
                    future.result()
                except OSError as error:
                    failed.append(str(error))
                walked(0)
                if time.monotonic() - said > _SAY_EVERY_S:
                    said = time.monotonic()
                    log.info("indexed %d of %d shards", done, len(jobs))
        except BaseException:
            inspectors.stop()
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise ValueError(_unread(failed, len(jobs)))
