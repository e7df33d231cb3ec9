"""The report of a captioning run: a page, and the same figures as JSON."""

import asyncio
import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from cascade.files.atomic import write_atomic
from cascade.media.reason import DecodeError
from cascade.report import Film, Page
from cascade.report.html import Html, join, tag
from data.recaption.captioning import Captioner
from data.recaption.clip_images import Pictures
from data.shards.caption import captions_path, read_beside, read_captions

log = logging.getLogger(__name__)

_THUMBNAILS = 4


def summary(captioner: Captioner) -> dict[str, Any]:
    """The figures of a run: counts of clips by outcome, tokens, cost, and lengths."""
    unusable: Counter[str] = Counter()
    failed: dict[str, str] = {}
    words: dict[str, list[int]] = {}
    clips = captioned = 0
    for shard, index in captioner.pairs:
        reasons = pq.read_table(index, columns=["reason"])["reason"].to_pylist()
        unusable.update(reason for reason in reasons if reason)
        work = captioner.work(shard, index)
        failed |= {f"{key} of {shard}": why for key, why in work.failed().items()}
        captions = work.captions()
        for key in work.clips():
            clips += 1
            captioned += all(work.done(key, recipe) for recipe in captioner.recipes)
            for name, caption in captions.get(key, {}).items():
                words.setdefault(name, []).append(len(caption.split()))
    used = list(captioner.tally.used.values())
    return {
        "model": captioner.model.name,
        "clips": clips,
        "captioned": captioned,
        "captioned_now": captioner.tally.captioned,
        "failed": failed,
        "unusable": dict(unusable),
        "retried": dict(captioner.tally.retried),
        "stopped": captioner.stopped,
        "answers": sum(u.answers for u in used),
        "unmetered_answers": sum(u.unmetered for u in used),
        "prompt_tokens": sum(u.prompt for u in used),
        "completion_tokens": sum(u.completion for u in used),
        "cost": captioner.tally.cost(captioner.budget.prices),
        "words": words,
    }


def samples(
    captioner: Captioner, count: int
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, str]]]:
    """Clips with captions: (shard, row of the index, captions), spread over the shards."""
    each = -(-count // max(1, len(captioner.pairs)))
    for shard, index in captioner.pairs[:count]:
        captions = read_captions(captions_path(index))
        rows = (row for row in pq.read_table(index).to_pylist() if row["key"] in captions)
        for _, row in zip(range(each), rows, strict=False):
            yield shard, row, captions[row["key"]]


def write_report(
    captioner: Captioner, figures: Mapping[str, Any], page: Path, *, shown: int
) -> None:
    """Write the page, and the figures as `captions.json` beside it."""
    words = {name: _quantiles(counts) for name, counts in figures["words"].items()}
    text = json.dumps({**figures, "words": words}, indent=2, ensure_ascii=False) + "\n"
    write_atomic(page.parent / "captions.json", text.encode())
    with tempfile.TemporaryDirectory() as folder:
        _page(captioner, figures, Path(folder), shown).write(page)


def _quantiles(counts: Sequence[int]) -> dict[str, int]:
    ordered = sorted(counts)
    places = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: ordered[round(at * (len(ordered) - 1))] for name, at in places.items()}


def _page(captioner: Captioner, figures: Mapping[str, Any], folder: Path, shown: int) -> Page:
    page = Page(
        "New captions",
        lead=f"By {figures['model']}. {figures['captioned']} of {figures['clips']} clips have them."
        + (f" Stopped: {figures['stopped']}." if figures["stopped"] else ""),
        facts={"shards": len(captioner.pairs), "recipes": ", ".join(captioner.recipes)},
    )
    prices = captioner.budget.prices
    page.section("Counts").figures(
        (
            (figures["captioned"], "captioned", f"{figures['captioned_now']} in this call"),
            (len(figures["failed"]), "failed", "retried by the next call"),
            (sum(figures["unusable"].values()), "unusable", "cannot be decoded"),
            (
                f"{figures['cost']:.4g}",
                "cost",
                f"at {prices['prompt']:g} and {prices['completion']:g} per million",
            ),
            (figures["prompt_tokens"], "prompt tokens", ""),
            (figures["completion_tokens"], "completion tokens", f"{figures['answers']} answers"),
        )
    )
    for title, reasons in (
        ("Failed", Counter(figures["failed"].values())),
        ("Retried in this call", Counter(figures["retried"])),
        ("Unusable", Counter(figures["unusable"])),
    ):
        if reasons:
            page.table(("reason", "times"), reasons.most_common(20), caption=title)
    if figures["words"]:
        page.section("Lengths")
        for name, counts in figures["words"].items():
            page.histogram(counts, label="words", caption=f"{name}: {len(counts)} captions")
    page.section("Samples")
    films = asyncio.run(_films(captioner, folder, shown))
    return page.gallery(films, size=640) if films else page.text("There are no captions.")


async def _films(captioner: Captioner, folder: Path, shown: int) -> list[tuple[str, Film]]:
    films: list[tuple[str, Film]] = []
    pictures = Pictures(count=_THUMBNAILS, side=192, quality=85, decoders=1)
    try:
        for shard, row, captions in samples(captioner, shown):
            try:
                strip = _strip(await pictures(shard, row), folder / f"{len(films)}.jpg")
                text, state = read_beside(shard, row)
            except (DecodeError, OSError, ValueError) as error:
                log.warning("%s: %s is not on the page: %s", shard, row["key"], error)
                continue
            old = text.strip() or state.get("caption") or "none"
            films.append((row["key"], Film(strip, note=_captions({"old": old, **captions}))))
    finally:
        pictures.close()
    return films


def _captions(captions: Mapping[str, str]) -> Html:
    lines = [
        join((tag("b", name), f": {caption}", tag("br"))) for name, caption in captions.items()
    ]
    return join(lines)


def _strip(jpegs: Sequence[bytes], path: Path) -> Path:
    """The images side by side."""
    images = [Image.open(io.BytesIO(one)) for one in jpegs]
    width, height = sum(i.width for i in images), max(i.height for i in images)
    strip, at = Image.new("RGB", (width, height)), 0
    for image in images:
        strip.paste(image, (at, 0))
        at += image.width
    strip.save(path, "jpeg", quality=85)
    return path
