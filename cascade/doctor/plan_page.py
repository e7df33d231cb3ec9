"""The plan as a page and as a table on the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cascade.doctor.figure import Figure, format_value
from cascade.doctor.findings import Findings, Section
from cascade.report import Cell, Page

LEADS: dict[Section, tuple[str, str]] = {
    "data": (
        "Clips",
        "Samples in the index, clips that suit this stage, and the batches made of them.",
    ),
    "network": ("Parameters", "Counted on torch's meta device, without memory."),
    "step": ("Step", "All ranks together, accumulated batches included."),
    "memory": (
        "Memory per rank",
        "Tensors that exist at the peak of a step. They are counted by running the stage's own "
        "code on torch's meta device, from each tensor's creation to its release.",
    ),
    "time": ("Time", "Without validation, samples and checkpoints."),
    "files": ("Files and caches", "Sizes of the files that the run writes and of its caches."),
}
NO_BREAK = "\N{NO-BREAK SPACE}"
#: The longest value, in characters, that is not broken into lines.
SHORT = 30
#: Figures in large type: section, figure, label.
HEAD: tuple[tuple[Section, str, str], ...] = (
    ("data", "training clips", "training clips"),
    ("network", "all trained", "trained parameters"),
    ("step", "FLOPs per step", "FLOPs per step"),
    ("memory", "needed per rank", "memory per rank"),
    ("time", "training time", "training time"),
)


def write(record: Findings, path: Path) -> Path:
    """Write the page."""
    lead = "This run can start." if not record.errors else "This run cannot train: see the errors."
    page = Page(f"Plan: {record.stage}", lead=lead, facts=record.facts)
    page.section("Summary")
    page.figures(_head(record))
    _advice(page, record)
    for section, (title, lead) in LEADS.items():
        figures = record.figures[section]
        if not figures and not (section == "data" and record.dropped):
            continue
        page.section(title, lead)
        if figures:
            rows = [_row(name, figure) for name, figure in figures.items()]
            page.table(("", "value", "how", "note"), rows)
        if section == "data":
            _data(page, record)
    return page.write(path)


def _row(name: str, figure: Figure) -> tuple[str, str, str, str]:
    """A figure's name, value, origin and note; a value of more than a few words is its note."""
    if len(figure.text) > SHORT:
        return name, "", figure.how, "; ".join(filter(None, (figure.text, figure.note)))
    return name, figure.text.replace(" ", NO_BREAK), figure.how, figure.note


def _head(record: Findings) -> list[tuple[object, str, str]]:
    tiles: list[tuple[object, str, str]] = []
    for section, name, label in HEAD:
        figures = record.figures[section]
        figure = figures.get(name)
        if figure is None and name == "training time":
            figure = figures.get("training time, predicted")
        if figure is None or figure.value is None:
            continue
        note: str = figure.how
        if name == "needed per rank":
            note += f"; {figures['share of device memory'].text} of the device"
        if name == "training clips":
            note += f"; {figures['dropped'].text} dropped"
        tiles.append((figure.text.removesuffix(figure.unit).rstrip(), label, note))
    return tiles


def _advice(page: Page, record: Findings) -> None:
    if not record.advice:
        page.text("No errors and no warnings.")
        return
    rows = [
        (Cell(a.level, "bad" if a.level == "error" else "plain"), a.what, a.way_out or None)
        for a in record.urgent_first
    ]
    page.table(("", "problem", "way out"), rows)


def _data(page: Page, record: Findings) -> None:
    if record.dropped:
        total = record.value("data", "samples")
        rows = [
            (reason, count, format_value(count / total, "share") if total else None)
            for reason, count in sorted(record.dropped.items(), key=lambda item: -item[1])
        ]
        page.table(("reason", "samples", "share"), rows, caption="Dropped samples, counted.")
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
            caption="Buckets, counted: the clips of one shape. A batch has clips of one bucket.",
        )


def show(record: Findings, path: Path) -> None:
    """Print the short table, the advice and the page's path."""
    console = Console(width=100)
    table = Table(title=f"plan of {record.stage} on {record.facts.get('device', 'unknown device')}")
    for column in ("", "", "how"):
        table.add_column(column)
    for section, name, _ in (
        *HEAD,
        ("data", "dropped", ""),
        ("time", "training time, predicted", ""),
        ("time", "share of peak, predicted", ""),
        ("time", "measured / predicted", ""),
        ("time", "run / predicted", ""),
        ("step", "clips per step", ""),
        ("memory", "micro batch that fits", ""),
        ("time", "steps per second", ""),
        ("files", "checkpoints", ""),
    ):
        figure = record.figures[section].get(name)
        if figure is not None and figure.value is not None:
            table.add_row(f"{section}: {name}", figure.text, figure.how)
    console.print(table)
    for name in ("why not more", "raised by"):
        if figure := record.figures["time"].get(name):
            console.print(f"{name}: {figure.text}", markup=False, highlight=False)
    for advice in record.urgent_first:
        colour = {"error": "red", "warning": "yellow"}[advice.level]
        out = f" → {advice.way_out}" if advice.way_out else ""
        console.print(f"[{colour}]{advice.level}[/]: ", end="")
        console.print(f"{advice.what}{out}", markup=False, highlight=False)
    console.print(f"page: {path}", markup=False, highlight=False)
