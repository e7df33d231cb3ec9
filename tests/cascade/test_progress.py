"""A long command shows that it lives, on a terminal and in a log."""

import io
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from cascade.progress import SteadyProgress

COLUMNS = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))


def shown(*, terminal, seconds, every_s=0.05):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80)
    with SteadyProgress(*COLUMNS, console=console, every_s=every_s) as progress:
        task = progress.add_task("sources", total=10, note="3 clips kept")
        progress.advance(task)
        time.sleep(seconds)
        progress.update(task, completed=10)
        time.sleep(seconds)
    return file.getvalue()


def test_a_log_has_a_line_now_and_then_while_a_task_is_unfinished():
    lines = shown(terminal=False, seconds=0.28).splitlines()
    assert set(lines) == {"sources  3 clips kept"}
    assert 2 <= len(lines) <= 7
    assert shown(terminal=False, seconds=0.01, every_s=30) == ""


def test_a_terminal_has_a_bar():
    text = shown(terminal=True, seconds=0.01)
    assert "━" in text
    assert "\x1b" in text
