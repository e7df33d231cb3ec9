"""Rows of measurements: sections with deadlines, a file that keeps every finished row, a table."""

import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

#: Seconds before the end of the call at which its last row is stopped, to print the table.
SPARE_S = 10.0
#: Seconds after that at which the program ends itself, if a row cannot be stopped.
STUCK_S = 6.0
#: Entries of a list that the table shows; the file has all of them.
SHOWN = 3
Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One measurement: its name, and the work that returns its figures."""

    name: str
    work: Callable[[], Figures]


@dataclass(frozen=True)
class Section:
    """Rows under one title, the most valuable first; `share_s` is its part of a call of 480 s."""

    title: str
    share_s: float
    rows: Sequence[Row]


class NotHereError(Exception):
    """A measurement that this machine cannot make, with the reason."""


class LateError(BaseException):
    """Ends a row at its section's deadline; no handler of errors may keep it."""


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def device() -> str:
    """The name of the device that is measured."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


class Rows:
    """The finished rows in a JSON lines file; each is written at once. A cut line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: list[Figures] = []
        lines = path.read_text().split("\n") if path.is_file() else []
        for line in lines:
            with contextlib.suppress(ValueError):
                self.all.append(json.loads(line))
        if lines and lines[-1]:  # the last line was cut short
            path.write_text("".join(json.dumps(row) + "\n" for row in self.all))

    def finished(self, section: str, name: str) -> bool:
        """Whether this device has this row, and it was not stopped by a deadline."""
        mine = (section, name, device())
        return any(
            (row["section"], row["name"], row["device"]) == mine and "late" not in row
            for row in self.all
        )

    def add(self, section: str, name: str, figures: Figures) -> None:
        """Append a row to the file."""
        row = {"section": section, "name": name, "device": device(), **figures}
        self.all.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def measured(work: Callable[[], Figures], until: float) -> Figures:
    """The figures of a row; or why it has none: memory, an error, this machine, the deadline."""
    began = time.monotonic()
    try:
        with alarm(until):
            figures = work()
    except torch.cuda.OutOfMemoryError as error:
        figures = {"out of memory": str(error).partition(". ")[0]}
    except NotHereError as error:
        figures = {"not here": str(error)}
    except LateError:
        figures = {"late": f"stopped by the deadline after {time.monotonic() - began:.0f} s"}
    except Exception as error:  # a row's fault is a row, and the next ones follow
        name = "late" if time.monotonic() >= until else "error"  # some code replaces LateError
        figures = {name: f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    return {**figures, "row_s": round(time.monotonic() - began, 2)}


@contextlib.contextmanager
def alarm(until: float) -> Iterator[None]:
    """Raises LateError inside at a time of `time.monotonic`."""

    def late(*_: Any) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cleared() -> None:
    """Free what a row has left: memory of the device and compiled code."""
    if torch._dynamo.utils.counters:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch._dynamo.utils.compilation_time_metrics.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a broken context fails here, which ends the program
        torch.cuda.empty_cache()


def measure_all(sections: Sequence[Section], rows: Rows, seconds: float) -> None:
    """Measure the missing rows of all sections within `seconds`.

    A section may take its share of the time that is left; what it does not take goes to the later
    ones, and in the end to the rows that had no time.
    """
    end = time.monotonic() + seconds - SPARE_S
    for _ in range(2):
        _measure(missing(sections, rows), rows, end)


def missing(sections: Sequence[Section], rows: Rows) -> list[tuple[Section, list[Row]]]:
    """The sections that have rows to measure, with these."""
    found = [
        (section, [row for row in section.rows if not rows.finished(section.title, row.name)])
        for section in sections
    ]
    return [(section, todo) for section, todo in found if todo]


def _measure(parts: Sequence[tuple[Section, Sequence[Row]]], rows: Rows, end: float) -> None:
    for place, (section, todo) in enumerate(parts):
        shares = [other.share_s for other, _ in parts[place:]]
        until = time.monotonic() + (end - time.monotonic()) * shares[0] / sum(shares)
        for row in todo:
            if time.monotonic() >= until:
                break
            say(f"{end - time.monotonic():6.0f} s left  {section.title}: {row.name}")
            rows.add(section.title, row.name, measured(row.work, until))
            cleared()


@contextlib.contextmanager
def table_at_the_end(rows: Rows, path: Path, seconds: float) -> Iterator[None]:
    """Writes and prints the table when the work inside ends, or at the deadline if it is stuck."""

    def finish() -> None:
        text = table(rows.all)
        path.write_text(text)
        say(text)

    def stuck() -> None:
        finish()
        os._exit(3)

    timer = threading.Timer(seconds - SPARE_S + STUCK_S, stuck)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        finish()


def table(rows: Sequence[Figures]) -> str:
    """The newest rows as Markdown, one table a section; lists of a row follow its table."""
    rows = list({(row["section"], row["name"], row["device"]): row for row in rows}.values())
    parts = []
    titles = dict.fromkeys(row["section"] for row in rows)
    for title in titles:
        mine = [row for row in rows if row["section"] == title]
        plain = [
            {k: v for k, v in r.items() if k != "section" and not isinstance(v, list | dict)}
            for r in mine
        ]
        columns = list(dict.fromkeys(name for row in plain for name in row))
        if len({row["device"] for row in mine}) == 1:
            columns.remove("device")
            title += f" ({mine[0]['device']})"
        lines = [f"### {title}", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(cell(row.get(c)) for c in columns)} |" for row in plain]
        for row in mine:
            lines += [
                f"- {row['name']}, {name}: {listed(value)}"
                for name, value in row.items()
                if isinstance(value, list | dict) and value
            ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def cell(value: Any) -> str:
    """A value in four digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value).replace("|", "/").replace("\n", " ")


def listed(value: Sequence[Any] | Mapping[str, Any]) -> str:
    """The parts of a value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(one)}" for name, one in value.items())
    return "; ".join(
        listed(one) if isinstance(one, list | Mapping) else cell(one) for one in value[:SHOWN]
    )
