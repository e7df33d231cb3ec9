"""A proof as an HTML page and as a table on the terminal."""

from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table as Terminal
from torch import Tensor

from cascade.proof.found import ClaimResult, Proof, Verdict
from cascade.report import Cell, Film, Page
from cascade.report.sections import Tone

TONES: dict[Verdict, Tone] = {"holds": "good", "fails": "bad", "not checked": "plain"}
PLURAL: dict[Verdict, str] = {
    "holds": "hold",
    "fails": "fail",
    "not checked": "could not be checked",
}
#: The largest number of frames shown of a video, evenly over its length.
SHOWN = 8
#: The width in pixels of a shown video.
SIZE = 280


def write(proof: Proof, path: Path) -> Path:
    """Write the page."""
    page = Page(f"Proof: {proof.stage}", lead=lead(proof), facts=proof.facts)
    page.section("All claims")
    page.table(
        ("claim", "", "figure", "tolerance", "seconds"),
        [
            (
                one.statement,
                Cell(one.found.verdict, TONES[one.found.verdict]),
                one.found.figure,
                one.found.tolerance,
                round(one.seconds, 1),
            )
            for one in proof.results
        ],
    )
    for one in proof.results:
        _section(page, one)
    return page.write(path)


def lead(proof: Proof) -> str:
    """The verdicts on the run in one sentence."""
    counts = {PLURAL[name]: len(proof.of(name)) for name in TONES}
    said = [f"{count} {name}" for name, count in counts.items() if count]
    return f"Of {len(proof.results)} claims about this run {', '.join(said)}."


def _section(page: Page, one: ClaimResult) -> None:
    found = one.found
    page.section(one.name.capitalize(), one.statement)
    verdict = Cell(found.verdict, TONES[found.verdict])
    rows: list[tuple[object, object]] = [("verdict", verdict)]
    rows += [("figure", found.figure), ("tolerance", found.tolerance)]
    page.table(("", ""), [*rows, *(("note", note) for note in found.notes)])
    for table in found.tables:
        page.table(table.columns, table.rows, caption=table.caption)
    for pictures in found.pictures:
        films = [(label, [_film(video) for video in row]) for label, row in pictures.rows]
        page.films(pictures.columns, films, size=SIZE, caption=pictures.caption)


def _film(video: Float[Tensor, "3 f h w"] | None) -> Film | None:
    return None if video is None else Film(strip(video))


def strip(video: Float[Tensor, "3 f h w"]) -> Float[Tensor, "3 1 h wide"]:
    """A video's frames side by side, at most `SHOWN` of them."""
    count = video.shape[1]
    places = [round(i * (count - 1) / max(SHOWN - 1, 1)) for i in range(SHOWN)]
    frames = [video[:, i] for i in dict.fromkeys(places if count > SHOWN else range(count))]
    gap = video.new_ones(3, video.shape[2], 1)
    parts = [part for frame in frames for part in (frame, gap)]
    return torch.cat(parts[:-1], dim=-1).unsqueeze(1)


def show(proof: Proof, path: Path) -> None:
    """Print the claims, the errors found, and the path of the page."""
    console = Console(width=110)
    table = Terminal(title=f"proof of {proof.stage}, run {proof.run}")
    for column in ("claim", "verdict", "figure", "tolerance"):
        table.add_column(column, overflow="fold")
    colours = {"holds": "green", "fails": "red", "not checked": "yellow"}
    for one in proof.results:
        found = one.found
        shown = f"[{colours[found.verdict]}]{found.verdict}[/]"
        table.add_row(one.name, shown, found.figure, found.tolerance)
    console.print(table)
    for (verdict, note), names in _notes(proof).items():
        console.print(f"{verdict}: {', '.join(names)}: {note}", markup=False)
    console.print(f"page: {path}", markup=False, highlight=False)


def _notes(proof: Proof) -> dict[tuple[Verdict, str], list[str]]:
    """The notes of the claims that fail or were not checked, each with the names of its claims."""
    notes: dict[tuple[Verdict, str], list[str]] = {}
    for one in (*proof.of("fails"), *proof.of("not checked")):
        for note in one.found.notes:
            notes.setdefault((one.found.verdict, note), []).append(one.name)
    return notes
