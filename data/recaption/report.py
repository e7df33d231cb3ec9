"""What a call of the captioner did: a page to look at, and the same figures as JSON."""

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

from cascade.files.atomic import write_whole
from cascade.report import Film, Page
from cascade.report.html import Html, join, tag
from data.decode.probe import DecodeError
from data.recaption.captioning import Captioner
from data.recaption.clip_images import Pictures
from data.recaption.shardwork import ShardWork
from data.shards.caption import captions_path, read_beside, read_captions

log = logging.getLogger(__name__)

_THUMBNAILS = 4


def summary(job: Captioner) -> dict[str, Any]:
    """The figures of a job: counts of clips by what became of them, tokens, cost, lengths."""
    unfit: Counter[str] = Counter()
    failed: dict[str, str] = {}
    words: dict[str, list[int]] = {}
    clips = captioned = 0
    for shard, index in job.pairs:
        unfit.update(r for r in pq.read_table(index, columns=["reason"])["reason"].to_pylist() if r)
        work = ShardWork(shard, index, job.recipes, model=job.model.name, replace=job.replace)
        failed |= {f"{Path(shard).name}/{key}": why for key, why in work.failed().items()}
        captions = work.captions()
        for key in work.clips():
            clips += 1
            captioned += all(work.done(key, recipe) for recipe in job.recipes)
            for name, caption in captions.get(key, {}).items():
                words.setdefault(name, []).append(len(caption.split()))
    used = list(job.tally.used.values())
    return {
        "model": job.model.name,
        "clips": clips,
        "captioned": captioned,
        "captioned_now": job.tally.captioned,
        "failed": failed,
        "unfit": dict(unfit),
        "asked_again": dict(job.tally.again),
        "stopped": job.stopped,
        "answers": sum(u.answers for u in used),
        "unmetered_answers": sum(u.unmetered for u in used),
        "prompt_tokens": sum(u.prompt for u in used),
        "completion_tokens": sum(u.completion for u in used),
        "cost": job.tally.cost(job.budget.prices),
        "words": words,
    }


def samples(job: Captioner, count: int) -> Iterator[tuple[str, Mapping[str, Any], dict[str, str]]]:
    """Clips that have captions: (shard, line of the index, captions), spread over the shards."""
    each = -(-count // max(1, len(job.pairs)))
    for shard, index in job.pairs[:count]:
        captions = read_captions(captions_path(index))
        rows = (row for row in pq.read_table(index).to_pylist() if row["key"] in captions)
        for _, row in zip(range(each), rows, strict=False):
            yield shard, row, captions[row["key"]]


def write_report(job: Captioner, told: Mapping[str, Any], page: Path, *, shown: int) -> None:
    """Write the page, and its figures as `captions.json` beside it."""
    figures = {name: value for name, value in told.items() if name != "words"}
    figures["words"] = {name: _quantiles(counts) for name, counts in told["words"].items()}
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    write_whole(page.parent / "captions.json", text.encode())
    with tempfile.TemporaryDirectory() as folder:
        _page(job, told, Path(folder), shown).write(page)


def _quantiles(counts: Sequence[int]) -> dict[str, int]:
    ordered = sorted(counts)
    places = {"least": 0.0, "tenth": 0.1, "median": 0.5, "ninetieth": 0.9, "most": 1.0}
    return {name: ordered[round(at * (len(ordered) - 1))] for name, at in places.items()}


def _page(job: Captioner, told: Mapping[str, Any], folder: Path, shown: int) -> Page:
    page = Page(
        "New captions",
        lead=f"By {told['model']}. {told['captioned']} of {told['clips']} clips have them."
        + (f" Stopped: {told['stopped']}." if told["stopped"] else ""),
        facts={"shards": len(job.pairs), "recipes": ", ".join(job.recipes)},
    )
    prices = job.budget.prices
    page.section("Counts").figures(
        (
            (told["captioned"], "captioned", f"{told['captioned_now']} in this call"),
            (len(told["failed"]), "failed", "tried again by the next call"),
            (sum(told["unfit"].values()), "unfit", "do not decode"),
            (
                f"{told['cost']:.4g}",
                "cost",
                f"at {prices['prompt']:g} and {prices['completion']:g} per million",
            ),
            (told["prompt_tokens"], "prompt tokens", ""),
            (told["completion_tokens"], "completion tokens", f"{told['answers']} answers"),
        )
    )
    for title, reasons in (
        ("Failed", Counter(told["failed"].values())),
        ("Asked again in this call", Counter(told["asked_again"])),
        ("Unfit", Counter(told["unfit"])),
    ):
        if reasons:
            page.table(("reason", "times"), reasons.most_common(20), caption=title)
    if told["words"]:
        page.section("Lengths")
        for name, counts in told["words"].items():
            page.histogram(counts, label="words", caption=f"{name}: {len(counts)} captions")
    page.section("Samples")
    films = asyncio.run(_films(job, folder, shown))
    return page.gallery(films, size=640) if films else page.text("There is nothing to show.")


async def _films(job: Captioner, folder: Path, shown: int) -> list[tuple[str, Film]]:
    films: list[tuple[str, Film]] = []
    pictures = Pictures(count=_THUMBNAILS, side=192, quality=85, decoders=1)
    try:
        for shard, row, captions in samples(job, shown):
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
    """The pictures side by side."""
    images = [Image.open(io.BytesIO(one)) for one in jpegs]
    width, height = sum(i.width for i in images), max(i.height for i in images)
    strip, at = Image.new("RGB", (width, height)), 0
    for image in images:
        strip.paste(image, (at, 0))
        at += image.width
    strip.save(path, "jpeg", quality=85)
    return path
