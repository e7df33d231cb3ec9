"""Progress of long commands: a bar on a terminal, and a plain line now and then in a log."""

import threading
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


class SteadyProgress(Progress):
    """A progress bar; if its console is no terminal, a line every `every_s` seconds instead.

    The lines come from a thread, so a log shows that the command is alive even while no task moves.
    """

    def __init__(
        self,
        *columns: str | ProgressColumn,
        console: Console | None = None,
        every_s: float = 30.0,
        **options: Any,
    ) -> None:
        console = console or Console(stderr=True)
        self._plain, self._every_s = not console.is_terminal, every_s
        super().__init__(*columns, console=console, disable=self._plain, **options)
        self._ended = threading.Event()

    def start(self) -> None:
        """Show the bar, or start the thread that prints lines."""
        super().start()
        if self._plain:
            threading.Thread(target=self._print_lines, daemon=True).start()

    def stop(self) -> None:
        """Stop showing."""
        self._ended.set()
        super().stop()

    def _print_lines(self) -> None:
        while not self._ended.wait(self._every_s):
            for task in self.tasks:
                if not task.finished:
                    self.console.print(self.line(task), markup=False, highlight=False)

    def line(self, task: Task) -> str:
        """The texts of a task's columns, without its bar."""
        parts = []
        for column in self.columns:
            if isinstance(column, str):
                parts.append(TextColumn(column).render(task).plain)
            elif not isinstance(column, BarColumn):
                shown = column(task)
                parts.append(shown.plain if isinstance(shown, Text) else str(shown))
        return "  ".join(part for part in parts if part)
