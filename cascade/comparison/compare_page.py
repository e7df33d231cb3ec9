"""The page of a comparison: the table, the runs' videos side by side, and the curves."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cascade.comparison.films import add_films
from cascade.comparison.run_record import RunRecord
from cascade.comparison.table import best, chosen, differing, said, settings, short
from cascade.report import Cell, Page

#: Curves in one chart: as many as it has colours for.
CURVES = 6


def write_page(
    records: Sequence[RunRecord],
    path: Path,
    *,
    title: str,
    figures: Sequence[str],
    curves: Sequence[str],
    prompts: int,
) -> Path:
    """Write the page of these runs; `figures` and `curves` are patterns of names."""
    counts = Counter(record.state.partition(" at")[0] for record in records)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    page = Page(
        title,
        lead="What differs in these runs, what came of it, and what they make.",
        facts={"runs": f"{len(records)}: {states}"},
    )
    _table(page, records, figures)
    add_films(page, records, prompts=prompts)
    _curves(page, records, curves)
    page.section("Where they were read")
    page.table(("run", "source"), [(record.name, record.source) for record in records])
    return page.write(path)


def _table(page: Page, records: Sequence[RunRecord], patterns: Sequence[str]) -> None:
    keys, figures = differing(records), chosen(records, patterns)
    names, top = short(keys), {name: best(records, name) for name in figures}
    page.section(
        "The table",
        "Where their configs differ, and the last value of each figure; ✓ marks the best.",
    )
    rows = []
    for record in records:
        values = [record.last(name) for name in figures]
        cells = [
            Cell(value, "good") if value is not None and value == top[name] else value
            for name, value in zip(figures, values, strict=True)
        ]
        ended = Cell(record.state, "bad") if record.error else record.state
        rows.append((record.name, ended, record.step, *cells, *settings(record, keys)))
    page.table(("run", "state", "step", *figures, *(names[key] for key in keys)), rows)
    if not keys:
        page.text("Their configs are the same.")
    failed = [(record.name, record.error) for record in records if record.error is not None]
    if failed:
        page.table(("failed", "its last words"), failed)


def _curves(page: Page, records: Sequence[RunRecord], patterns: Sequence[str]) -> None:
    page.section("The curves")
    names = [n for n in chosen(records, patterns) if any(n in r.curves for r in records)]
    if not names:
        page.text("None of these runs has recorded a curve yet.")
    for name in names:
        for label, part in parted(records):
            series = {r.name: r.curves[name] for r in part if name in r.curves}
            if series:
                positive = all(y > 0 for curve in series.values() for _, y in curve)
                caption = f"{name}{label}"
                page.lines(series, y_label=name, log_y=positive and "loss" in name, caption=caption)


def parted(records: Sequence[RunRecord]) -> list[tuple[str, Sequence[RunRecord]]]:
    """Runs in parts small enough for one chart, by the values of one key where that does it."""
    if len(records) <= CURVES:
        return [("", records)]
    keys = differing(records)
    names = short(keys)
    for key in keys:
        parts: dict[str, list[RunRecord]] = {}
        for record in records:
            parts.setdefault(str(said(record.config.get(key))), []).append(record)
        if max(map(len, parts.values())) <= CURVES and len(parts) < len(records):
            return [(f", {names[key]} = {value}", part) for value, part in parts.items()]
    return [(f", part {i}", part) for i, part in enumerate(pieces(records), start=1)]


def pieces(records: Sequence[RunRecord]) -> list[Sequence[RunRecord]]:
    """The runs in their order, as many at a time as one chart takes."""
    return [records[i : i + CURVES] for i in range(0, len(records), CURVES)]
