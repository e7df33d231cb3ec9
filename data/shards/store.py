"""Access to shards by local path or fsspec URL; both are plain strings.

The network is used only for URLs that the user gave, never for names in a shard or an index.
"""

import functools
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from cascade.files.text import typed
from data.shards import remote
from data.shards.format import role

Span = tuple[int, int]
"""(offset, size) in bytes."""

SCHEMES = frozenset(
    (
        *("file", "memory", "http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss"),
        *("hf", "hdfs", "webhdfs", "sftp", "ftp", "smb", "oss", "oci"),
    )
)
"""Allowed URL schemes. Schemes of fsspec that wrap, redirect or execute are not among them."""

_LISTS = (".csv", ".json", ".jsonl", ".parquet", ".txt")
_OPEN_SHARDS = 128
_LOCAL_BUFFER = 2**20


class Identity(NamedTuple):
    """Distinguishes versions of a shard: its size, and its modification time or ETag."""

    size: int
    mark: str


def is_remote(shard: str) -> bool:
    """Whether a shard is a URL."""
    return "://" in shard


def find_shards(spec: str | Path | Sequence[str | Path]) -> list[str]:
    """The shards of a spec: a tar, a folder of tars, a glob, `{00..09}` ranges, or a list.

    Each may be a local path or a URL. The existence of a URL to a single file is not checked here.

    Raises:
        ValueError: there is no shard, some of a local range are missing, or a URL is not allowed.
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
            f"shards: {len(missing)} of the {len(texts)} in {str(spec)!r} are missing: "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; name only existing shards"
        )
    if not found:
        raise ValueError(f"shards: no tar file at {str(spec)!r}; {_way_out(Path(str(spec)))}")
    return found


def _way_out(place: Path) -> str:
    """What to do where there are no shards."""
    place = place.expanduser()
    if place.is_dir() and (media := next(filter(_is_media, place.rglob("*")), None)):
        return (
            f"it has videos or images, such as {media.relative_to(place)}; make shards of them "
            f"first: make shards {typed('FROM', place)} TO=…"
        )
    if place.is_file():
        return (
            f"it is no tar; if it lists videos or images: make shards {typed('FROM', place)} TO=…"
        )
    return "give a tar, a folder of tars, or a glob"


def _is_media(path: Path) -> bool:
    return role(path.suffix[1:].lower()) in ("video", "image")


def _expand(text: str) -> list[str]:
    """Expand ranges: `a{08..10}.tar` becomes a08.tar, a09.tar and a10.tar."""
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
    """The text without `file://`; a URL that would execute something is refused."""
    scheme, separator, rest = text.partition("://")
    if text.startswith("pipe:") or (separator and "::" in text):
        raise ValueError(f"shards: {text!r} would execute a command; give a path or a plain URL")
    if separator and scheme not in SCHEMES:
        raise ValueError(
            f"shards: {text!r}: the scheme {scheme}:// is not allowed; use one of "
            f"{', '.join(sorted(SCHEMES))}"
        )
    return rest if scheme == "file" and separator else text


def _is_glob(text: str) -> bool:
    """Whether a text is a glob; in a web address `?` starts the query and is no wildcard."""
    return any(c in text for c in ("*[" if text.startswith("http") else "*?["))


def _find_local(text: str) -> list[str]:
    path = Path(text).expanduser()
    if path.is_dir():
        return sorted(str(p) for p in path.iterdir() if p.suffix.lower() == ".tar" and p.is_file())
    if path.is_file():
        return [] if _is_media(path) or path.suffix.lower() in _LISTS else [str(path)]
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
    """The size of a shard and its version mark; the mark is '' if a server has none.

    Raises:
        OSError: there is no such shard, or the server cannot be reached.
    """
    if not is_remote(shard):
        stat = Path(shard).stat()
        return Identity(stat.st_size, str(stat.st_mtime_ns))
    return Identity(*remote.describe(shard))


def size(shard: str) -> int:
    """The size of a shard in bytes."""
    return identity(shard).size


def read_span(shard: str, span: Span) -> bytes:
    """The bytes of one member: by one read of a file that stays open, or by one request.

    Raises:
        OSError: some of the bytes are missing.
    """
    offset, count = span
    if is_remote(shard):
        return remote.read(shard, offset, count)
    file = _local(shard)
    left = os.fstat(file.descriptor).st_size - offset
    if count > left:  # checked first: a wrong size must not allocate memory
        raise OSError(f"{shard}: {count} bytes at {offset} requested, {max(0, left)} available")
    data = os.pread(file.descriptor, count, offset)
    while len(data) < count:  # one read returns at most 2 GiB
        more = os.pread(file.descriptor, count - len(data), offset + len(data))
        if not more:
            raise OSError(f"{shard}: truncated while being read")
        data += more
    return data


class _Local:
    """An open local shard; it is read by position, so forked processes can share the descriptor."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


_local = functools.lru_cache(maxsize=_OPEN_SHARDS)(_Local)


def forget() -> None:
    """Close the local shards that `read_span` keeps open, so that replaced files are read anew."""
    _local.cache_clear()


def open_shard(shard: str) -> io.BufferedReader:
    """A shard as a file, for sequential reading; a remote one is fetched in large ranges.

    Raises:
        OSError: there is no such shard, or its server does not support byte ranges.
    """
    if not is_remote(shard):
        return io.BufferedReader(io.FileIO(shard), _LOCAL_BUFFER)
    return remote.open_ranges(shard)


def name(shard: str) -> str:
    """The file name of a shard, without `.tar` and without the query of a URL."""
    path = urlsplit(shard).path if is_remote(shard) else str(Path(shard))
    return PurePosixPath(path).name.removesuffix(".tar")


def folder(shard: str) -> str:
    """The folder of a shard: an absolute path, or a URL without its query."""
    if not is_remote(shard):
        return str(Path(shard).parent.resolve())
    parts = urlsplit(shard)
    return f"{parts.scheme}://{parts.netloc}{PurePosixPath(parts.path).parent}"
