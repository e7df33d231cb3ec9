"""The result of a check: a verdict, a figure and its tolerance, notes, tables and videos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from cascade.report import Cell

Verdict = Literal["holds", "fails", "not checked"]
#: The exit status of a proof, by its worst verdict.
STATUS: Mapping[Verdict, int] = {"holds": 0, "not checked": 2, "fails": 1}


class NotCheckedError(Exception):
    """A claim that cannot be checked on this run or machine; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of figures."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""

    def to_json(self) -> list[dict[str, Any]]:
        """One dictionary per row."""
        return [
            {name: _plain(cell) for name, cell in zip(self.columns, row, strict=True)}
            for row in self.rows
        ]


@dataclass(frozen=True, kw_only=True)
class ClaimPictures:
    """Videos in rows and columns; each is shown as its frames side by side."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Float[Tensor, "3 _f _h _w"] | None]]]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of the check of one claim."""

    verdict: Verdict
    figure: str
    tolerance: str
    notes: Sequence[str] = ()
    """The errors found, or why the claim was not checked; then remarks."""
    tables: Sequence[Table] = ()
    pictures: Sequence[ClaimPictures] = ()


def judged(
    wrong: Sequence[str], *, figure: str, tolerance: str, notes: Sequence[str] = (), **shown: Any
) -> Found:
    """The result of a check that holds if `wrong` is empty."""
    return Found(
        verdict="fails" if wrong else "holds",
        figure=figure,
        tolerance=tolerance,
        notes=[*wrong, *notes],
        **shown,
    )


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim with the result of its check."""

    name: str
    statement: str
    found: Found
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The values for `prove.json`."""
        return {
            "claim": self.name,
            "statement": self.statement,
            "verdict": self.found.verdict,
            "figure": self.found.figure,
            "tolerance": self.found.tolerance,
            "notes": list(self.found.notes),
            "tables": [table.to_json() for table in self.found.tables],
            "seconds": round(self.seconds, 2),
        }


@dataclass
class Proof:
    """All claims about one run."""

    stage: str
    run: str
    facts: dict[str, str]
    results: list[ClaimResult] = field(default_factory=list)

    def of(self, verdict: Verdict) -> list[ClaimResult]:
        """The claims with this verdict."""
        return [one for one in self.results if one.found.verdict == verdict]

    @property
    def status(self) -> int:
        """1 if a claim fails, 2 if none fails but one could not be checked, else 0."""
        if self.of("fails"):
            return STATUS["fails"]
        return STATUS["not checked"] if self.of("not checked") else STATUS["holds"]

    def to_json(self) -> dict[str, Any]:
        """The values for `prove.json`."""
        return {
            "stage": self.stage,
            "run": self.run,
            "status": self.status,
            "facts": self.facts,
            "claims": [one.to_json() for one in self.results],
        }


def _plain(cell: object) -> Any:
    if isinstance(cell, Cell):
        return cell.value
    return cell if isinstance(cell, int | float | str | bool | None) else str(cell)
