"""Where shards lie: local paths and fsspec URLs, both plain strings; nothing else is ever opened.

The network is used for URLs that were given, and for nothing that a shard or an index says.
"""

import functools
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from data.shards import remote

Span = tuple[int, int]
"""(offset, size) in bytes."""

SCHEMES = frozenset(
    (
        *("file", "memory", "http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss"),
        *("hf", "hdfs", "webhdfs", "sftp", "ftp", "smb", "oss", "oci"),
    )
)
"""Schemes that name bytes somewhere; those of fsspec that wrap, refer or run are not among them."""

_OPEN_SHARDS = 128
_LOCAL_BUFFER = 2**20


class Identity(NamedTuple):
    """What tells a shard from another of its name: its size, and its time stamp or ETag."""

    size: int
    mark: str


def is_remote(shard: str) -> bool:
    """Whether a shard is a URL."""
    return "://" in shard


def find_shards(spec: str | Path | Sequence[str | Path]) -> list[str]:
    """The shards a spec names: a tar, a folder of tars, a glob, `{00..09}` ranges, or a list.

    Each may be a local path or a URL. A URL that is no folder and no glob is not looked for here.

    Raises:
        ValueError: it names none, some of a local range are missing, or it is no place for bytes.
    """
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return list(dict.fromkeys(shard for one in spec for shard in find_shards(one)))
    found: list[str] = []
    missing: list[str] = []
    texts = [text for one in _expand(str(spec)) for text in [_checked(one)]]
    for text in texts:
        some = _find_remote(text) if is_remote(text) else _find_local(text)
        found += some
        if not some and not _is_glob(text):
            missing.append(text)
    if found and missing:
        raise ValueError(
            f"shards: {len(missing)} of the {len(texts)} that {str(spec)!r} names are missing: "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; name those that there are"
        )
    if not found:
        raise ValueError(
            f"shards: {str(spec)!r} names no tar file; give a tar, a folder, or a glob"
        )
    return found


def _expand(text: str) -> list[str]:
    """`a{08..10}.tar` is a08.tar, a09.tar and a10.tar."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if match is None:
        return [text]
    first, last = match.groups()
    return [
        expanded
        for n in range(int(first), int(last) + 1)
        for expanded in _expand(f"{text[: match.start()]}{n:0{len(first)}}{text[match.end() :]}")
    ]


def _checked(text: str) -> str:
    """The text, where it names a place for bytes and nothing that is run on the way there."""
    scheme, separator, rest = text.partition("://")
    if text.startswith("pipe:") or (separator and "::" in text):
        raise ValueError(f"shards: {text!r} runs something; give a path or a plain URL")
    if separator and scheme not in SCHEMES:
        raise ValueError(
            f"shards: {text!r}: {scheme}:// is not one of {', '.join(sorted(SCHEMES))}"
        )
    return rest if scheme == "file" and separator else text


def _is_glob(text: str) -> bool:
    """A question mark begins the query of a web address, and is a wildcard elsewhere."""
    return any(c in text for c in ("*[" if text.startswith("http") else "*?["))


def _find_local(text: str) -> list[str]:
    path = Path(text).expanduser()
    if path.is_dir():
        return sorted(str(p) for p in path.glob("*.tar") if p.is_file())
    if path.is_file():
        return [str(path)]
    base = Path(path.anchor)
    found = base.glob(str(path.relative_to(base))) if _is_glob(text) else ()
    return sorted(str(p) for p in found if p.is_file())


def _find_remote(url: str) -> list[str]:
    if not _is_glob(url):
        if url.endswith(".tar") or (url.startswith("http") and not url.endswith("/")):
            return [url]
        if not remote.is_folder(url):
            return [url]
        url = f"{url.rstrip('/')}/*.tar"
    return remote.glob(url)


def identity(shard: str) -> Identity:
    """The size of a shard, and the mark that changes with it; '' where a server gives none.

    Raises:
        OSError: there is no such shard, or it cannot be reached.
    """
    if not is_remote(shard):
        stat = Path(shard).stat()
        return Identity(stat.st_size, str(stat.st_mtime_ns))
    return Identity(*remote.describe(shard))


def size(shard: str) -> int:
    """Bytes of a shard."""
    return identity(shard).size


def read_span(shard: str, span: Span) -> bytes:
    """The bytes of one member: one read of a file that stays open, or one request.

    Raises:
        OSError: they are not all there.
    """
    offset, count = span
    if is_remote(shard):
        return remote.read(shard, offset, count)
    file = _local(shard)
    left = os.fstat(file.descriptor).st_size - offset
    if count > left:  # before anything is allocated for a claimed size
        raise OSError(f"{shard}: {count} bytes at {offset} were wanted, {max(0, left)} are there")
    data = os.pread(file.descriptor, count, offset)
    while len(data) < count:  # a read gives at most 2 GiB
        more = os.pread(file.descriptor, count - len(data), offset + len(data))
        if not more:
            raise OSError(f"{shard}: it was cut while it was read")
        data += more
    return data


class _Local:
    """An open local shard. It is read by position, so that processes forked from this may too."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


_local = functools.lru_cache(maxsize=_OPEN_SHARDS)(_Local)


def forget() -> None:
    """Close the local shards that `read_span` holds open, so that replaced ones are seen."""
    _local.cache_clear()


def open_shard(shard: str) -> io.BufferedReader:
    """A shard as a file, best read in order; a remote one comes by large ranges.

    Raises:
        OSError: there is no such shard, or its server gives no ranges.
    """
    if not is_remote(shard):
        return io.BufferedReader(io.FileIO(shard), _LOCAL_BUFFER)
    return remote.open_ranges(shard)


def name(shard: str) -> str:
    """The last part of a shard's name, without `.tar` and without the query of a URL."""
    path = urlsplit(shard).path if is_remote(shard) else str(Path(shard))
    return PurePosixPath(path).name.removesuffix(".tar")


def folder(shard: str) -> str:
    """What a shard lies in: an absolute path, or a URL without its query."""
    if not is_remote(shard):
        return str(Path(shard).parent.resolve())
    parts = urlsplit(shard)
    return f"{parts.scheme}://{parts.netloc}{PurePosixPath(parts.path).parent}"
