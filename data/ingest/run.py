"""All steps of `make shards`: find sources, read them, pack, index and report."""

import dataclasses
import logging
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from cascade.files.text import typed
from cascade.progress import SteadyProgress
from data.index.sidecar import ensure_index
from data.ingest.output_folder import Folder
from data.ingest.pack import Packer
from data.ingest.recipe import Recipe
from data.ingest.sources import Columns, Sources, find_sources, is_shards, told
from data.ingest.tally import Tally
from data.ingest.work import Bench, Cluster, IngestPlan
from data.shards.store import find_shards

log = logging.getLogger(__name__)

_SAID = 5  # dropped sources on the console; the others are in the report
_THUMBNAILED = 20  # sources with thumbnails, per thumbnail in the report
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that do not change the bytes.

    `ahead` is the number of sources that may be read before the first unfinished one is packed.
    """

    deadline_s: float
    memory_gb: float | None
    ahead: int
    thumbnails: int


def make_shards(
    place: str,
    to: Path | None,
    recipe: Recipe,
    cluster: Cluster,
    settings: Settings,
    columns: Columns | None = None,
) -> list[str]:
    """Make shards from the files at `place`, or continue; existing shards are only indexed.

    Raises:
        ValueError: there is no source, no clip was kept, or `to` has other shards.
    """
    if "://" in place or is_shards(Path(place).expanduser()):
        shards = find_shards(place)
        if to is not None:
            raise ValueError(
                f"to: {place} has shards, which are only indexed in place; omit TO={to}, or "
                "extract the shards to cut and filter their videos"
            )
        log.info("%s: %d existing shards are only indexed", place, len(shards))
        ensure_index(shards, depth="full")
        return shards
    if to is None:
        raise ValueError(f"to: an output folder is required for the shards of {place}: TO=folder")
    source = Path(place).expanduser()
    recipe = _named(recipe, source)
    found, folder = find_sources(source, columns), Folder(to.expanduser())
    log.info("%s: %s", place, found)
    if folder.to.absolute().is_relative_to(source.absolute()):
        raise ValueError(f"to: {to} is inside the source folder {source}; choose another folder")
    with folder.locked():
        folder.claim(recipe, found)
        if folder.done:
            log.info("%s is finished; the report is in %s", folder.to, folder.report)
        else:
            _make(folder, found, recipe, cluster, settings)
        shards = sorted(str(path) for path in folder.to.glob("*.tar"))
        ensure_index(shards, depth="full")
        shutil.rmtree(folder.work)
    if not shards:
        raise ValueError(
            f"from: no clip of {len(found.sources)} sources was kept; for the reasons see "
            f"{folder.report / 'index.html'}"
        )
    return shards


def _named(recipe: Recipe, source: Path) -> Recipe:
    """The recipe with a prefix, by default the name of the source."""
    prefix = recipe.packing.prefix
    if prefix is None:
        prefix = "-".join(_NAME.findall(source.absolute().stem)) or "clips"
    if not _NAME.fullmatch(prefix):
        raise ValueError(
            "packing.prefix may only have letters, digits, - and _, because it is part of keys; "
            f"got {prefix!r}"
        )
    return dataclasses.replace(recipe, packing=dataclasses.replace(recipe.packing, prefix=prefix))


def _make(
    folder: Folder, found: Sources, recipe: Recipe, cluster: Cluster, settings: Settings
) -> None:
    """Read and pack all sources, then write the report."""
    count, shown = len(found.sources), settings.thumbnails
    memory = settings.memory_gb
    bench = Bench(
        deadline_s=settings.deadline_s,
        memory_bytes=None if memory is None else int(memory * 2**30),
        thumbnails=min(1.0, _THUMBNAILED * shown / count),
    )
    tally = Tally(rows=folder.work / "clips.jsonl", shown=shown)
    prefix = str(recipe.packing.prefix)
    packer = Packer(folder, found.sources, recipe, prefix, tally.add)
    plan = IngestPlan(
        folder=folder,
        sources=found.sources,
        recipe=recipe,
        bench=bench,
        may_begin=lambda number: number < packer.next + settings.ahead,
    )
    done = folder.recorded()
    todo = [number for number in range(count) if number not in done]
    log.info("%s: %d of %d sources left to read", folder.to, len(todo), count)
    with _bar() as bar:
        line = bar.add_task("sources", total=count, counts="")
        packer.advance()
        bar.update(line, completed=packer.next)
        for _ in cluster.work(plan, todo):
            packer.advance()
            bar.update(line, completed=packer.next, counts=_counts(tally, packer))
        packer.advance()
        bar.update(line, completed=packer.next, counts=_counts(tally, packer))
    tally.close()
    if packer.shards:
        cluster.index(folder, [str(path) for path in packer.shards])
    for said in _write_report(folder, recipe, tally, packer, found):
        log.info("%s", said)


def _write_report(
    folder: Folder, recipe: Recipe, tally: Tally, packer: Packer, found: Sources
) -> list[str]:
    """Write the report; return what the console says of it."""
    from data.ingest.shards_report import write_report  # imports torch

    write_report(folder, recipe, tally, packer.shards, found.others)
    lost = Counter[str]()
    for reason, each in (*tally.windows.items(), *tally.sources.items()):
        lost[reason] += each.count
    lines = [
        f"{folder.to}: {tally.kept} clips ({tally.seconds:.0f} s) in {len(packer.shards)} shards; "
        f"dropped: {told(lost) or 'nothing'}; not read: {told(found.others) or 'nothing'}; report: "
        f"{folder.report / 'index.html'}"
    ]
    for path, reason, detail in tally.listed[:_SAID]:
        lines.append(f"dropped: {path}: {reason}: {detail}")
    for count, what, only in (
        (tally.uncaptioned, "have no caption, which training requires", "missing"),
        (tally.sharing, "share their source's caption with its other clips", "shared"),
    ):
        if count:
            lines.append(
                f"{count} of {tally.kept} clips {what}: make captions {typed('SHARDS', folder.to)} "
                f"ARGS='only={only}' makes captions for these alone"
            )
    return lines


def _counts(tally: Tally, packer: Packer) -> str:
    lost = sum(each.count for each in (*tally.windows.values(), *tally.sources.values()))
    return f"{tally.kept} clips kept, {lost} dropped, {len(packer.shards)} shards"


def _bar() -> SteadyProgress:
    return SteadyProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
    )
