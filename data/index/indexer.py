"""Inspects every sample of a shard, which is read once, in order.

Several clips are decoded at once, in processes that can be killed. Results are kept in a journal
until the index is written.
"""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, get_args

from cascade.files.text import read_text
from data.decode.decoder import Decoder
from data.decode.inspection import Depth
from data.index.index_file import sort_of
from data.index.journal import Journal
from data.shards.format import Role, read_state
from data.shards.shard import Entry, Grouping
from data.shards.store import Span, open_shard
from data.shards.tar import Member, TarWalk

DEPTHS: tuple[Depth, ...] = get_args(Depth)

MAX_CLIP_BYTES = 2**30
_MAX_TEXT_BYTES = {"caption": 2**20, "state": 2**24}
_NAMES = {"caption": "caption", "state": "json"}
_MAX_REASON = 200
_WAIT_S = 0.1
_NOWHERE: Span = (-1, 0)

FIGURES: Mapping[str, Any] = {
    "kind": "",
    "codec": "",
    "width": 0,
    "height": 0,
    "frames": 0,
    "fps": 0.0,
    "duration": 0.0,
    "decord": False,
    "reason": "",
}
"""The values of a clip that could not be decoded."""


def digest(*parts: bytes) -> int:
    """A hash of 64 bits."""
    made = hashlib.blake2b(digest_size=8)
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return int.from_bytes(made.digest(), "big")


class StoppedError(Exception):
    """The work is stopped: it failed elsewhere, or the user interrupted it."""


class Inspectors:
    """Threads that inspect clips, each with its own decoder process."""

    def __init__(self, *, depth: Depth, workers: int) -> None:
        self.depth: Depth = depth
        self.tried = self.unfit = self._busy = 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="inspect")
        self._room = threading.Semaphore(2 * workers)
        self._own, self._decoders = threading.local(), list[Decoder]()
        self._stopped, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> "Inspectors":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def stop(self) -> None:
        """Stop: waiting clips are not started, running ones are killed and leave no result."""
        self._stopped.set()
        while self._busy:
            for decoder in self._decoders:
                decoder.close()  # repeated: a decoder restarts a process that died
            time.sleep(_WAIT_S)

    def submit(
        self, read: Callable[[], bytes], then: Callable[[dict[str, Any]], None]
    ) -> "Future[None]":
        """Inspect a clip once there is room for its bytes, which the caller's thread reads."""
        while not self._room.acquire(timeout=_WAIT_S):
            self.check()
        try:
            return self._pool.submit(self._try, read(), then)
        except BaseException:
            self._room.release()
            raise

    def check(self) -> None:
        """Raise `StoppedError` after `stop`."""
        if self._stopped.is_set():
            raise StoppedError

    def _try(self, data: bytes, then: Callable[[dict[str, Any]], None]) -> None:
        try:
            with self._lock:
                self._busy += 1
            self.check()
            figures = self._inspect(data)
            self.check()  # the result of a killed process says nothing about its clip
            then({"content": digest(data), **figures})
            with self._lock:
                self.tried += 1
                self.unfit += bool(figures["reason"])
        finally:
            with self._lock:
                self._busy -= 1
            self._room.release()

    def _inspect(self, data: bytes) -> dict[str, Any]:
        if not hasattr(self._own, "decoder"):
            self._own.decoder = Decoder()
            self._decoders.append(self._own.decoder)
        try:
            found = self._own.decoder.inspect(data, self.depth)
        except ValueError as error:
            return dict(FIGURES) | {"reason": plain(error)}
        return {name: getattr(found, name, blank) for name, blank in FIGURES.items()}


