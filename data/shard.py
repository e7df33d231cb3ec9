"""Shards and their tar headers: which bytes are which sample's what; nothing is extracted."""

import tarfile
from collections import Counter
from dataclasses import dataclass, field

from data.sample import Role, role, split_name
from data.store import Span, open_shard, size

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


def scan(shard: str) -> Scan:
    """The entries of a shard; of a truncated one those that are whole, with the error named.

    Members of a key that come apart are put together again and counted as interleaved. A key that
    brings the same member again begins a duplicate entry; a second video or image is not read.
    """
    entries: list[Entry] = []
    latest: dict[str, Entry] = {}
    others: Counter[str] = Counter()
    interleaved, previous = 0, None
    members, error = _whole_members(shard)
    for member in members:
        key, extension = split_name(member.name)
        kind = role(extension) if member.isreg() and not member.issparse() else None
        entry = latest.get(key)
        if entry is None or (kind and extension in entry.extensions):
            again = entry is not None
            if kind is not None:
                latest[key] = entry = Entry(key=key, duplicate=again)
                entries.append(entry)
        if entry is None or kind is None or kind in entry.members:
            others[extension if member.isreg() else "not a file"] += 1
            continue
        interleaved += bool(entry.members) and entry is not previous
        entry.members[kind] = (member.offset_data, member.size)
        entry.extensions.add(extension)
        previous = entry
    return Scan(entries=entries, others=dict(others), interleaved=interleaved, error=error)


def _whole_members(shard: str) -> tuple[list[tarfile.TarInfo], str]:
    """The members that lie in the file to their last byte, and how the file is damaged, or ''."""
    total = size(shard)
    members: list[tarfile.TarInfo] = []
    if total == 0:
        return [], "the file is empty"
    try:
        with open_shard(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.offset_data + member.size > total:
                    return members, f"truncated inside {member.name}"
                members.append(member)
            end = tar.offset
    except tarfile.TarError as error:
        return members, f"not a whole tar: {error}"
    # tarfile stops without a word at a damaged header, and at an end mark with another tar behind.
    with open_shard(shard) as file:
        file.seek(end)
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                return members, f"unreadable from byte {end}: {total - end} bytes were not read"
        file.seek(max(0, total - len(_MARK)))
        return members, "" if file.read() == _MARK else "truncated: the end mark is missing"
