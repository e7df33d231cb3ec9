"""The folder that is written to: its claim, its lock, and what is in work there.

    TO/recipe.json      what it is made with          TO/sources.jsonl   … and from, in order
    TO/NAME-000000.tar  the shards, with indices      TO/report/         the page, written last
    TO/.work/           parts and records of sources that are done; gone when all is

Every file appears whole, by a rename, so a run killed at any moment leaves only whole ones.
"""

import json
import secrets
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from cascade.files.atomic import write_whole
from cascade.files.lock import locked
from data.ingest.part import Record
from data.ingest.recipe import Recipe, difference
from data.ingest.sources import Source, Sources

_PER_FOLDER = 1000


class Folder:
    """The paths below `to`, and the records of sources."""

    def __init__(self, to: Path) -> None:
        self.to = to
        self.work = to / ".work"
        self.report = to / "report"

    @property
    def done(self) -> bool:
        """Whether everything stands: the report's figures are written last."""
        return (self.report / "report.json").is_file()

    def part(self, number: int) -> Path:
        """Where a source's clips wait to be packed."""
        return self.work / "parts" / f"{number // _PER_FOLDER:06d}" / f"{number:09d}.tar"

    def record_path(self, number: int) -> Path:
        """Where a source's record is; once it is there, the source is done."""
        return self.work / "records" / f"{number // _PER_FOLDER:06d}" / f"{number:09d}.json"

    def record(self, number: int) -> Record | None:
        """What was found in a source; None while it is not done."""
        try:
            found: Record = json.loads(self.record_path(number).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def recorded(self) -> set[int]:
        """The numbers of all sources that are done."""
        return {int(path.stem) for path in (self.work / "records").glob("*/*.json")}

    def scratch(self, number: int) -> Path:
        """A new path for a part that is being written."""
        folder = self.work / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{number:09d}-{secrets.token_hex(6)}.tar"

    def commit(self, number: int, scratch: Path, record: Record) -> None:
        """A source is done: its part, then its record, which says so."""
        if any("bytes" in row for row in record["windows"]):
            self.part(number).parent.mkdir(parents=True, exist_ok=True)
            scratch.replace(self.part(number))
        write_whole(self.record_path(number), json.dumps(record).encode())

    def clear_scratch(self) -> None:
        """Remove what killed runs were writing; only for who holds the lock, and no job runs."""
        shutil.rmtree(self.work / "scratch", ignore_errors=True)
        for path in self.to.glob(".*.part"):
            path.unlink(missing_ok=True)

    def locked(self) -> AbstractContextManager[None]:
        """Only one run at a time.

        Raises:
            ValueError: another is at work.
        """
        busy = f"to: another run is writing to {self.to}; wait for it, or stop it"
        return locked(self.work / "lock", busy=busy)

    def claim(self, recipe: Recipe, sources: Sources) -> None:
        """Record what the folder is made with and from, or hold it against the record.

        Raises:
            ValueError: it was made otherwise, or holds shards of something else.
        """
        made_with, made_from = self.to / "recipe.json", self.to / "sources.jsonl"
        lines = [source.line() for source in sources.sources]
        if not made_with.exists():
            if next(self.to.glob("*.tar"), None) is not None:
                raise ValueError(f"to: {self.to} holds shards, but no recipe.json; take another")
            write_whole(made_from, "".join(f"{line}\n" for line in lines).encode())
            write_whole(made_with, json.dumps(recipe.record(), indent=1).encode())
            return
        changed = difference(json.loads(made_with.read_bytes()), recipe.record())
        before = made_from.read_text().splitlines()
        changed += _changed_sources(before, lines)
        if changed:
            raise ValueError(
                f"to: {self.to} was begun otherwise: {'; '.join(changed)}. Take another folder, "
                "put things back as they were, or remove this folder to begin again"
            )
        if before != lines:  # they lie elsewhere now
            write_whole(made_from, "".join(f"{line}\n" for line in lines).encode())


def read_sources(to: Path) -> list[Source]:
    """The sources that a folder was claimed for."""
    lines = (to / "sources.jsonl").read_text().splitlines()
    return [Source(**json.loads(line)) for line in lines]


def _changed_sources(old: list[str], new: list[str]) -> list[str]:
    """What was added to, taken from or changed in the sources, in a few words."""
    if old == new:
        return []
    before = {source["path"]: source for source in map(_unplaced, old)}
    after = {source["path"]: source for source in map(_unplaced, new)}
    both = before.keys() & after.keys()
    differs = {
        path: [key for key in before[path] if before[path][key] != after[path].get(key)]
        for path in both
        if before[path] != after[path]
    }
    told = [
        ("added", sorted(after.keys() - before.keys())),
        ("gone", sorted(before.keys() - after.keys())),
        ("changed", [f"{path} ({', '.join(keys)})" for path, keys in sorted(differs.items())]),
    ]
    lines = [
        f"{len(names)} sources {what}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in told
        if names
    ]
    return lines or ([] if list(before) == list(after) else ["the sources' order changed"])


def _unplaced(line: str) -> Record:
    """A source without where it lies, which may change."""
    source: Record = json.loads(line)
    del source["file"]
    return source
