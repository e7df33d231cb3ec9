"""The results of an index that is being built, so that a killed build can continue.

One JSON line per clip, appended in one write as soon as the clip has been inspected.
"""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

from data.shards.store import Span


class Journal:
    """Results of clips by their span in the shard, kept in a file until the index is written.

    `head` identifies the shard and the kind of inspection; a file with another head is discarded. A
    line that is truncated by a kill is ignored.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self._path, self._lock = path, threading.Lock()
        self._known: dict[Span, dict[str, Any]] = {}
        first = json.dumps(head).encode()
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        if lines[0] == first:
            for line in lines[1:-1]:
                try:
                    offset, size, figures = json.loads(line)
                except ValueError:
                    continue  # truncated by a full disk: its clip is inspected again
                self._known[offset, size] = figures
            if lines[-1]:
                os.truncate(path, path.stat().st_size - len(lines[-1]))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(first + b"\n")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def get(self, span: Span) -> dict[str, Any] | None:
        """The result of the clip at a span, if it was inspected."""
        return self._known.get(span)

    def add(self, span: Span, figures: dict[str, Any]) -> None:
        """Store the result of a clip; may be called from any thread."""
        with self._lock:
            self._known[span] = figures
            line = json.dumps([*span, figures]).encode() + b"\n"
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, "the disk is full", str(self._path))

    def close(self) -> None:
        """Close the file and keep it."""
        os.close(self._file)

    def remove(self) -> None:
        """Delete the file, once the index is written."""
        self._path.unlink(missing_ok=True)
