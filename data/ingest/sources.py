"""The sources of `make shards`: a folder of videos and images, a list, or existing shards."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cascade.media.kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES

MEDIA = frozenset((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES))
LISTS = ("csv", "jsonl", "parquet")
OURS = "clip"
"""The key of a sample's json with the data of the clip; all other keys are the source's."""


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
        """A hash of its path, which is part of the keys of its clips."""
        return hashlib.blake2b(self.path.encode(errors="replace"), digest_size=8).hexdigest()

    def line(self) -> str:
        """The source as a line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources in order, and counts of ignored files by suffix."""

    sources: list[Source]
    others: dict[str, int] = field(default_factory=dict)


def is_shards(place: Path) -> bool:
    """Whether these are shards: a tar, a glob or range of tars, or a folder of tars.

    Raises:
        ValueError: a folder has both shards and media.
    """
    if not place.is_dir():
        return place.suffix == ".tar"
    tars = any(place.glob("*.tar"))
    if tars and (media := next(_media(place, Counter()), None)) is not None:
        raise ValueError(
            f"from: {place} has both shards and media, such as {media.name}; use a folder of only "
            "one kind"
        )
    return tars


def find_sources(place: Path) -> Sources:
    """The sources of a folder or list.

    Raises:
        ValueError: there is none, or the list cannot be read.
    """
    if place.is_dir():
        others: Counter[str] = Counter()
        files = sorted(_media(place, others), key=lambda file: file.relative_to(place).as_posix())
        found = Sources(sources=[_beside(place, file) for file in files], others=dict(others))
    elif place.is_file() and place.suffix[1:].lower() in LISTS:
        found = Sources(sources=list(_listed(place)))
    else:
        raise ValueError(
            f"from: {place} must be a folder, a list ({', '.join(LISTS)}) or a tar, but is none of "
            "them"
        )
    if not found.sources:
        raise ValueError(
            f"from: {place} has no video or image; supported are {', '.join(sorted(MEDIA))}"
        )
    digests = Counter(source.digest for source in found.sources if not source.refused)
    for digest, count in digests.most_common(1):
        if count > 1:
            names = [source.path for source in found.sources if source.digest == digest]
            raise ValueError(f"from: {names} have the same hash; rename one of them")
    return found


def _media(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """Media files below the folder; other and hidden files are counted."""
    for root, folders, names in os.walk(folder, followlinks=False):
        others["hidden folders"] += sum(name.startswith(".") for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        captioned = {Path(name).stem for name in names if _suffix(name) in MEDIA}
        for name in names:
            suffix, file = _suffix(name), Path(root) / name
            if suffix in MEDIA and not name.startswith(".") and file.is_file():
                yield file
            elif suffix not in ("txt", "json") or file.stem not in captioned:
                others[f".{suffix}" if suffix else "no suffix"] += 1
    others += Counter()


def _suffix(name: str) -> str:
    return Path(name).suffix[1:].lower()


def _beside(folder: Path, file: Path) -> Source:
    """A file with the caption and the json beside it."""
    path = file.relative_to(folder).as_posix()
    caption, columns, refused = "", {}, ""
    try:
        if (text := file.with_suffix(".json")).is_file():
            columns = json.loads(text.read_bytes())
            if not isinstance(columns, dict):
                raise ValueError(f"is a {type(columns).__name__}, not an object")
            caption = columns.get("caption") or ""
        if (text := file.with_suffix(".txt")).is_file():
            caption = text.read_text(encoding="utf-8").strip()
    except (ValueError, RecursionError) as error:
        columns, refused = {}, f"{text.name} cannot be read: {error}"
    return _source(path, file, caption, columns, refused)


def _listed(place: Path) -> Iterator[Source]:
    """The sources of a list; the first row of each path counts."""
    seen: dict[str, int] = {}
    for number, row in enumerate(_rows(place), start=1):
        path = row.pop("path", None)
        if not isinstance(path, str) or not path:
            raise ValueError(
                f"{place}: row {number} must have a text in column 'path', got {path!r}; its "
                f"columns are {sorted({*row, 'path'})}"
            )
        caption = row.pop("caption", None)
        refused = f"is listed twice; row {seen[path]} counts" if path in seen else ""
        seen.setdefault(path, number)
        if "://" in path:
            refused = "is a URL; download it and list the file"
        yield _source(path, place.parent / path, caption or "", row, refused)


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


def _rows(place: Path) -> Iterable[dict[str, Any]]:
    """The rows of a list, unchecked.

    Raises:
        ValueError: it cannot be parsed.
    """
    kind = place.suffix[1:].lower()
    if kind == "jsonl":
        yield from _json_lines(place)
        return
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if kind == "csv":
            texts = {"path": pa.string(), "caption": pa.string()}
            table = pyarrow.csv.read_csv(
                place,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(column_types=texts),
            )
        else:
            table = pyarrow.parquet.read_table(place)
    except pa.ArrowException as error:
        raise ValueError(f"{place}: is not a valid {kind} file: {error}") from error
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def _json_lines(place: Path) -> Iterator[dict[str, Any]]:
    with place.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place}: line {number} is not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{place}: line {number} is a {type(row).__name__}, not an object")
            yield row