def plain(error: object) -> str:
    """The text of an error on one line of limited length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:_MAX_REASON].encode(errors="replace").decode()


class Text(NamedTuple):
    """A txt or json: whether it has a caption, the reason not to use it, or '', and its hash."""

    captioned: bool
    reason: str
    content: int


@dataclass(kw_only=True)
class Examination:
    """The content of a shard."""

    grouping: Grouping = field(default_factory=Grouping)
    clips: dict[Span, dict[str, Any]] = field(default_factory=dict)
    texts: dict[Span, Text] = field(default_factory=dict)
    hash: str = ""
    error: str = ""

    def columns(self) -> dict[str, list[Any]]:
        """The columns of the index."""
        rows = [self._row(entry) for entry in self.grouping.entries]
        return {name: [row[name] for row in rows] for name in self._row(Entry(key=""))}

    def about(self, reasons: Sequence[str]) -> dict[str, Any]:
        """The metadata of the shard; `reasons` are counted without their numbers."""
        grouping = self.grouping
        complaints = [self.error] if self.error else []
        if grouping.interleaved:
            count = grouping.interleaved
            complaints.append(f"{count} members are not adjacent to the others of their sample")
        if not grouping.entries:
            complaints.append("it has no sample")
        counts = Counter(map(sort_of, reasons))
        return {
            "shard_hash": self.hash,
            "fit": counts.pop("", 0),
            "unfit": dict(counts.most_common()),
            "others": grouping.others,
            "interleaved": grouping.interleaved,
            "error": "; ".join(complaints),
        }

    def _row(self, entry: Entry) -> dict[str, Any]:
        media, caption, state = (
            span or _NOWHERE
            for span in (entry.media, entry.members.get("caption"), entry.members.get("state"))
        )
        raw = entry.key.encode(errors="surrogateescape")
        found = {"content": 0, **self.clips.get(media, FIGURES)}
        texts = [self.texts[span] for span in (caption, state) if span in self.texts]
        members = [
            b"" if span not in self.texts else _bytes(self.texts[span].content)
            for span in (caption, state)
        ]
        reasons = [
            entry.flaw,
            "" if entry.media else "caption or json without a video or image",
            *(text.reason for text in texts),
            found["reason"],
        ]
        return {
            **found,
            "key": raw.decode(errors="backslashreplace"),
            "sample": digest(raw, _bytes(found["content"]), *members),
            "offset": media[0],
            "size": media[1],
            "caption_offset": caption[0],
            "caption_size": caption[1],
            "state_offset": state[0],
            "state_size": state[1],
            "captioned": any(text.captioned for text in texts),
            "reason": next((reason for reason in reasons if reason), ""),
        }


def _bytes(content: int) -> bytes:
    return content.to_bytes(8, "big")


def examine(
    shard: str,
    size: int,
    *,
    journal: Journal,
    inspectors: Inspectors,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Examination:
    """Read a shard once and inspect its samples, except for those in the journal.

    `on_bytes` is called with the number of bytes read since its last call.

    Raises:
        OSError: the shard cannot be read.
        StoppedError: the inspectors were stopped.
    """
    examined = Examination()
    waiting: list[Future[None]] = []
    try:
        with open_shard(shard) as file:
            walk, reported = TarWalk(file, size), 0
            for member in walk:
                inspectors.check()
                role, span = examined.grouping.add(member), (member.offset, member.size)
                known = journal.get(span)
                if role in ("caption", "state"):
                    examined.texts[span] = _read_text(walk, member, role)
                elif role and known is not None:
                    examined.clips[span] = known
                elif role:
                    waiting.append(_try(walk, member, examined, journal, inspectors))
                on_bytes(walk.position - reported)
                reported = walk.position
            on_bytes(walk.position - reported)
    finally:
        wait(waiting)  # they write to the journal
    examined.grouping.finish(cut=walk.cut)
    examined.hash, examined.error = walk.hash, walk.error
    for future in waiting:
        future.result()
    return examined


def _try(
    walk: TarWalk, member: Member, examined: Examination, journal: Journal, inspectors: Inspectors
) -> "Future[None]":
    span = (member.offset, member.size)

    def keep(figures: dict[str, Any]) -> None:
        journal.add(span, figures)
        examined.clips[span] = figures

    if member.size > MAX_CLIP_BYTES:
        reason = f"has {member.size} bytes, more than the limit of {MAX_CLIP_BYTES}"
        keep(dict(FIGURES) | {"reason": reason})
        done: Future[None] = Future()
        done.set_result(None)
        return done
    return inspectors.submit(lambda: walk.read(member), keep)


def _read_text(walk: TarWalk, member: Member, role: Role) -> Text:
    if member.size > (limit := _MAX_TEXT_BYTES[role]):
        reason = f"its {_NAMES[role]} has {member.size} bytes, more than the limit of {limit}"
        return Text(captioned=False, reason=reason, content=0)
    data = walk.read(member)
    captioned, reason = False, ""
    try:
        text = read_state(data).get("caption") if role == "state" else read_text(data)
        captioned = isinstance(text, str) and bool(text.strip())
    except ValueError as error:
        reason = plain(f"its {_NAMES[role]}: {error}")
    return Text(captioned=captioned, reason=reason, content=digest(data))
