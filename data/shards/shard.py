"""Members of a tar grouped into samples by their key, in whatever order they are stored."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from data.shards.format import Role, role, split_name
from data.shards.store import Span
from data.shards.tar import Member

DUPLICATE = "duplicate key"
AMBIGUOUS = "duplicate key: it is ambiguous which members belong together"
CUT = "last sample of a truncated shard: members may be missing"
DOTTED = "a dot in its key: the format ends a key at the first dot (rename ID.3.mp4 to ID_3.mp4)"
OUTSIDE = "its name points outside the shard (an absolute path, or ..)"

_METADATA = re.compile(r"__[^/]*__($|/)")
_MEDIA = ("video", "image")
_MAX_WORDS = 32


@dataclass(kw_only=True)
class Entry:
    """The members of one key, as (offset, size); `flaw` is the reason not to use it, or ''."""

    key: str
    members: dict[Role, Span] = field(default_factory=dict)
    extensions: set[str] = field(default_factory=set)
    apart: bool = False
    flaw: str = ""

    @property
    def media(self) -> Span | None:
        """The span of its video, or else of its image."""
        return self.members.get("video") or self.members.get("image")


class Grouping:
    """Groups members into samples.

    Members of a key need not be adjacent; those that are not are counted. When a member of a key
    comes a second time, it starts another entry, which is a duplicate; the first entry stays usable
    if both have the same members and each is contiguous. A second video or image with another
    extension is ignored.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.interleaved = 0
        self._others: Counter[str] = Counter()
        self._latest: dict[str, Entry] = {}
        self._previous: Entry | None = None
        self._dotted: list[tuple[str, str]] = []
        self._repeated: dict[str, list[Entry]] = {}

    @property
    def others(self) -> dict[str, int]:
        """Counts of the members that were not read, by kind."""
        most = self._others.most_common(_MAX_WORDS)
        rest = self._others.total() - sum(count for _, count in most)
        return dict(most) | ({"of other kinds": rest} if rest else {})

    def add(self, member: Member) -> Role | None:
        """Add a member; return its role in its sample, or None if it is not to be read."""
        key, extension = split_name(member.name)
        last = extension.rpartition(".")[2]
        kind = role(last)
        word = f"*.{last[:16]}" if last != extension else extension[:16] or "no extension"
        path = PurePosixPath(member.name)
        if member.kind in ("folder", "device"):
            word = member.kind
        elif _METADATA.match(member.name):
            word = "metadata of webdataset"
        elif path.name.startswith("."):
            word = "hidden file"
        elif kind and (path.is_absolute() or ".." in path.parts):
            entry = self._entry(key)
            if not entry.flaw:
                entry.flaw = OUTSIDE
                return None
            word = "name that points outside the shard"
        elif kind in _MEDIA and member.kind != "file":
            entry = self._entry(key)
            entry.flaw = entry.flaw or f"its {kind} is a {member.kind}, which is not read"
            return None
        elif member.kind != "file":
            word = member.kind
        elif kind in _MEDIA and last != extension:
            self._dotted.append((key, extension))
            return None
        elif kind and last == extension:
            return self._join(key, extension, kind, (member.offset, member.size))
        self._others[word] += 1
        return None

    def _entry(self, key: str) -> Entry:
        if key not in self._latest:
            self._latest[key] = Entry(key=key)
            self.entries.append(self._latest[key])
        return self._latest[key]

    def _join(self, key: str, extension: str, kind: Role, span: Span) -> Role | None:
        entry = self._entry(key)
        if extension in entry.extensions:
            again = Entry(key=key, flaw=DUPLICATE)
            self._repeated.setdefault(key, [entry]).append(again)
            self.entries.append(again)
            entry = self._latest[key] = again
        if kind in entry.members:
            self._others[f"{extension}, a second {kind}"] += 1
            return None
        if entry.members and entry is not self._previous:
            self.interleaved += 1
            entry.apart = True
        entry.members[kind] = span
        entry.extensions.add(extension)
        self._previous = entry
        return None if entry.flaw else kind

    def finish(self, *, cut: bool) -> None:
        """Mark the flaws that are known only at the end; `cut`: the shard is truncated."""
        for key, extension in self._dotted:
            if key in self._latest and self._latest[key].media:
                self._others[f"*.{extension.rpartition('.')[2]}"] += 1
            else:
                stem = extension.rpartition(".")[0]
                self.entries.append(Entry(key=f"{key}.{stem}", flaw=DOTTED))
        for entry in self.entries:
            self._others["image beside a video"] += {"video", "image"} <= entry.members.keys()
        for same in self._repeated.values():
            if any(e.apart or e.extensions != same[0].extensions for e in same):
                for entry in same:
                    entry.flaw = AMBIGUOUS
        self._others = +self._others
        if cut and self._previous is not None:
            self._previous.flaw = self._previous.flaw or CUT
