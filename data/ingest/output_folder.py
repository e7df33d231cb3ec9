"""The output folder of `make shards`: its recipe, its lock, and its unfinished work.

    TO/recipe.json      the recipe                    TO/sources.jsonl   the sources, in order
    TO/NAME-000000.tar  the shards, with indices      TO/report/         the page, written last
    TO/.work/           parts and records of finished sources; removed at the end

Every file is written atomically, by a rename, so a killed run leaves only complete files.
"""

import json
import secrets
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from cascade.files.atomic import write_atomic
from cascade.files.lock import locked
from data.ingest.part import Record
from data.ingest.recipe import Recipe, difference
from data.ingest.sources import Source, Sources

_PER_FOLDER = 1000


class Folder:
    """The paths below `to`, and the records of the sources."""

    def __init__(self, to: Path) -> None:
        self.to = to
        self.work = to / ".work"
        self.report = to / "report"

    @property
    def done(self) -> bool:
        """Whether the run is finished: the figures of the report are written last."""
        return (self.report / "report.json").is_file()

    def part(self, number: int) -> Path:
        """The path of a source's clips until they are packed."""
        return self.work / "parts" / f"{number // _PER_FOLDER:06d}" / f"{number:09d}.tar"

    def record_path(self, number: int) -> Path:
        """The path of a source's record; if it exists, the source is finished."""
        return self.work / "records" / f"{number // _PER_FOLDER:06d}" / f"{number:09d}.json"

    def record(self, number: int) -> Record | None:
        """The record of a source; None if it is not finished."""
        try:
            found: Record = json.loads(self.record_path(number).read_bytes())
        except FileNotFoundError:
            return None
        return found

    def recorded(self) -> set[int]:
        """The numbers of all finished sources."""
        return {int(path.stem) for path in (self.work / "records").glob("*/*.json")}

    def scratch(self, number: int) -> Path:
        """A new path for a part that is being written."""
        folder = self.work / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{number:09d}-{secrets.token_hex(6)}.tar"

    def commit(self, number: int, scratch: Path, record: Record) -> None:
        """Finish a source: move its part into place, then write its record."""
        if any("bytes" in row for row in record["windows"]):
            self.part(number).parent.mkdir(parents=True, exist_ok=True)
            scratch.replace(self.part(number))
        write_atomic(self.record_path(number), json.dumps(record).encode())

    def clear_scratch(self) -> None:
        """Remove unfinished files of killed runs; only with the lock, and while no job runs."""
        shutil.rmtree(self.work / "scratch", ignore_errors=True)
        for path in self.to.glob(".*.part"):
            path.unlink(missing_ok=True)

    def locked(self) -> AbstractContextManager[None]:
        """The lock of the folder.

        Raises:
            ValueError: another run has it.
        """
        busy = f"to: another run is writing to {self.to}; wait for its end, or stop it"
        return locked(self.work / "lock", busy=busy)

    def claim(self, recipe: Recipe, sources: Sources) -> None:
        """Record recipe and sources in a new folder, or compare them with an old folder's.

        Raises:
            ValueError: recipe or sources differ, or the folder has shards without a recipe.
        """
        made_with, made_from = self.to / "recipe.json", self.to / "sources.jsonl"
        lines = [source.line() for source in sources.sources]
        if not made_with.exists():
            if next(self.to.glob("*.tar"), None) is not None:
                raise ValueError(
                    f"to: {self.to} has shards but no recipe.json; choose another folder"
                )
            write_atomic(made_from, "".join(f"{line}\n" for line in lines).encode())
            write_atomic(made_with, json.dumps(recipe.record(), indent=1).encode())
            return
        changed = difference(json.loads(made_with.read_bytes()), recipe.record())
        before = made_from.read_text().splitlines()
        changed += _changed_sources(before, lines)
        if changed:
            raise ValueError(
                f"to: {self.to} was started with other settings or sources: {'; '.join(changed)}. "
                "Choose another folder, restore the old ones, or remove this folder to start again"
            )
        if before != lines:  # the files have been moved
            write_atomic(made_from, "".join(f"{line}\n" for line in lines).encode())


def read_sources(to: Path) -> list[Source]:
    """The sources recorded in a folder."""
    lines = (to / "sources.jsonl").read_text().splitlines()
    return [Source(**json.loads(line)) for line in lines]


def _changed_sources(old: list[str], new: list[str]) -> list[str]:
    """A short description of added, removed and changed sources."""
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
    changes = [
        ("added", sorted(after.keys() - before.keys())),
        ("removed", sorted(before.keys() - after.keys())),
        ("changed", [f"{path} ({', '.join(keys)})" for path, keys in sorted(differs.items())]),
    ]
    lines = [
        f"{len(names)} sources {what}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in changes
        if names
    ]
    return lines or ([] if list(before) == list(after) else ["the order of the sources changed"])


def _unplaced(line: str) -> Record:
    """A source without its location, which may change."""
    source: Record = json.loads(line)
    del source["file"]
    return source
