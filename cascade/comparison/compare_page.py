"""The HTML page of a comparison: the table, the runs' videos side by side, the curves."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cascade.comparison.films import add_films
from cascade.comparison.run_record import RunRecord
from cascade.comparison.table import best_of_stages, chosen, differing, settings, short, to_cell
from cascade.report import Cell, Page

#: The most curves in one chart: one per colour of the page's style.
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
    """Write the page of these runs; `figures` and `curves` are patterns of metric names."""
    counts = Counter(record.state.partition(" at")[0] for record in records)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    page = Page(
        title,
        lead="Config differences, metrics and sample videos of these runs.",
        facts={"runs": f"{len(records)}: {states}"},
    )
    _table(page, records, figures)
    add_films(page, records, prompts=prompts)
    _curves(page, records, curves)
    page.section("Sources")
    page.table(("run", "source"), [(record.name, record.source) for record in records])
    return page.write(path)


def _table(page: Page, records: Sequence[RunRecord], patterns: Sequence[str]) -> None:
    keys, figures = differing(records), chosen(records, patterns)
    names, tops = short(keys), best_of_stages(records, figures)
    page.section(
        "Table",
        "The last value of each metric, and the config keys that differ; ✓ marks the best value "
        "among runs of one stage.",
    )
    rows = []
    for record in records:
        values = [record.last(name) for name in figures]
        cells = [
            Cell(value, "good") if (record.source, record.name) in tops[name] else value
            for name, value in zip(figures, values, strict=True)
        ]
        ended = Cell(record.state, "bad") if record.error else record.state
        rows.append((record.name, ended, record.step, *cells, *settings(record, keys)))
    page.table(("run", "state", "step", *figures, *(names[key] for key in keys)), rows)
    if not keys:
        page.text("The configs of these runs are equal.")
    failed = [(record.name, record.error) for record in records if record.error is not None]
    if failed:
        page.table(("failed run", "error"), failed)


def _curves(page: Page, records: Sequence[RunRecord], patterns: Sequence[str]) -> None:
    page.section("Curves")
    names = [n for n in chosen(records, patterns) if any(n in r.curves for r in records)]
    if not names:
        page.text("No run has recorded a curve yet.")
    for name in names:
        for label, part in chart_groups(records):
            series = {r.name: r.curves[name] for r in part if name in r.curves}
            if series:
                positive = all(y > 0 for curve in series.values() for _, y in curve)
                caption = f"{name}{label}"
                page.lines(series, y_label=name, log_y=positive and "loss" in name, caption=caption)


def chart_groups(records: Sequence[RunRecord]) -> list[tuple[str, Sequence[RunRecord]]]:
    """(Label, runs) of each chart: grouped by one config key's value if those groups are small.

    Otherwise the runs are cut into chunks in their order.
    """
    if len(records) <= CURVES:
        return [("", records)]
    keys = differing(records)
    names = short(keys)
    for key in keys:
        parts: dict[str, list[RunRecord]] = {}
        for record in records:
            parts.setdefault(str(to_cell(record.config.get(key))), []).append(record)
        if max(map(len, parts.values())) <= CURVES and len(parts) < len(records):
            return [(f", {names[key]} = {value}", part) for value, part in parts.items()]
    return [(f", part {i}", part) for i, part in enumerate(chunks(records), start=1)]


def chunks(records: Sequence[RunRecord]) -> list[Sequence[RunRecord]]:
    """The runs in their order, at most `CURVES` per chunk."""
    return [records[i : i + CURVES] for i in range(0, len(records), CURVES)]
