"""The sources of `make shards`: a folder of videos and images, a list, or existing shards."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cascade.files.text import read_text
from cascade.media.kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from data.ingest.folder_walk import FolderWalk
from data.ingest.lists import LISTS, rows
from data.shards.format import read_state

log = logging.getLogger(__name__)

MEDIA = frozenset((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES))
OURS = "clip"
"""The key of a sample's json with the data of the clip; all other keys are the source's."""
CAPTION = "caption"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a list (or keys of a json beside a file) with the path and the caption."""

    path: str = "path"
    caption: str = CAPTION


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to read, with its caption and columns; `refused` is the reason not to read it."""

    path: str
    """The path in the list or relative to the folder."""
    file: str
    """The absolute path."""
    size: int
    modified: int
    caption: str
    columns: dict[str, Any]
    refused: str = ""

    @property
    def digest(self) -> str:
        """A hash of its path."""
        return hashlib.blake2b(os.fsencode(self.path), digest_size=8).hexdigest()

    def line(self) -> str:
        """The source as a line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources in order, and counts of ignored files by suffix."""

    sources: list[Source]
    others: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        captioned = sum(bool(source.caption) for source in self.sources)
        refused = Counter(_sort(source.refused) for source in self.sources if source.refused)
        words = f"{len(self.sources)} sources, {captioned} of them with a caption"
        if refused:
            words += f"; refused: {told(refused)}"
        return f"{words}; not read: {told(self.others) or 'nothing'}"


def told(counts: Mapping[str, int]) -> str:
    """Counts in words, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {what}" for what, count in ordered)


def _sort(reason: str) -> str:
    """A reason without the names of its file."""
    return "its json or text cannot be read" if " cannot be read: " in reason else reason


def is_shards(place: Path) -> bool:
    """Whether these are shards: a tar, a glob or range of tars, or a folder of tars.

    Raises:
        ValueError: a folder has both shards and media.
    """
    if not place.is_dir():
        return place.suffix.lower() == ".tar"
    tars = any(path.suffix.lower() == ".tar" for path in place.iterdir())
    if tars and (media := next(iter(FolderWalk(place, MEDIA)), None)) is not None:
        raise ValueError(
            f"from: {place} has both shards and media, such as {media.file.name}; use a folder of "
            "only one kind"
        )
    return tars


def find_sources(place: Path, columns: Columns | None = None) -> Sources:
    """The sources of a folder or list.

    Raises:
        ValueError: there is none, or the list cannot be read.
    """
    columns = columns or Columns()
    if place.is_dir():
        walk = FolderWalk(place, MEDIA)
        files = sorted(walk, key=lambda one: one.file.relative_to(place).as_posix())
        sources = [_beside(place, one.file, one.texts, columns) for one in files]
        found = Sources(sources=sources, others=walk.others)
    elif place.is_file() and place.suffix[1:].lower() in LISTS:
        found = Sources(sources=_listed(place, columns))
    else:
        raise ValueError(
            f"from: {place} must be a folder, a list ({', '.join(LISTS)}) or a tar, but is none of "
            "them"
        )
    if not found.sources:
        raise ValueError(
            f"from: {place} has no video or image; supported are {', '.join(sorted(MEDIA))}; not "
            f"read: {told(found.others) or 'nothing'}"
        )
    digests = Counter(source.digest for source in found.sources if not source.refused)
    for digest, count in digests.most_common(1):
        if count > 1:
            names = [source.path for source in found.sources if source.digest == digest]
            raise ValueError(f"from: {names} have the same hash; rename one of them")
    return found


def _beside(folder: Path, file: Path, texts: Mapping[str, Path], columns: Columns) -> Source:
    """A file with the caption and the json beside it; `texts` are these by suffix."""
    path = file.relative_to(folder).as_posix()
    caption: Any = ""
    values: dict[str, Any] = {}
    refused, read = "", file
    try:
        if "json" in texts:
            read = texts["json"]
            values = read_state(read.read_bytes())
            caption = values.get(columns.caption) or ""
        if "txt" in texts:
            read = texts["txt"]
            caption = read_text(read.read_bytes())
    except (ValueError, OSError) as error:
        values, refused = {}, f"{read.name} cannot be read: {error}"
    return _source(path, file, caption, values, refused)


def _listed(place: Path, columns: Columns) -> list[Source]:
    """The sources of a list; the first row of each path counts."""
    seen: dict[str, int] = {}
    names: dict[str, None] = {}
    sources = []
    for number, row in enumerate(rows(place, texts=(columns.path, columns.caption)), start=1):
        names |= dict.fromkeys(row)
        path = row.pop(columns.path, None)
        if not isinstance(path, str) or not path:
            raise ValueError(_no_path(place, number, list(names), columns, path))
        caption = row.pop(columns.caption, None)
        refused = f"is listed twice; row {seen[path]} counts" if path in seen else ""
        seen.setdefault(path, number)
        if "://" in path:
            refused = "is a URL; download it and list the file"
        sources.append(_source(path, place.parent / path, caption or "", row, refused))
    _check_captions(place, list(names), columns)
    return sources


def _no_path(
    place: Path, number: int, names: Sequence[str], columns: Columns, value: object
) -> str:
    if columns.path in names:
        return f"{place}: row {number} must have a text in column {columns.path!r}, got {value!r}"
    return (
        f"{place}: has no column {columns.path!r}; its columns are {', '.join(names)}; name the "
        "one with the paths of the files: ARGS='columns.path=…'"
    )


def _check_captions(place: Path, names: Sequence[str], columns: Columns) -> None:
    """Warn that a list has no captions, before anything is encoded.

    Raises:
        ValueError: the column that was named is not there.
    """
    if not names or columns.caption in names:
        return
    said = f"{place}: has no column {columns.caption!r}; its columns are {', '.join(names)}"
    if columns.caption != CAPTION:
        raise ValueError(f"{said}; name the one with the captions: ARGS='columns.caption=…'")
    log.warning(
        "%s: no clip gets a caption. Name the column with the captions: ARGS='columns.caption=…'; "
        "or make captions of the shards: make captions",
        said,
    )


def _source(path: str, file: Path, caption: Any, columns: dict[str, Any], refused: str) -> Source:
    if OURS in columns:
        raise ValueError(
            f"{path}: the column name {OURS!r} is reserved for the data of the clip; rename the "
            "column"
        )
    if not isinstance(caption, str) and not refused:
        refused = f"its caption is a {type(caption).__name__}, not a text"
    size = modified = 0
    try:
        about = file.stat()
        size, modified = about.st_size, about.st_mtime_ns
        if not file.is_file():
            refused = refused or "is not a file"
    except (OSError, ValueError) as error:
        refused = refused or f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return Source(
        path=path,
        file=str(file.absolute()),
        size=size,
        modified=modified,
        caption=caption.strip() if isinstance(caption, str) else "",
        columns=json.loads(json.dumps(columns, default=str)),
        refused=refused,
    )
