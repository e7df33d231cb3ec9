"""A file of embeddings in the making: what was written before a kill is not made again."""

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float16

from cascade.files.atomic import write_whole
from cascade.files.lock import acquire
from cascade.text.embeddings import Layout


class PartFile:
    """The rows of a layout, written in order; `done` counts the texts that are on disk.

    The rows go to `.NAME.part`, and how many there are to `.NAME.part.json`, for this very layout;
    `finish` gives the file its name. One process at a time holds it.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.part = part_path(path)
        self._note = self.part.with_name(f"{self.part.name}.json")
        self._head = layout.head()
        self._plan = hashlib.blake2b(self._head, digest_size=16).hexdigest()
        self.done = 0
        self.rows = 0

    def __enter__(self) -> "PartFile":
        """Open or begin it.

        Raises:
            ValueError: another process is at work on it.
        """
        self._file = self.part.open("r+b" if self.part.is_file() else "w+b")
        try:
            acquire(self._file, busy=f"{self.part}: another process makes these embeddings")
        except ValueError:
            self._file.close()
            raise
        whole = self.part.stat().st_size == self.layout.bytes
        said = json.loads(self._note.read_text()) if whole and self._note.is_file() else {}
        if said.get("plan") == self._plan:
            self.done, self.rows = int(said["done"]), int(said["rows"])
        else:
            self._file.truncate(0)
            self._file.write(self._head)
            self._file.truncate(self.layout.bytes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let it go, for this process or another to go on."""
        self._file.close()

    def write(self, rows: Float16[np.ndarray, "rows d"], *, texts: int) -> None:
        """The rows of the next `texts` texts."""
        self._file.seek(len(self._head) + 2 * self.layout.width * self.rows)
        self._file.write(rows.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done, self.rows = self.done + texts, self.rows + len(rows)
        said: dict[str, Any] = {"plan": self._plan, "done": self.done, "rows": self.rows}
        write_whole(self._note, json.dumps(said).encode())

    def finish(self) -> None:
        """All is written."""
        self.part.replace(self.path)
        self._note.unlink()


def part_path(path: Path) -> Path:
    """Where a file of embeddings lies while it is made."""
    return path.with_name(f".{path.name}.part")
