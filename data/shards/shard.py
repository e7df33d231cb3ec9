"""The members of a tar put together to samples: by their key, wherever they lie, never by order."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from data.shards.format import Role, role, split_name
from data.shards.store import Span
from data.shards.tar import Member

DUPLICATE = "duplicate key"
AMBIGUOUS = "duplicate key, and which members belong together cannot be told"
CUT = "the shard is cut off behind it, so that it may not be whole"
DOTTED = "a dot in its key: the format ends a key at the first dot (rename ID.3.mp4 to ID_3.mp4)"
OUTSIDE = "its name leads out of the shard (absolute, or with ..)"

_METADATA = re.compile(r"__[^/]*__($|/)")
_MEDIA = ("video", "image")
_MAX_WORDS = 32


@dataclass(kw_only=True)
class Entry:
    """The members of one key, as (offset, size); `flaw` is why it is not to be used, or ''."""

    key: str
    members: dict[Role, Span] = field(default_factory=dict)
    extensions: set[str] = field(default_factory=set)
    apart: bool = False
    flaw: str = ""

    @property
    def media(self) -> Span | None:
        """Where its video lies, or, where it has none, its image."""
        return self.members.get("video") or self.members.get("image")


class Grouping:
    """Samples of the members given in order.

    Members of a key that come apart are put together again and counted. A key that brings the same
    member again begins another entry, with a flaw; the first is sound where both are whole and in
    one piece. A second video or image of another extension is not read.
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
        """What was not read, counted."""
        most = self._others.most_common(_MAX_WORDS)
        rest = self._others.total() - sum(count for _, count in most)
        return dict(most) | ({"of more kinds": rest} if rest else {})

    def add(self, member: Member) -> Role | None:
        """What the member is in its sample; None where it is not to be read."""
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
            word = "name that leads out of the shard"
        elif kind in _MEDIA and member.kind != "file":
            entry = self._entry(key)
            entry.flaw = entry.flaw or f"its {kind} is a {member.kind}, which is never followed"
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
        """Judge what only the end tells; `cut` where members are missing behind the last one."""
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
