"""Counts of kept and dropped clips, made while packing; the same for every run."""

import heapq
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.ingest.part import Record
from data.ingest.sources import Source

MEASURES = ("duration", "side", "fps", "motion", "text")
"""The histograms of the report: seconds, pixels of the short side, frames per second, scores."""

_LISTED = 200


@dataclass(frozen=True, order=True, kw_only=True)
class Thumbnail:
    """A thumbnail of a clip, ordered by the digest of its source; the first ones are shown."""

    digest: str
    window: int
    title: str
    reason: str
    detail: str
    jpeg: str


@dataclass
class Lost:
    """Clips or sources dropped for one reason: their count, seconds, and unknown durations."""

    count: int = 0
    seconds: float = 0.0
    unknown: int = 0

    def add(self, seconds: float | None) -> None:
        """Add one."""
        self.count += 1
        self.seconds += seconds or 0.0
        self.unknown += seconds is None


@dataclass(kw_only=True)
class Tally:
    """Counts the sources, each added once, in order; writes a JSON line per window to `rows`."""

    rows: Path
    shown: int
    kinds: Counter[str] = field(default_factory=Counter)
    sources: dict[str, Lost] = field(default_factory=lambda: defaultdict(Lost))
    windows: dict[str, Lost] = field(default_factory=lambda: defaultdict(Lost))
    listed: list[tuple[str, str, str]] = field(default_factory=list)
    values: dict[str, "array[float]"] = field(
        default_factory=lambda: {name: array("d") for name in MEASURES}
    )
    kept: int = 0
    stills: int = 0
    seconds: float = 0.0
    bytes: int = 0
    reencoded: int = 0
    uncaptioned: int = 0
    sharing: int = 0
    """Kept clips that have the caption of their source, which has other kept clips."""
    _thumbnails: dict[str, list[Thumbnail]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.rows.parent.mkdir(parents=True, exist_ok=True)
        self._lines = self.rows.open("w")

    def add(self, source: Source, record: Record) -> None:
        """Add a source by its record."""
        self.kinds[record["kind"] or "dropped"] += 1
        if not record["kind"]:
            self.sources[record["reason"]].add(record["duration"])
            if len(self.listed) < _LISTED:
                self.listed.append((source.path, record["reason"], record["detail"]))
            about = {name: record[name] for name in ("reason", "detail", "duration")}
            self._lines.write(json.dumps({"source": source.path, **about}) + "\n")
        for row in record["windows"]:
            self._add_window(source, record, row)
        kept = sum(not row["reason"] for row in record["windows"])
        self.sharing += kept if source.caption and kept > 1 else 0

    def close(self) -> None:
        """Close the file of windows."""
        self._lines.close()

    def thumbnails(self) -> tuple[list[Thumbnail], list[Thumbnail]]:
        """Thumbnails of some kept clips, and of some dropped ones, spread over the reasons."""
        kept = sorted(self._thumbnails.get("", []))[: self.shown]
        reasons = [sorted(found) for reason, found in sorted(self._thumbnails.items()) if reason]
        turns = [found[i] for i in range(self.shown) for found in reasons if i < len(found)]
        return kept, turns[: self.shown]

    def report(self) -> dict[str, Any]:
        """The figures as JSON."""
        return {
            "sources": {
                "read": sum(self.kinds.values()),
                "kinds": dict(sorted(self.kinds.items())),
                "dropped": _lost(self.sources, "sources"),
            },
            "clips": {
                "kept": self.kept,
                "images": self.stills,
                "seconds": round(self.seconds, 3),
                "bytes": self.bytes,
                "reencoded": self.reencoded,
                "uncaptioned": self.uncaptioned,
                "sharing_caption": self.sharing,
                "dropped": _lost(self.windows, "clips"),
            },
            "histograms": {name: _histogram(values) for name, values in self.values.items()},
        }

    def _add_window(self, source: Source, record: Record, row: Record) -> None:
        lasting, scores = row["end"] - row["start"], row["scores"]
        line = {name: row.get(name) for name in ("window", "key", "start", "end", "reason")}
        line |= {"scores": scores, "duplicate_of": row.get("duplicate_of")}
        self._lines.write(json.dumps({"source": source.path, **line}) + "\n")
        for name in ("motion", "text"):
            if name in scores:
                self.values[name].append(scores[name])
        if row.get("thumbnail"):
            self._show(source, row)
        if row["reason"]:
            self.windows[row["reason"]].add(lasting)
            return
        self.kept += 1
        self.seconds += lasting
        self.bytes += row["bytes"]
        self.reencoded += bool(record["reencoded"])
        self.uncaptioned += not source.caption
        self.values["side"].append(min(row["width"], row["height"]))
        if record["kind"] == "image":
            self.stills += 1
        else:
            self.values["duration"].append(lasting)
            self.values["fps"].append(row["fps"])

    def _show(self, source: Source, row: Record) -> None:
        """Keep the thumbnails with the smallest source digests, `shown` per reason."""
        mine = self._thumbnails[row["reason"]]
        mine.append(
            Thumbnail(
                digest=source.digest,
                window=row["window"],
                title=source.path,
                reason=row["reason"],
                detail=_in_words(row),
                jpeg=row["thumbnail"],
            )
        )
        if len(mine) > 4 * self.shown:
            mine[:] = heapq.nsmallest(self.shown, mine)


def _in_words(row: Record) -> str:
    """The text beside a thumbnail: times, size and scores."""
    if "duplicate_of" in row:
        return f"looks like {row['duplicate_of']}"
    words = [f"{row['start']:.1f}–{row['end']:.1f} s", f"{row['width']}×{row['height']}"]
    words += [f"{name} {value:.2g}" for name, value in row["scores"].items() if value]
    return ", ".join(words)


def _lost(reasons: dict[str, Lost], what: str) -> dict[str, dict[str, float]]:
    return {
        reason: {
            what: lost.count,
            "seconds": round(lost.seconds, 3),
            "of_unknown_length": lost.unknown,
        }
        for reason, lost in sorted(reasons.items(), key=lambda item: (-item[1].count, item[0]))
    }


def _histogram(values: Sequence[float]) -> dict[str, list[float]]:
    if not len(values):
        return {"edges": [], "counts": []}
    counts, edges = np.histogram(np.asarray(values), bins=30)
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}
