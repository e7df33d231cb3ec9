"""The plan as a page and as a table on the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cascade.doctor.figure import said
from cascade.doctor.findings import Findings, Section
from cascade.report import Cell, Page

LEADS: dict[Section, tuple[str, str]] = {
    "data": (
        "Clips",
        "What the index has, what suits this stage, and how it is dealt into batches.",
    ),
    "network": ("Parameters", "Counted on a network without memory."),
    "step": ("A step", "All ranks together, accumulated batches included."),
    "memory": (
        "Memory of a rank",
        "What lives at the highest moment of a step, counted by running the stage's own code "
        "without pixels: every tensor from its birth to its end.",
    ),
    "time": ("Time", "Validation, samples and checkpoints come on top."),
    "files": ("Files and caches", "What the run writes and keeps."),
}
NARROW = "\N{NO-BREAK SPACE}"
#: What stands in large type: section, figure, name.
HEAD: tuple[tuple[Section, str, str], ...] = (
    ("data", "to train on", "clips to train on"),
    ("network", "trained in all", "parameters trained"),
    ("step", "FLOPs per step", "FLOPs per step"),
    ("memory", "needed", "memory of a rank"),
    ("time", "hours", "training"),
)


def write(record: Findings, path: Path) -> Path:
    """Write the page."""
    told = "would train" if not record.errors else "would not train as it is"
    page = Page(f"Plan: {record.stage}", lead=f"This run {told}.", facts=record.facts)
    page.section("At a glance")
    page.figures(_head(record))
    _advice(page, record)
    for section, (title, lead) in LEADS.items():
        figures = record.figures[section]
        if not figures and not (section == "data" and record.dropped):
            continue
        page.section(title, lead)
        if figures:
            rows = [
                (name, f.text.replace(" ", NARROW), f.how, f.note) for name, f in figures.items()
            ]
            page.table(("", "value", "how", "note"), rows)
        if section == "data":
            _data(page, record)
    return page.write(path)


def _head(record: Findings) -> list[tuple[object, str, str]]:
    tiles: list[tuple[object, str, str]] = []
    for section, name, label in HEAD:
        figures = record.figures[section]
        figure = figures.get(name)
        if figure is None and name == "hours":
            figure = figures.get("hours, by FLOPs")
        if figure is None or figure.value is None:
            continue
        note: str = figure.how
        if name == "needed":
            note += f"; {figures['share of the device'].text} of the device"
        if name == "to train on":
            note += f"; {figures['dropped'].text} dropped"
        tiles.append((figure.text.removesuffix(figure.unit).rstrip(), label, note))
    return tiles


def _advice(page: Page, record: Findings) -> None:
    if not record.advice:
        page.text("Nothing is amiss.")
        return
    rows = [
        (Cell(a.level, "bad" if a.level == "error" else "plain"), a.what, a.way_out or None)
        for a in record.urgent_first
    ]
    page.table(("", "what is amiss", "the way out"), rows)


def _data(page: Page, record: Findings) -> None:
    if record.dropped:
        whole = record.value("data", "samples")
        rows = [
            (reason, count, said(count / whole, "share") if whole else None)
            for reason, count in sorted(record.dropped.items(), key=lambda item: -item[1])
        ]
        page.table(("dropped because", "samples", "share"), rows, caption="Dropped, counted.")
    if record.buckets:
        page.table(
            ("bucket", "kind", "clips", "batch", "tokens", "share, %", "unused, %", "cropped, %"),
            [
                (
                    f"{b['frames']}×{b['height']}×{b['width']} @ {b['fps']:g}",
                    b["kind"],
                    b["clips"],
                    b["batch"],
                    b["tokens"],
                    *(round(100 * b[name], 2) for name in ("share", "unused", "cropped")),
                )
                for b in record.buckets
            ],
            caption="Buckets: clips of one shape; a batch is of one bucket. Counted.",
        )


def show(record: Findings, path: Path) -> None:
    """The short table, the advice and where the page is."""
    console = Console(width=100)
    table = Table(title=f"plan of {record.stage} on {record.facts.get('device', 'no device')}")
    for column in ("", "", "how"):
        table.add_column(column)
    for section, name, _ in (
        *HEAD,
        ("data", "dropped", ""),
        ("time", "hours, by FLOPs", ""),
        ("step", "clips per step", ""),
        ("memory", "largest micro batch", ""),
        ("time", "steps per second", ""),
        ("files", "checkpoints", ""),
    ):
        figure = record.figures[section].get(name)
        if figure is not None and figure.value is not None:
            table.add_row(f"{section}: {name}", figure.text, figure.how)
    console.print(table)
    for advice in record.urgent_first:
        colour = {"error": "red", "warning": "yellow"}[advice.level]
        out = f" → {advice.way_out}" if advice.way_out else ""
        console.print(f"[{colour}]{advice.level}[/]: ", end="")
        console.print(f"{advice.what}{out}", markup=False, highlight=False)
    console.print(f"page: {path}", markup=False, highlight=False)
