"""An unfinished file of embeddings, which a later process can continue."""

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float16

from cascade.files.atomic import write_atomic
from cascade.files.lock import acquire
from cascade.text.embeddings import Layout


class PartFile:
    """The rows of a layout, written in order; `done` is the number of texts on disk.

    The rows are in `.NAME.part`, their number and a hash of the layout in `.NAME.part.json`;
    `finish` renames the file. Only one process at a time can open it.
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
        """Open or create the file.

        Raises:
            ValueError: another process has it.
        """
        self._file = self.part.open("r+b" if self.part.is_file() else "w+b")
        try:
            busy = f"{self.part}: another process is making these embeddings; wait for its end"
            acquire(self._file, busy=busy)
        except ValueError:
            self._file.close()
            raise
        whole = self.part.stat().st_size == self.layout.bytes
        note = json.loads(self._note.read_text()) if whole and self._note.is_file() else {}
        if note.get("plan") == self._plan:
            self.done, self.rows = int(note["done"]), int(note["rows"])
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
        """Close the file; any process may continue it."""
        self._file.close()

    def write(self, rows: Float16[np.ndarray, "rows d"], *, texts: int) -> None:
        """Write the rows of the next `texts` texts."""
        self._file.seek(len(self._head) + 2 * self.layout.width * self.rows)
        self._file.write(rows.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done, self.rows = self.done + texts, self.rows + len(rows)
        note: dict[str, Any] = {"plan": self._plan, "done": self.done, "rows": self.rows}
        write_atomic(self._note, json.dumps(note).encode())

    def finish(self) -> None:
        """Rename the complete file."""
        self.part.replace(self.path)
        self._note.unlink()


def part_path(path: Path) -> Path:
    """The path of an unfinished file of embeddings."""
    return path.with_name(f".{path.name}.part")
