"""Samples that failed in training: recorded at once, and not tried again."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Failure:
    """A sample that could not be used, and the name of its replacement.

    `row` identifies it: its number among all samples of the run's data, whose fingerprint a resume
    compares. A key alone may occur in every shard.
    """

    row: int
    shard: str
    key: str
    position: int
    reason: str
    replacement: str


class Quarantine:
    """The failures of a run: one JSON object per line of `path`; without a path, only in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.failures: dict[int, Failure] = {}
        self.read()

    def read(self) -> None:
        """Read the file again: the other ranks write to it too."""
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").split("\n"):
                self._keep(line)

    def state_dict(self) -> list[dict[str, Any]]:
        """The failures of all ranks so far."""
        self.read()
        return [asdict(failure) for failure in self.failures.values()]

    def load_state_dict(self, state: list[dict[str, Any]], *, write: bool) -> None:
        """Add the failures of a checkpoint; with `write` also to the file if it lacks them."""
        for one in state:
            failure = Failure(**one)
            if write:
                self.add(failure)
            else:
                self.failures.setdefault(failure.row, failure)

    def _keep(self, line: str) -> None:
        try:
            failure = Failure(**json.loads(line))
        except (ValueError, TypeError):
            return  # A line truncated by a kill: its sample will fail and be recorded again.
        self.failures[failure.row] = failure

    @property
    def rows(self) -> frozenset[int]:
        """The rows of the failed samples."""
        return frozenset(self.failures)

    def add(self, failure: Failure) -> bool:
        """Record a failure; return whether its row is new."""
        if failure.row in self.failures:
            return False
        self.failures[failure.row] = failure
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps(asdict(failure), ensure_ascii=False).encode()
            with self.path.open("ab") as file:
                file.write(b"\n" + line + b"\n")  # a new line even after a truncated one
                file.flush()
                os.fsync(file.fileno())
        return True
