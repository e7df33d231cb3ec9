"""A tar file read once from start to end: its members, its hash, and its damage.

Python's tarfile stops silently at a damaged header, at a truncation, and at an end mark that
another tar follows; it also trusts the sizes in headers and decompresses. This reader does not.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["file", "sparse file", "link", "folder", "device"]

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2**20
_MAX_DIGITS = 20
_MAX_HEADER_BYTES = 2**20
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"PK\x03\x04": ("zip", "unzip, then tar"),
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member that is complete in the file."""

    name: str
    kind: Kind
    offset: int
    size: int


class _DamageError(ValueError):
    """The place and the reason where reading ends before the end mark."""


class TarWalk:
    """The members of a tar, in order; after the iteration `error`, `cut` and `hash` are set.

    Every byte is read and hashed in the same pass, so a remote shard is fetched once.
    """

    def __init__(self, file: io.BufferedIOBase, size: int) -> None:
        self.error = ""
        """The damage of the file, or ''."""
        self.cut = False
        """Whether the file is truncated after the last member."""
        self._file, self._size, self._at = file, size, 0
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def hash(self) -> str:
        """BLAKE2b of the bytes read so far."""
        return self._digest.hexdigest()

    @property
    def position(self) -> int:
        """Number of bytes read so far."""
        return self._at

    def __iter__(self) -> Iterator[Member]:
        try:
            while (member := self._next()) is not None:
                yield member
                self._skip(member.offset + member.size - self._at)
                self._skip(min(-member.size % _BLOCK, self._size - self._at))
        except _DamageError as damage:
            self.error, self.cut = str(damage), True
        self._end()

    def read(self, member: Member) -> bytes:
        """The bytes of the current member; may be called once per member."""
        if self._at != member.offset:
            raise ValueError(f"{member.name}: only the current member can be read, and only once")
        return self._take(member.size)

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise OSError(f"{count} bytes at {self._at} requested, {len(data)} received")
        self._digest.update(data)
        self._at += count
        return data

    def _skip(self, count: int) -> None:
        while count > 0:
            count -= len(self._take(min(count, _CHUNK)))

    def _header(self) -> tuple[tarfile.TarInfo, bytes] | None:
        """The next header block; None at the end mark."""
        start, left = self._at, self._size - self._at
        if not self._size:
            raise _DamageError("the file is empty")
        if not left:
            raise _DamageError("truncated: the end mark is missing")
        block = self._take(min(left, _BLOCK))
        if not start:
            _refuse_compressed(block)
        if left < _BLOCK and start:
            raise _DamageError(f"truncated inside the header at byte {start}")
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape"), block
        except tarfile.TarError as error:
            if not block.strip(b"\0"):
                return None
            if not start:
                raise _DamageError("not a tar: its first block is not a header") from error
            raise _DamageError(
                f"unreadable from byte {start}: {self._size - start} bytes were not read"
            ) from error

    def _next(self) -> Member | None:
        """The next member, except for the tar format's own headers."""
        name, pax = "", dict[str, bytes]()
        while (header := self._header()) is not None:
            info, block = header
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                text = self._payload(info).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
                name = text if info.type == tarfile.GNUTYPE_LONGNAME else name
            elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                pax |= _records(self._payload(info))
            elif info.type == tarfile.XGLTYPE:
                if {"path", "size"} & _records(self._payload(info)).keys():
                    raise _DamageError("a global header sets one name or size for every member")
            else:
                return self._made(info, block, name, pax)
        return None

    def _payload(self, info: tarfile.TarInfo) -> bytes:
        if not 0 <= info.size <= _MAX_HEADER_BYTES:
            raise _DamageError(f"the header at byte {self._at} states a size of {info.size} bytes")
        if info.size > self._size - self._at:
            raise _DamageError(f"truncated inside the header at byte {self._at}")
        data = self._take(info.size)
        self._skip(min(-info.size % _BLOCK, self._size - self._at))
        return data

    def _made(
        self, info: tarfile.TarInfo, block: bytes, name: str, pax: dict[str, bytes]
    ) -> Member:
        if "path" in pax:
            name = pax["path"].decode("utf-8", "surrogateescape").rstrip("/")
        name = name or info.name
        stated = pax.get("size", b"")
        if len(stated) > _MAX_DIGITS:
            raise _DamageError(f"{name!r} states a size of {len(stated)} digits")
        size = int(stated) if stated.isdigit() else info.size
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any("GNU.sparse" in k for k in pax)
        more = info.type == tarfile.GNUTYPE_SPARSE and block[482]
        while more:
            more = self._take(min(_BLOCK, self._size - self._at))[504:505] not in (b"", b"\0")
        if not info.isreg() and info.type in tarfile.SUPPORTED_TYPES:
            size = 0  # links, folders and devices have no data, whatever size they state
        left = self._size - self._at
        if size < 0:
            raise _DamageError(f"{name!r} states a size of {size} bytes")
        if size > left:
            raise _DamageError(f"truncated inside {name!r}: {left} of its {size} bytes are left")
        kind: Kind = "device"
        if info.isreg():
            kind = "sparse file" if sparse else "file"
        elif info.isdir():
            kind = "folder"
        elif info.islnk() or info.issym():
            kind = "link"
        return Member(name=name, kind=kind, offset=self._at, size=size)

    def _end(self) -> None:
        """Read the rest of the file after the members, which must be zeros."""
        while left := self._size - self._at:
            start = self._at
            block = self._take(min(left, _CHUNK))
            if not self.error and block.strip(b"\0"):
                start += (len(block) - len(block.lstrip(b"\0"))) // _BLOCK * _BLOCK
                self.error = (
                    f"{self._size - start} bytes after the end mark, from byte {start}, were not "
                    "read; join tars by `tar --concatenate`, not by `cat`"
                )


def _refuse_compressed(block: bytes) -> None:
    for magic, (name, way) in _COMPRESSED.items():
        if block.startswith(magic):
            raise _DamageError(
                f"compressed by {name}, so samples cannot be read by their offset; "
                f"decompress it first ({way})"
            )


def _records(data: bytes) -> dict[str, bytes]:
    """The records `LENGTH KEY=VALUE` of a pax header."""
    found: dict[str, bytes] = {}
    while data.strip(b"\0"):
        digits = data[:20].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        key, separator, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not separator or not len(digits) < length <= len(data):
            raise _DamageError("invalid pax header")
        found[key.decode("utf-8", "replace")] = value
        data = data[length:]
    return found
