"""Bytes behind URLs, through fsspec: by ranges, and asked again where the network fails."""

import io
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_BUFFER = 2**23
_RETRIES_S = (0.5, 1.0, 2.0)
_MARKS = (
    *("ETag", "etag", "Content-MD5", "md5Hash", "Digest"),
    *("LastModified", "Last-Modified", "updated", "last_modified", "mtime", "created"),
)


def _place(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there; fsspec keeps one for each process.

    Raises:
        ValueError: its library is missing.
    """
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    try:
        if url.startswith("http"):
            import aiohttp

            wait = aiohttp.ClientTimeout(total=600, sock_connect=15, sock_read=60)
            options["client_kwargs"] = {"timeout": wait}
        files, path = url_to_fs(url, **options)
    except ImportError as error:
        raise ValueError(f"shards: {url}: {error}; pip install what it names") from error
    return files, str(path)


def _tried(url: str, ask: Callable[[Any, str], _T]) -> _T:
    """The answer of a file system, asked again where the network fails.

    Raises:
        OSError: naming the URL; FileNotFoundError where there is no such shard.
    """
    files, path = _place(url)
    failures: tuple[type[Exception], ...] = (OSError, TimeoutError)
    web = url.startswith("http")
    if web:
        import aiohttp

        failures = (*failures, aiohttp.ClientError)
    for wait in (*_RETRIES_S, None):
        try:
            return ask(files, path)
        except failures as error:
            # fsspec calls every look at a web address that fails a missing file
            reason = (web and error.__cause__) or error
            missing = reason is error or getattr(reason, "status", 0) == 404
            if isinstance(error, FileNotFoundError) and missing:
                raise FileNotFoundError(f"{url}: there is no such shard") from error
            if wait is None or isinstance(error, PermissionError):
                raise OSError(f"{url}: {reason or type(reason).__name__}") from error
        time.sleep(wait)
    raise AssertionError


def is_folder(url: str) -> bool:
    """Whether a URL names a folder."""
    return bool(_tried(url, lambda files, path: files.isdir(path)))


def glob(url: str) -> list[str]:
    """The URLs that a pattern matches, sorted."""
    return _tried(
        url,
        lambda files, path: sorted(str(files.unstrip_protocol(one)) for one in files.glob(path)),
    )


def describe(url: str) -> tuple[int, str]:
    """(bytes, what changes with them: an ETag or a date, '' where the server gives none).

    Raises:
        OSError: there is no such shard, or it cannot be reached.
    """
    info = _tried(url, lambda files, path: files.info(path))
    if info.get("size") is None:
        raise OSError(f"{url}: the server does not tell its size, so no part of it can be read")
    mark = next((f"{name} {info[name]}" for name in _MARKS if info.get(name)), "")
    return int(info["size"]), mark


def read(url: str, offset: int, count: int) -> bytes:
    """Bytes by one request.

    Raises:
        OSError: they did not come, or others did.
    """
    if not count:
        return b""
    data: bytes = _tried(
        url, lambda files, path: files.cat_file(path, start=offset, end=offset + count)
    )
    if len(data) != count:
        raise OSError(
            f"{url}: {count} bytes at {offset} were asked for, {len(data)} came: it has changed, "
            "or its server gives no ranges; copy the shards, then name the copies"
        )
    return data


def open_ranges(url: str) -> io.BufferedReader:
    """A remote shard as a file, best read in order: it comes by large ranges."""
    return io.BufferedReader(_Ranges(url), _BUFFER)


class _Ranges(io.RawIOBase):
    """A remote shard as a file."""

    def __init__(self, url: str) -> None:
        self._url, self._size, self._at = url, describe(url)[0], 0
        read(url, 0, min(self._size, 1))  # a server without ranges is refused before the rest

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        buffer[:count] = read(self._url, self._at, count)
        self._at += count
        return count
