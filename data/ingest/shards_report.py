"""The report of `make shards`: kept clips, dropped clips with their reasons, and thumbnails."""

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cascade.files.atomic import write_atomic
from cascade.report import Cell, Film, Page
from data.ingest.output_folder import Folder
from data.ingest.recipe import Recipe
from data.ingest.tally import Lost, Tally, Thumbnail


def write_report(
    folder: Folder, recipe: Recipe, tally: Tally, shards: Sequence[Path], others: Mapping[str, int]
) -> None:
    """Write the page, one line per clip, and last the figures, which mark the run as finished."""
    page = Page(
        f"Shards: {recipe.packing.prefix}",
        lead="The clips that were made from the sources, and the reason for each dropped one.",
        facts={
            "shards": len(shards),
            "clips": tally.kept,
            "bytes": _bytes(tally.bytes),
            "not read": ", ".join(f"{n} {name}" for name, n in sorted(others.items())) or "nothing",
        },
    )
    _figures(page, tally)
    _dropped(page, tally)
    _histograms(page, recipe, tally)
    with tempfile.TemporaryDirectory() as scratch:
        _contact_sheets(page, tally, Path(scratch))
        _recipe(page, recipe)
        page.write(folder.report / "index.html")
    tally.rows.replace(folder.report / "clips.jsonl")
    figures = {**tally.report(), "not_read": dict(sorted(others.items()))}
    figures |= {"shards": [path.name for path in shards], "recipe": recipe.record()}
    write_atomic(folder.report / "report.json", json.dumps(figures, indent=1).encode())


def _figures(page: Page, tally: Tally) -> None:
    lost = sum(each.seconds for each in (*tally.sources.values(), *tally.windows.values()))
    read, dropped = sum(tally.kinds.values()), sum(each.count for each in tally.windows.values())
    page.section("Summary")
    page.figures(
        [
            (tally.kept, "clips kept", f"{tally.stills} of them images"),
            (_lasting(tally.seconds), "kept", f"{_lasting(lost)} dropped"),
            (dropped, "clips dropped", "of readable sources"),
            (tally.kinds["dropped"], "sources dropped", f"of {read}"),
            (tally.reencoded, "re-encoded", f"{tally.kept - tally.reencoded} kept their bytes"),
            (tally.uncaptioned, "without a caption", "of the kept clips"),
            (tally.sharing, "share a caption", "of their source, with its other clips"),
        ]
    )


def _dropped(page: Page, tally: Tally) -> None:
    page.section(
        "Dropped clips and sources",
        "A clip counts once, for the first reason found. An unreadable source counts with the "
        "duration in its header, if there is one.",
    )
    rows = [
        *_rows("clip", tally.windows),
        *_rows("source", tally.sources),
    ]
    if not rows:
        page.text("Nothing was dropped.")
        return
    page.table(("reason", "what", "count", "seconds lost", "of unknown duration"), rows)
    if tally.listed:
        count = tally.kinds["dropped"]
        caption = f"{len(tally.listed)} of the {count} dropped sources"
        page.table(("source", "reason", "detail"), tally.listed, caption=caption)


def _rows(what: str, lost: Mapping[str, Lost]) -> list[tuple[object, ...]]:
    ordered = sorted(lost.items(), key=lambda item: (-item[1].count, item[0]))
    return [
        (reason, what, each.count, round(each.seconds, 1), each.unknown) for reason, each in ordered
    ]


def _histograms(page: Page, recipe: Recipe, tally: Tally) -> None:
    values, filters = tally.values, recipe.filters
    page.section("Distributions")
    page.histogram(
        values["duration"],
        label="duration",
        unit="s",
        marks={"min_s": recipe.windows.min_s, "max_s": recipe.windows.max_s},
        caption="Kept videos.",
    )
    side = recipe.encoding.short_side
    page.histogram(
        values["side"],
        label="short side",
        unit="pixels",
        marks={} if side is None else {"short_side": side},
        caption="Kept clips, including images.",
    )
    page.histogram(values["fps"], label="frame rate", unit="fps", caption="Kept videos.")
    page.histogram(
        values["motion"],
        label="motion",
        unit="heights per second",
        marks={} if filters.motion is None else {"minimum": filters.motion},
        caption="Mean optical flow of all measured clips, including dropped ones.",
    )
    page.histogram(
        values["text"],
        label="text",
        unit="share of the area",
        marks={} if filters.text is None else {"maximum": filters.text},
        caption="Clips in which text was searched: those not dropped for another reason.",
    )


def _contact_sheets(page: Page, tally: Tally, scratch: Path) -> None:
    kept, dropped = tally.thumbnails()
    page.section("Kept", "Middle frames of some clips, chosen by the hashes of their names.")
    _gallery(page, kept, scratch, "no clip was kept")
    page.section("Dropped", "Middle frames of some clips for each reason.")
    _gallery(page, dropped, scratch, "no clip with a thumbnail was dropped")


def _gallery(page: Page, shown: Sequence[Thumbnail], scratch: Path, empty: str) -> None:
    films = []
    for each in shown:
        path = scratch / f"{each.digest}-{each.window}.jpg"
        path.write_bytes(base64.b64decode(each.jpeg))
        note = Cell(each.reason, "bad") if each.reason else ""
        films.append((f"{each.title}: {each.detail}", Film(path, note=note)))
    if films:
        page.gallery(films, size=180)
    else:
        page.text(f"None: {empty}.")


def _recipe(page: Page, recipe: Recipe) -> None:
    page.section("Recipe")
    rows = [
        (f"{section}.{name}", "off" if value is None else str(value))
        for section, values in recipe.record().items()
        for name, value in values.items()
    ]
    page.table(("setting", "value"), rows)


def _lasting(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
