"""A shard as its tar headers tell it: which bytes are which sample's what; nothing is extracted."""

import hashlib
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from data.sample import Role, role, split_name

Span = tuple[int, int]
_MARK = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(kw_only=True)
class Entry:
    """The members of one key, as (offset, size); `duplicate` where the shard had the key before."""

    key: str
    members: dict[Role, Span] = field(default_factory=dict)
    extensions: set[str] = field(default_factory=set)
    duplicate: bool = False


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a shard holds: its entries in order, what was not read, and where it is damaged."""

    entries: list[Entry]
    others: dict[str, int]
    interleaved: int
    error: str


def read_span(path: Path, span: Span) -> bytes:
    """The bytes of one member."""
    with path.open("rb") as file:
        file.seek(span[0])
        return file.read(span[1])


def shard_hash(path: Path) -> str:
    """BLAKE2b of the whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def scan(path: Path) -> Scan:
    """The entries of a shard; of a truncated one those that are whole, with the error named.

    Members of a key that come apart are put together again and counted as interleaved. A key that
    brings the same member again begins a duplicate entry; a second video or image is not read.
    """
    entries: list[Entry] = []
    latest: dict[str, Entry] = {}
    others: Counter[str] = Counter()
    interleaved = 0
    members, error = _whole_members(path)
    for member in members:
        key, extension = split_name(member.name)
        kind = role(extension) if member.isreg() and not member.issparse() else None
        entry = latest.get(key)
        if entry is None or (kind and extension in entry.extensions):
            again = entry is not None
            if kind is not None:
                latest[key] = entry = Entry(key=key, duplicate=again)
                entries.append(entry)
        elif kind and entry is not entries[-1]:
            interleaved += 1
        if entry is None or kind is None or kind in entry.members:
            others[extension if member.isreg() else "not a file"] += 1
            continue
        entry.members[kind] = (member.offset_data, member.size)
        entry.extensions.add(extension)
    return Scan(entries=entries, others=dict(others), interleaved=interleaved, error=error)


def _whole_members(path: Path) -> tuple[list[tarfile.TarInfo], str]:
    """The members that lie in the file to their last byte, and how the file is damaged, or ''."""
    size = path.stat().st_size
    members: list[tarfile.TarInfo] = []
    if size == 0:
        return [], "the file is empty"
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    return members, f"truncated inside {member.name}"
                members.append(member)
    except tarfile.TarError as error:
        return members, f"not a whole tar: {error}"
    with path.open("rb") as file:
        file.seek(max(0, size - len(_MARK)))
        return members, "" if file.read() == _MARK else "truncated: the end mark is missing"
