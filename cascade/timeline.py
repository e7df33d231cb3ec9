"""A timeline: several prompts of one video, each for a span of time, from a YAML or JSON file.

- {from: 0, to: 4, prompt: a red ball moves left}
- {from: 4, to: 8, prompt: the red ball stops}
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cascade.files.text import read_list

KEYS = ("from", "to", "prompt")


def load_timeline(path: str, *, who: str = "timeline") -> list[Any]:
    """The entries of a file, checked.

    Raises:
        ValueError: it cannot be read, or is no timeline.
    """
    entries = read_list(path, who=who)
    read_timeline(entries, who=f"{who}={path}")
    return entries


def read_timeline(entries: Any, *, who: str = "timeline") -> list[tuple[float, float, str]]:
    """(start, end, prompt) of each entry of a timeline, in seconds.

    Raises:
        ValueError: an entry has other keys or values, or the spans do not follow each other from 0
            without gap and overlap.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise ValueError(
            f"{who}: must be a list of entries with the keys {', '.join(KEYS)}, got {entries!r}"
        )
    found, end = [], 0.0
    for number, entry in enumerate(entries, 1):
        start, stop, prompt = _entry(entry, f"{who}: entry {number}")
        if start != end:
            wrong = "leaves a gap" if start > end else "overlaps the one before"
            raise ValueError(
                f"{who}: entry {number} begins at {start:g} s and {wrong}, which ends at "
                f"{end:g} s; write from: {end:g}"
            )
        if not stop > start:
            raise ValueError(f"{who}: entry {number} ends at {stop:g} s, but begins at {start:g} s")
        found.append((start, stop, prompt))
        end = stop
    return found


def _entry(entry: Any, who: str) -> tuple[float, float, str]:
    if not isinstance(entry, Mapping) or {*entry} != {*KEYS}:
        got = ", ".join(map(str, entry)) if isinstance(entry, Mapping) else repr(entry)
        raise ValueError(f"{who}: must have the keys {', '.join(KEYS)}, got {got}")
    for key in ("from", "to"):
        value = entry[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
            raise ValueError(f"{who}: {key} must be seconds, at least 0, got {value!r}")
    if not isinstance(entry["prompt"], str):
        raise ValueError(f"{who}: prompt must be text, got {entry['prompt']!r}")
    return float(entry["from"]), float(entry["to"]), entry["prompt"]
