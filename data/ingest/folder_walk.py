"""The media files below a folder, each with the texts beside it; what is not read is counted."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TEXTS = ("txt", "json")


class Beside(NamedTuple):
    """A media file, and the texts beside it by suffix."""

    file: Path
    texts: Mapping[str, Path]


class FolderWalk:
    """Iterates over the media files of a folder; then `others` counts what is not read.

    A linked folder is read once, under the name of its link, unless it is below the folder anyway.
    """

    def __init__(self, folder: Path, media: Collection[str]) -> None:
        self._folder, self._media = folder, media
        self._seen: set[tuple[int, int]] = set()
        self._links: list[Path] = []
        self._others: Counter[str] = Counter()

    @property
    def others(self) -> dict[str, int]:
        """Counts of files and folders that are not read, by kind."""
        return dict(+self._others)

    def __iter__(self) -> Iterator[Beside]:
        yield from self._walk(self._folder)
        while self._links:
            link = self._links.pop(0)
            if _identity(link) in self._seen:
                self._others["linked folders that are read under another name"] += 1
            else:
                yield from self._walk(link)

    def _walk(self, top: Path) -> Iterator[Beside]:
        for root, folders, names in os.walk(top, onerror=self._unreadable):
            self._seen.add(_identity(Path(root)))
            self._others["hidden folders"] += sum(name.startswith(".") for name in folders)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [Path(root, name) for name in folders]
            self._links += [path for path in paths if path.is_symlink()]
            again = {p.name for p in paths if not p.is_symlink() and _identity(p) in self._seen}
            folders[:] = [name for name in folders if name not in again]
            yield from self._files(Path(root), names)

    def _files(self, root: Path, names: Sequence[str]) -> Iterator[Beside]:
        files = [n for n in names if _suffix(n) in self._media and not n.startswith(".")]
        texts = [name for name in names if _suffix(name) in TEXTS]
        stems = {Path(name).stem for name in files}
        by_stem: dict[str, list[str]] = {}
        for name in sorted(texts, reverse=True):  # `a.txt` before `a.TXT`
            by_stem.setdefault(Path(name).stem.lower(), []).append(name)
        used = set[str]()
        for name in files:
            path = root / name
            if not path.is_file():
                self._others["links to nothing" if path.is_symlink() else "special files"] += 1
                continue
            mine = _texts_of(name, by_stem.get(Path(name).stem.lower(), ()), stems)
            used.update(mine.values())
            yield Beside(path, {suffix: root / text for suffix, text in mine.items()})
        media = set(files)
        for name in names:
            if name not in media and name not in used:
                suffix = _suffix(name)
                self._others[f".{suffix}" if suffix else "no suffix"] += 1

    def _unreadable(self, error: OSError) -> None:
        self._others[f"folders that cannot be read ({error.strerror})"] += 1


def _texts_of(name: str, texts: Sequence[str], stems: Collection[str]) -> dict[str, str]:
    """The text of each suffix: of the file's stem, or else of it in another case.

    A text that has the stem of another file is not taken.
    """
    stem, found = Path(name).stem, dict[str, str]()
    for text in sorted(texts, key=lambda text: Path(text).stem != stem):
        if Path(text).stem == stem or Path(text).stem not in stems:
            found.setdefault(_suffix(text), text)
    return found


def _suffix(name: str) -> str:
    return Path(name).suffix[1:].lower()


def _identity(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_ino
