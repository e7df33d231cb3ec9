"""Samples that failed in training, by key: written down at once, and not tried again."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Failure:
    """A sample that could not be used, and the key of the one that took its place."""

    key: str
    position: int
    reason: str
    replacement: str


class Quarantine:
    """The failures of a run, one JSON object a line in `path`; without a path, in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.failures: dict[str, Failure] = {}
        self.read()

    def read(self) -> None:
        """Take in what the file says by now: the other ranks write to it too."""
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text().splitlines():
                self._keep(line)

    def state_dict(self) -> list[dict[str, Any]]:
        """The failures of all ranks so far."""
        self.read()
        return [asdict(failure) for failure in self.failures.values()]

    def load_state_dict(self, state: list[dict[str, Any]], *, write: bool) -> None:
        """Add those of a checkpoint; with `write` what the file lacks, if it was lost, goes in."""
        for one in state:
            failure = Failure(**one)
            if write:
                self.add(failure)
            else:
                self.failures.setdefault(failure.key, failure)

    def _keep(self, line: str) -> None:
        try:
            failure = Failure(**json.loads(line))
        except (ValueError, TypeError):
            return  # A line that a kill cut short: its sample fails again, and is written again.
        self.failures[failure.key] = failure

    @property
    def keys(self) -> frozenset[str]:
        """The keys that are not tried again."""
        return frozenset(self.failures)

    def add(self, failure: Failure) -> bool:
        """Keep a failure; whether its key is new."""
        if failure.key in self.failures:
            return False
        self.failures[failure.key] = failure
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps(asdict(failure), ensure_ascii=False).encode()
            with self.path.open("ab") as file:
                file.write(b"\n" + line + b"\n")  # begins anew even behind a line cut short
                file.flush()
                os.fsync(file.fileno())
        return True
