"""The findings of a plan: figures by section, tables, and advice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cascade.doctor.figure import Figure

Level = Literal["error", "warning"]
Section = Literal["data", "network", "step", "memory", "time", "files"]
SECTIONS: tuple[Section, ...] = ("data", "network", "step", "memory", "time", "files")


@dataclass(frozen=True)
class Advice:
    """A problem and its way out; a run with an error could not start or could not finish."""

    level: Level
    what: str
    way_out: str = ""


@dataclass
class Findings:
    """The plan of one stage."""

    stage: str
    facts: dict[str, str]
    figures: dict[Section, dict[str, Figure]] = field(
        default_factory=lambda: {name: {} for name in SECTIONS}
    )
    dropped: dict[str, int] = field(default_factory=dict)
    buckets: list[dict[str, Any]] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)

    def add(self, section: Section, figures: Mapping[str, Figure]) -> None:
        """Add figures to a section."""
        self.figures[section].update(figures)

    def advise(self, level: Level, what: str, way_out: str = "") -> None:
        """Add an error or a warning."""
        self.advice.append(Advice(level, what, way_out))

    def value(self, section: Section, name: str) -> float | None:
        """A figure's number; None if it has none."""
        figure = self.figures[section].get(name)
        number = figure.value if figure is not None else None
        return number if isinstance(number, int | float) else None

    @property
    def errors(self) -> Sequence[Advice]:
        """The advice of level `error`."""
        return [advice for advice in self.advice if advice.level == "error"]

    @property
    def urgent_first(self) -> Sequence[Advice]:
        """All advice, errors before warnings."""
        return sorted(self.advice, key=lambda advice: advice.level != "error")

    def plain(self) -> dict[str, Any]:
        """The findings as plain values for JSON."""
        return {
            "stage": self.stage,
            "facts": self.facts,
            "sound": not self.errors,
            "advice": [vars(advice) for advice in self.advice],
            **{
                section: {name: figure.plain() for name, figure in figures.items()}
                for section, figures in self.figures.items()
            },
            "dropped": self.dropped,
            "buckets": self.buckets,
        }
