"""The table of several runs: the config keys that differ, and the metrics."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from cascade.checkpoint.run_config import FIXED, FREE, is_free_data
from cascade.comparison.run_record import RunRecord


def differing(records: Sequence[RunRecord]) -> list[str]:
    """The config keys whose values differ among the runs that have a config.

    A section that a run does not record at all is no difference. A key with the same values in all
    runs as an earlier key is left out: it follows from that one.
    """
    configs = [record.config for record in records if record.config]
    keys = dict.fromkeys(key for config in configs for key in config if counts(key))
    tops = [{key.partition(".")[0] for key in config} for config in configs]
    found: dict[str, list[str]] = {}
    for key in keys:
        top = key.partition(".")[0]
        values = [c.get(key, ...) for c, has in zip(configs, tops, strict=True) if top in has]
        if top == "trainer":
            values = [value for value in values if value is not ...]
        row = [repr(config.get(key, ...)) for config in configs]
        if any(value != values[0] for value in values[1:]) and row not in found.values():
            found[key] = row
    return list(found)


def counts(key: str) -> bool:
    """Whether a config key may change a run's metrics."""
    top, _, rest = key.partition(".")
    if top in FIXED:
        return rest.partition(".")[0] in FIXED[top]
    return top not in FREE and not (top == "data" and is_free_data(rest))


def short(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last parts, as many as make it unique."""
    found = {}
    for key in keys:
        words = key.split(".")
        for count in range(1, len(words) + 1):
            end = words[-count:]
            if sum(other.split(".")[-count:] == end for other in keys) == 1:
                break
        found[key] = ".".join(end)
    return found


def chosen(records: Sequence[RunRecord], patterns: Sequence[str]) -> list[str]:
    """The metrics that match, in the order of the patterns (`val/*`) and then of their names."""
    names = sorted({name for r in records for name in (*r.figures, *r.curves)})
    found = [n for pattern in patterns for n in names if fnmatchcase(n, pattern)]
    return list(dict.fromkeys(found))


def stage_of(record: RunRecord) -> tuple[object, ...]:
    """What a run trained: values of other stages and grids are not comparable."""
    target = ("frames", "height", "width", "fps")
    keys = ("stage.name", *(f"stage.target.{side}" for side in target))
    return tuple(record.config.get(key) for key in keys)


def best_of_stages(
    records: Sequence[RunRecord], names: Sequence[str]
) -> dict[str, set[tuple[str, str]]]:
    """Per metric the (source, name) of each run that has the best last value of its stage."""
    stages: dict[tuple[object, ...], list[RunRecord]] = {}
    for record in records:
        stages.setdefault(stage_of(record), []).append(record)
    return {
        name: {
            (one.source, one.name)
            for peers in stages.values()
            if (top := best(peers, name)) is not None
            for one in peers
            if one.last(name) == top
        }
        for name in names
    }


def best(records: Sequence[RunRecord], name: str) -> float | None:
    """The best of the runs' last values; None if the better direction is unknown."""
    values = [v for record in records if (v := record.last(name)) is not None and math.isfinite(v)]
    if len(values) < 2 or len(set(values)) == 1:
        return None
    word = name.rpartition("/")[2]
    if "loss" in word:
        return min(values)
    if any(part in word for part in ("psnr", "ssim", "all", "clips_per_s", "tflop", "mfu")):
        return max(values)
    return None


def to_cell(value: Any) -> str | float | int:
    """A config value as a cell."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return value if isinstance(value, int | float | str) else str(value)


def settings(record: RunRecord, keys: Sequence[str]) -> list[str | float | int | None]:
    """A run's values of these keys, as cells; None for a key that it lacks."""
    return [to_cell(record.config[key]) if key in record.config else None for key in keys]


def text(value: object) -> str:
    """A cell for a terminal."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def as_text(records: Sequence[RunRecord], patterns: Sequence[str]) -> str:
    """The table for a terminal: metrics and config differences per run, then the errors."""
    keys, figures = differing(records), chosen(records, patterns)
    names = short(keys)
    rows = [["run", "state", "step", *figures, *(names[key] for key in keys)]]
    for record in records:
        values = [record.last(name) for name in figures]
        rows.append(
            [
                record.name,
                record.state,
                str(record.step),
                *map(text, values),
                *map(text, settings(record, keys)),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    failed = [f"{r.name} failed: {r.error}" for r in records if r.error is not None]
    return "\n".join([*lines, *failed])
