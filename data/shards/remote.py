"""Remote shards, read through fsspec by byte ranges; failed requests are retried."""

import io
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_BUFFER = 2**23
_RETRIES_S = (0.5, 1.0, 2.0)
_PARTIAL_CONTENT = 206  # RFC 9110, 15.3.7: the answer to a request of a byte range
_MARKS = (
    *("ETag", "etag", "Content-MD5", "md5Hash", "Digest"),
    *("LastModified", "Last-Modified", "updated", "last_modified", "mtime", "created"),
)


def _place(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; fsspec caches one file system per process.

    Raises:
        ValueError: the library for this kind of URL is not installed.
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
        raise ValueError(
            f"shards: {url} needs a library that is not installed: {error}; install it by pip"
        ) from error
    return files, str(path)


def _tried(url: str, ask: Callable[[Any, str], _T]) -> _T:
    """The result of a request to a file system; requests that fail by the network are retried.

    Raises:
        FileNotFoundError: there is no such shard.
        OSError: the request failed in every attempt.
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
            # fsspec reports every failed request to a web server as a missing file
            reason = (web and error.__cause__) or error
            missing = reason is error or getattr(reason, "status", 0) == 404
            if isinstance(error, FileNotFoundError) and missing:
                raise FileNotFoundError(f"{url}: no such shard") from error
            if wait is None or isinstance(error, PermissionError):
                raise OSError(f"{url}: {reason or type(reason).__name__}") from error
        time.sleep(wait)
    raise AssertionError


def is_folder(url: str) -> bool:
    """Whether a URL names a folder."""
    return bool(_tried(url, lambda files, path: files.isdir(path)))


def glob(url: str) -> list[str]:
    """The sorted URLs that match a pattern."""
    return _tried(
        url,
        lambda files, path: sorted(str(files.unstrip_protocol(one)) for one in files.glob(path)),
    )


def describe(url: str) -> tuple[int, str]:
    """(size in bytes, version mark): the mark is an ETag or a date, or '' if the server has none.

    Raises:
        OSError: there is no such shard, or the server cannot be reached.
    """
    info = _tried(url, lambda files, path: files.info(path))
    if info.get("size") is None:
        raise OSError(
            f"{url}: the server does not report the size, so byte ranges cannot be read; copy the "
            "shards and use the copies"
        )
    mark = next((f"{name} {info[name]}" for name in _MARKS if info.get(name)), "")
    return int(info["size"]), mark


def read(url: str, offset: int, count: int) -> bytes:
    """Read a byte range by one request.

    Raises:
        OSError: the request failed, or the server sent another number of bytes.
    """
    if not count:
        return b""
    ask = _ask_web if url.startswith("http") else _ask_store
    data = _tried(url, lambda files, path: ask(files, path, offset, count))
    if data is None:
        raise OSError(
            f"{url}: the server does not support byte ranges, so single clips cannot be read; copy "
            "the shards and use the copies, or use a server that does"
        )
    if len(data) != count:
        raise OSError(
            f"{url}: requested {count} bytes at {offset}, received {len(data)}: the shard has "
            "changed; copy the shards and use the copies"
        )
    return data


def _ask_store(files: Any, path: str, offset: int, count: int) -> bytes | None:
    """A byte range of an object in a store."""
    return bytes(files.cat_file(path, start=offset, end=offset + count))


def _ask_web(files: Any, url: str, offset: int, count: int) -> bytes | None:
    """A byte range from a web server; None if it answers with the whole file, which is not read."""
    from fsspec.asyn import sync

    async def ask() -> bytes | None:
        session = await files.set_session()
        headers = {"Range": f"bytes={offset}-{offset + count - 1}", "Accept-Encoding": "identity"}
        async with session.get(files.encode_url(url), headers=headers, **files.kwargs) as answer:
            answer.raise_for_status()
            if answer.status != _PARTIAL_CONTENT:
                return None
            data = bytearray()
            while len(data) <= count and (block := await answer.content.read(count + 1)):
                data += block
            return bytes(data)

    data: bytes | None = sync(files.loop, ask)
    return data


def open_ranges(url: str) -> io.BufferedReader:
    """A remote shard as a file, for sequential reading: it is fetched in large ranges."""
    return io.BufferedReader(_Ranges(url), _BUFFER)


class _Ranges(io.RawIOBase):
    """A remote shard as a file."""

    def __init__(self, url: str) -> None:
        self._url, self._size, self._at = url, describe(url)[0], 0
        read(url, 0, min(self._size, 1))  # fails at once on a server without byte ranges

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
