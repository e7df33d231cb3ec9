"""The ledger of a shard: every answer, one JSON line each, written as soon as it is received.

It is beside the shard's index and is kept: the file of captions can be rebuilt from it, and it has
the cost of all calls. A line that is truncated by a kill is removed.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.files.lock import acquire


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Token counts of answers; `unmetered` is the number of answers without token counts."""

    answers: int = 0
    prompt: int = 0
    completion: int = 0
    unmetered: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            answers=self.answers + other.answers,
            prompt=self.prompt + other.prompt,
            completion=self.completion + other.completion,
            unmetered=self.unmetered + other.unmetered,
        )

    def cost(self, prices: Mapping[str, float]) -> float:
        """The cost at prices per million `prompt` and `completion` tokens."""
        return (self.prompt * prices["prompt"] + self.completion * prices["completion"]) / 1e6


class Ledger:
    """The ledger of one shard; `captions`, `failed` and `usage` are by recipe.

    With `adding` this process locks the ledger and may `add` lines; others may only read it.

    Raises:
        ValueError: another process has the lock, or a line is invalid.
    """

    def __init__(self, path: Path, *, adding: bool = False) -> None:
        self.path = path
        self.captions: dict[str, dict[str, dict[str, str]]] = {}
        self.failed: dict[str, dict[str, str]] = {}
        self.usage: dict[str, Usage] = {}
        self._file = _locked(path) if adding else None
        data = path.read_bytes() if path.is_file() else b""
        whole = data.rfind(b"\n") + 1
        if self._file is not None and whole < len(data):
            os.truncate(self._file, whole)
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}: line {number} is invalid: {error}; remove this line, or the file"
                ) from error

    def _take(self, line: dict[str, Any]) -> None:
        recipe, key = line["recipe"], line["key"]
        used = Usage(**line.get("usage", {}))
        self.usage[recipe] = self.usage.get(recipe, Usage()) + used
        if "captions" in line:
            self.captions.setdefault(recipe, {})[key] = line["captions"]
            self.failed.get(recipe, {}).pop(key, None)
        elif "failed" in line:
            self.failed.setdefault(recipe, {})[key] = line["failed"]

    def add(self, recipe: str, key: str, *, usage: Usage | None = None, **what: Any) -> None:
        """Add a line: `captions`, the reason why an answer is `bad`, or why a clip `failed`."""
        assert self._file is not None, "the ledger is open for reading only"
        line: dict[str, Any] = {"recipe": recipe, "key": key, **what}
        if usage is not None:
            line["usage"] = {name: count for name, count in vars(usage).items() if count}
        os.write(self._file, json.dumps(line).encode() + b"\n")
        self._take(line)

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _locked(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        acquire(file, busy=f"{path}: another process is captioning this shard; wait for its end")
    except ValueError:
        os.close(file)
        raise
    return file
