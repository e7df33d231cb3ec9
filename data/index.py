"""The sidecar index: one Parquet beside each shard with where its samples lie and what they are.

From it everything is decided before anything is decoded. It is built once, written atomically, and
built again when its format or its shard has changed.
"""

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track

from data import store
from data.decode import decode
from data.probe import DecodeError, read_header
from data.sample import read_state
from data.shard import Entry, Scan, scan
from data.store import read_span

log = logging.getLogger(__name__)

VERSION = 2
CACHE_DIR = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cascade" / "index"
_TITLE = "Indexing shards"
_POOL_FROM_BYTES = 64 * 2**20

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("hash", pa.uint64()),  # of the key: decides the held-out split
        ("kind", pa.string()),  # what the bytes are, whatever the name says: video, image or ''
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
        ("codec", pa.string()),
        ("reason", pa.string()),  # why it is unfit for every stage; '' where it is fit
    ]
)


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
    shards: Sequence[str], *, index_dir: Path | None = None, cache_dir: Path = CACHE_DIR
) -> list[Path]:
    """The index of every shard, built where it is missing or stale; one path per shard."""
    paths = [_place(shard, index_dir, cache_dir) for shard in shards]
    stale = [(s, p) for s, p in zip(shards, paths, strict=True) if not is_fresh(s, p)]
    store.forget()
    if not stale:
        return paths
    elsewhere = {p.parent for s, p in stale if str(p.parent) != store.folder(s)}
    log.info("indexing %d of %d shards%s", len(stale), len(shards), _at(elsewhere))
    large = len(stale) > 1 and sum(store.size(s) for s, _ in stale) >= _POOL_FROM_BYTES
    if large and (workers := min(len(stale), len(os.sched_getaffinity(0)))) > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(build_index, s, p) for s, p in stale]
            for job in track(as_completed(jobs), description=_TITLE, total=len(jobs)):
                job.result()
    else:
        for shard, path in track(stale, description=_TITLE):
            build_index(shard, path)
    return paths


def _at(folders: set[Path]) -> str:
    return f" into {', '.join(map(str, sorted(folders)))}" if folders else ""


def _place(shard: str, index_dir: Path | None, cache_dir: Path) -> Path:
    """Beside the shard where an index is, or may be written; else in the cache folder."""
    if index_dir is None and store.is_remote(shard):
        return index_path(shard, cache_dir)
    beside = index_path(shard, index_dir)
    folder = Path(shard).parent
    if index_dir is not None:
        return beside
    writable = os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222
    if writable or is_fresh(shard, beside):
        return beside
    return index_path(shard, cache_dir)


def is_fresh(shard: str, path: Path) -> bool:
    """Whether the index at `path` is of this format and of this very shard.

    A shard of the same size and modification time is taken for the same; one of another time, such
    as a copy, is hashed.
    """
    if not path.is_file():
        return False
    try:
        about = read_about(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("%s: the index does not read (%s), building it again", path, error)
        return False
    found = store.identity(shard)
    if about["version"] != VERSION or about["shard_size"] != found.size:
        return False
    return bool(about["mark"] == found.mark or about["shard_hash"] == shard_hash(shard))


def shard_hash(shard: str) -> str:
    """BLAKE2b of the whole file."""
    digest = hashlib.blake2b(digest_size=16)
    with store.open_shard(shard) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_about(path: Path) -> dict[str, Any]:
    """What an index says of its shard: its hash, what was not read, where it is damaged."""
    metadata = pq.read_schema(path).metadata or {}
    about = json.loads(metadata.get(b"cascade.index", b"{}"))
    if "version" not in about:
        raise ValueError("no cascade.index in its metadata")
    return dict(about)


def build_index(shard: str, path: Path) -> None:
    """Write the index of a shard."""
    found, identity = scan(shard), store.identity(shard)
    about = {
        "version": VERSION,
        "shard_size": identity.size,
        "mark": identity.mark,
        "shard_hash": shard_hash(shard),
        "others": found.others,
        "interleaved": found.interleaved,
        "error": _complaint(found),
    }
    rows = [_row(shard, entry) for entry in found.entries]
    table = pa.Table.from_pylist(rows, SCHEMA)
    table = table.replace_schema_metadata({"cascade.index": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _complaint(found: Scan) -> str:
    """What is wrong with a shard as a whole, or ''."""
    words = [found.error] if found.error else []
    if found.interleaved:
        words.append(f"{found.interleaved} members lie apart from their sample's others")
    if not found.entries:
        words.append("it holds no sample")
    return "; ".join(words)


def _row(shard: str, entry: Entry) -> dict[str, Any]:
    """One sample's line: where it lies, and what it is or why it is unfit."""
    nowhere = (-1, 0)
    media = entry.members.get("video") or entry.members.get("image") or nowhere
    caption = entry.members.get("caption", nowhere)
    state = entry.members.get("state", nowhere)
    digest = hashlib.blake2b(entry.key.encode(errors="surrogateescape"), digest_size=8).digest()
    row: dict[str, Any] = {
        "key": entry.key.encode(errors="replace").decode(),
        "hash": int.from_bytes(digest, "big"),
        "kind": "",
        "offset": media[0],
        "size": media[1],
        "caption_offset": caption[0],
        "caption_size": caption[1],
        "state_offset": state[0],
        "state_size": state[1],
        "captioned": False,
        **dict.fromkeys(("width", "height", "frames"), 0),
        **dict.fromkeys(("fps", "duration"), 0.0),
        "codec": "",
        "reason": "duplicate key" if entry.duplicate else "",
    }
    if row["reason"]:
        return row
    if media == nowhere:
        return row | {"reason": "caption or json without a video or image"}
    try:
        row["captioned"] = _captioned(shard, entry)
        return row | _probe(read_span(shard, media))
    except ValueError as error:
        return row | {"reason": str(error)}


def _captioned(shard: str, entry: Entry) -> bool:
    text, state = "", {}
    if (span := entry.members.get("state")) is not None:
        state = read_state(read_span(shard, span))
    if (span := entry.members.get("caption")) is not None:
        text = read_span(shard, span).decode()
    caption = state.get("caption")
    return bool(text.strip() or (isinstance(caption, str) and caption.strip()))


def _probe(data: bytes) -> dict[str, Any]:
    """The header, and the size of the first frame as PyAV decodes it, which sees damage.

    Raises:
        DecodeError: with the reason.
    """
    if not data:
        raise DecodeError("the video or image has no bytes")
    header = read_header(data)
    height, width = decode(data, replace(header, decord=False), [0.0]).shape[1:3]
    return {
        "kind": header.kind,
        "width": width,
        "height": height,
        "frames": header.frames,
        "fps": header.fps,
        "duration": header.duration,
        "codec": header.codec,
    }
