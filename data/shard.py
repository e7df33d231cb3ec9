"""Shards and their tar headers: which bytes are which sample's what; nothing is extracted."""

import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
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


def find_shards(spec: str | Path | Sequence[str | Path]) -> list[Path]:
    """The shards a spec names: a tar, a folder of tars, a glob, `{00..09}` ranges, or a list.

    Raises:
        ValueError: it names none, or is not a local path.
    """
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return list(dict.fromkeys(path for one in spec for path in find_shards(one)))
    found: list[Path] = []
    missing: list[str] = []
    texts = _expand(str(spec))
    for text in texts:
        if "://" in text or text.startswith("pipe:"):
            raise ValueError(
                f"shards: {text!r} is not a local path; copy the shards, then name them"
            )
        path = Path(text).expanduser()
        if path.is_dir():
            found += sorted(p for p in path.glob("*.tar") if p.is_file())
        elif path.is_file():
            found.append(path)
        elif any(c in text for c in "*?["):
            base = Path(path.anchor)
            found += sorted(p for p in base.glob(str(path.relative_to(base))) if p.is_file())
        else:
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
    interleaved, previous = 0, None
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
        if entry is None or kind is None or kind in entry.members:
            others[extension if member.isreg() else "not a file"] += 1
            continue
        interleaved += bool(entry.members) and entry is not previous
        entry.members[kind] = (member.offset_data, member.size)
        entry.extensions.add(extension)
        previous = entry
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
            end = tar.offset
    except tarfile.TarError as error:
        return members, f"not a whole tar: {error}"
    # tarfile stops without a word at a damaged header, and at an end mark with another tar behind.
    with path.open("rb") as file:
        file.seek(end)
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                return members, f"unreadable from byte {end}: {size - end} bytes were not read"
        file.seek(max(0, size - len(_MARK)))
        return members, "" if file.read() == _MARK else "truncated: the end mark is missing"
